//! Protocols by ALPN, and sessions that are resumed where they were begun and nowhere else.

use std::sync::{Arc, atomic::Ordering};

use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, crypto::aws_lc_rs, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::Lab;
use crate::{gateway::Limits, region::tunnel::TunnelOptions};

fn h2() -> TunnelOptions {
    TunnelOptions { h2: true, ..TunnelOptions::default() }
}

#[tokio::test]
async fn alpn_matrix() {
    let lab = Lab::new().await;
    let (_one, _plain) = lab.tunnel("plain", TunnelOptions::default()).await;
    let (_two, _h2) = lab.tunnel("h2", h2()).await;
    let cases: [(&str, &[&str], Option<&str>); 10] = [
        ("plain", &[], None),
        ("plain", &["http/1.1"], Some("http/1.1")),
        ("plain", &["h2", "http/1.1"], Some("http/1.1")),
        ("plain", &["h2"], None),
        ("plain", &["postgresql"], None),
        ("h2", &[], None),
        ("h2", &["http/1.1", "h2"], Some("h2")),
        ("h2", &["h2"], Some("h2")),
        ("h2", &["http/1.1"], Some("http/1.1")),
        ("h2", &["postgresql"], None),
    ];
    for (label, offered, agreed) in cases {
        let client = lab.connect(label, offered).await;
        let found = client.get_ref().1.alpn_protocol().map(|bytes| str::from_utf8(bytes).unwrap());
        assert_eq!(found, agreed, "{label} with {offered:?}");
    }
}

fn config(lab: &Lab, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(lab.roots.clone())
        .with_no_client_auth();
    Arc::new(config)
}

/// Talks until the client has its ticket; how the handshake went.
async fn visit(lab: &Lab, label: &str, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut client = lab.connect_with(label, config.clone()).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    client.get_ref().1.handshake_kind().unwrap()
}

async fn echo(listener: tokio::net::TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

#[tokio::test]
async fn a_session_is_resumed_at_its_tunnel() {
    for version in [&version::TLS12, &version::TLS13] {
        let lab = Lab::new().await;
        let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
        tokio::spawn(echo(container));
        let config = config(&lab, version);
        assert_ne!(visit(&lab, "a", &config).await, HandshakeKind::Resumed, "{version:?}");
        assert_eq!(visit(&lab, "a", &config).await, HandshakeKind::Resumed, "{version:?}");
        lab.counted("edge_tls_handshakes_total{outcome=\"resumed\"} 1").await;
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_at_a_later_tunnel_of_the_same_name() {
    for version in [&version::TLS12, &version::TLS13] {
        let lab = Lab::with(Limits::default(), true).await;
        let (old, container) = lab.tunnel("a", TunnelOptions::default()).await;
        tokio::spawn(echo(container));
        let config = config(&lab, version);
        visit(&lab, "a", &config).await;
        old.ended.cancel();
        let (_new, container) = lab.tunnel("a", TunnelOptions::default()).await;
        tokio::spawn(echo(container));
        assert_ne!(visit(&lab, "a", &config).await, HandshakeKind::Resumed, "{version:?}");
    }
}

/// Files every session under one name, as a client would that shows one tunnel's ticket to
/// another.
#[derive(Debug)]
struct OneName(rustls::client::ClientSessionMemoryCache);

mod one_name {
    use rustls::{
        NamedGroup,
        client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
        pki_types::ServerName,
    };

    use super::OneName;

    fn name() -> ServerName<'static> {
        ServerName::try_from("any").unwrap()
    }

    impl ClientSessionStore for OneName {
        fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
            self.0.set_kx_hint(name(), group);
        }
        fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
            self.0.kx_hint(&name())
        }
        fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
            self.0.set_tls12_session(name(), value);
        }
        fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
            self.0.tls12_session(&name())
        }
        fn remove_tls12_session(&self, _: &ServerName<'static>) {
            self.0.remove_tls12_session(&name());
        }
        fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
            self.0.insert_tls13_ticket(name(), value);
        }
        fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
            self.0.take_tls13_ticket(&name())
        }
    }
}

#[tokio::test]
async fn a_session_of_one_tunnel_is_refused_by_another_under_the_same_certificate() {
    for version in [&version::TLS12, &version::TLS13] {
        let lab = Lab::with(Limits::default(), true).await;
        for label in ["a", "b"] {
            let (_tunnel, container) = lab.tunnel(label, TunnelOptions::default()).await;
            tokio::spawn(echo(container));
        }
        let mut config = Arc::unwrap_or_clone(config(&lab, version));
        let store = OneName(rustls::client::ClientSessionMemoryCache::new(32));
        config.resumption = rustls::client::Resumption::store(Arc::new(store));
        let config = Arc::new(config);
        visit(&lab, "a", &config).await;
        assert_eq!(visit(&lab, "a", &config).await, HandshakeKind::Resumed, "{version:?}");
        assert_ne!(visit(&lab, "b", &config).await, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn the_container_is_dialled_while_the_handshake_runs() {
    let lab = Lab::new().await;
    let (tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    // A client that says hello and no more: its handshake never ends.
    let name = tunnel.host.clone().try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(lab.client_config(&[])), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut stream = tokio::net::TcpStream::connect(lab.tls).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    container.accept().await.unwrap();
    assert_eq!(lab.containers.dialled.load(Ordering::Relaxed), 1);
}
