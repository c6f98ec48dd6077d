//! Who is let in, how many at a time, and who goes when too many come.

use std::{net::SocketAddr, time::Duration};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::lab::{DOMAIN, Lab, SOON, is_reset};
use crate::{
    gateway::Limits,
    region::{
        bounds::{Bounds, Rate},
        tunnel::TunnelOptions,
    },
};

fn bounded(bounds: Bounds) -> TunnelOptions {
    TunnelOptions { bounds, ..TunnelOptions::default() }
}

fn raw(options: TunnelOptions) -> TunnelOptions {
    TunnelOptions { unencrypted: true, ..options }
}

/// The alert that ends a client's handshake.
async fn alert(lab: &Lab, label: &str) -> rustls::AlertDescription {
    let error = lab.connect_with(label, lab.client_config(&[]).into()).await.unwrap_err();
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert but: {error}"),
    }
}

async fn denied(lab: &Lab, reason: &str, times: u32) {
    lab.counted(&format!("edge_clients_denied_total{{reason=\"{reason}\"}} {times}")).await;
}

#[tokio::test]
async fn who_is_not_on_the_list_is_told_so_and_the_container_hears_nothing() {
    let lab = Lab::new().await;
    let allow = ["192.0.2.0/24".parse().unwrap()];
    let options = TunnelOptions { allow: allow.into(), ..TunnelOptions::default() };
    let (tunnel, _container) = lab.tunnel("a", raw(options)).await;
    assert_eq!(alert(&lab, "a").await, rustls::AlertDescription::AccessDenied);
    lab.counted("edge_tls_handshakes_total{outcome=\"denied\"} 1").await;
    denied(&lab, "not_allowed", 1).await;
    let mut client = TcpStream::connect(lab.raw).await.unwrap();
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
    denied(&lab, "not_allowed", 2).await;
    let why = tunnel.stats.last_error().unwrap();
    assert!(why.contains("127.0.0.1 is not on the tunnel's list"), "{why}");
    assert_eq!(lab.containers.dialled.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(tunnel.stats.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn connections_are_bounded_and_one_that_ends_makes_room() {
    let lab = Lab::new().await;
    let of_source = Bounds { source_connections: Some(1), ..Bounds::NONE };
    let of_tunnel = Bounds { connections: Some(1), ..Bounds::NONE };
    for (label, bounds, reason) in
        [("a", of_source, "source_connections"), ("b", of_tunnel, "connections")]
    {
        let (_tunnel, container) = lab.tunnel(label, bounded(bounds)).await;
        let first = lab.connect(label, &[]).await;
        let (first_end, _) = container.accept().await.unwrap();
        assert_eq!(alert(&lab, label).await, rustls::AlertDescription::InternalError);
        denied(&lab, reason, 1).await;
        drop((first, first_end));
        lab.counted("edge_relay_connections{path=\"tls\"} 0").await;
        let config = std::sync::Arc::new(lab.client_config(&[]));
        timeout(SOON, async {
            while lab.connect_with(label, config.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the place should be free again");
    }
    // Another tunnel's clients have places of their own.
    let (_other, _container) = lab.tunnel("c", bounded(of_tunnel)).await;
    lab.connect("c", &[]).await;
}

#[tokio::test]
async fn who_comes_too_fast_is_refused() {
    let lab = Lab::new().await;
    let slow = Some(Rate::new(1, 2).unwrap());
    let of_source = Bounds { source_rate: slow, ..Bounds::NONE };
    let of_tunnel = Bounds { tunnel_rate: slow, ..Bounds::NONE };
    for (label, bounds, reason) in
        [("a", of_source, "source_rate"), ("b", of_tunnel, "tunnel_rate")]
    {
        let (_tunnel, _container) = lab.tunnel(label, bounded(bounds)).await;
        let mut refused = false;
        for _ in 0..1000 {
            refused |= lab.connect_with(label, lab.client_config(&[]).into()).await.is_err();
            if refused {
                break;
            }
        }
        assert!(refused, "{reason}");
        denied(&lab, reason, 1).await;
    }
}

#[tokio::test]
async fn the_raw_port_has_a_rate_of_its_own() {
    let lab = Lab::new().await;
    let slow = Some(Rate::new(1, 2).unwrap());
    let raw_rate = Bounds { source_rate_raw: slow, ..Bounds::NONE };
    let (_tunnel, _container) = lab.tunnel("c", raw(bounded(raw_rate))).await;
    for _ in 0..10 {
        // A reset may be there before the connection is.
        TcpStream::connect(lab.raw).await.map(drop).ok();
    }
    let counted = async {
        while lab.metrics().contains("reason=\"source_rate\"} 0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, counted).await.unwrap();
    for _ in 0..3 {
        lab.connect("c", &[]).await;
    }
}

#[tokio::test]
async fn of_unfinished_handshakes_the_oldest_goes_and_who_has_finished_stays() {
    let limits = Limits { handshakes: 4, ..Limits::default() };
    let lab = Lab::with(limits, false).await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut established = lab.connect("a", &[]).await;
    let (mut end, _) = container.accept().await.unwrap();
    // Two are one source's share.
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(lab.tls).await.unwrap();
        client.write_all(&[0x16, 3, 1]).await.unwrap();
        silent.push(client);
    }
    assert!(!matches!(timeout(SOON, silent[0].read(&mut [0])).await.unwrap(), Ok(1)));
    denied(&lab, "source_handshakes", 1).await;
    lab.counted("edge_tls_handshakes_total{outcome=\"displaced\"} 1").await;
    lab.counted("edge_handshakes_unfinished 2").await;
    // A plain HTTP request that is never finished is one, too.
    let mut plain = TcpStream::connect(lab.redirect).await.unwrap();
    plain.write_all(b"GET / HT").await.unwrap();
    assert!(!matches!(timeout(SOON, silent[1].read(&mut [0])).await.unwrap(), Ok(1)));
    // Who has something to say is served meanwhile.
    lab.connect("a", &[]).await;
    established.write_all(b"still here").await.unwrap();
    end.read_exact(&mut [0; 10]).await.unwrap();
    drop((silent, plain));
    lab.counted("edge_handshakes_unfinished 0").await;
}

#[tokio::test]
async fn with_all_files_in_use_one_more_is_reset() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let lab = Lab::with(limits, false).await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut first = lab.connect("a", &[]).await;
    let (mut end, _) = container.accept().await.unwrap();
    let second = lab.connect("a", &[]).await;
    for address in [lab.tls, lab.raw, lab.redirect] {
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(is_reset(&third.read(&mut [0]).await.unwrap_err()));
    }
    denied(&lab, "open_files", 3).await;
    first.write_all(b"x").await.unwrap();
    end.read_exact(&mut [0]).await.unwrap();
    drop(second);
    let config = std::sync::Arc::new(lab.client_config(&[]));
    while lab.connect_with("a", config.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_silent_connection_is_ended_where_the_tunnel_says_so() {
    let lab = Lab::new().await;
    let bounds = Bounds { idle: Some(Duration::from_millis(200)), ..Bounds::NONE };
    let (_tunnel, container) = lab.tunnel("a", bounded(bounds)).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut end, _) = container.accept().await.unwrap();
    // Bytes in either direction keep it.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        end.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }
    assert!(is_reset(&timeout(SOON, client.read(&mut [0])).await.unwrap().unwrap_err()));
    assert!(is_reset(&timeout(SOON, end.read(&mut [0])).await.unwrap().unwrap_err()));
}

#[tokio::test]
async fn the_proxy_header_says_who_the_client_is_before_its_first_byte() {
    let lab = Lab::new().await;
    let options = TunnelOptions { proxy_protocol: true, ..TunnelOptions::default() };
    let (_tunnel, container) = lab.tunnel("a", options).await;
    let mut client = lab.connect("a", &["http/1.1"]).await;
    let (mut end, _) = container.accept().await.unwrap();
    // It comes without the client having said anything, for programs that speak first.
    let mut bytes = vec![0; 16];
    end.read_exact(&mut bytes).await.unwrap();
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    bytes.resize(16 + length, 0);
    end.read_exact(&mut bytes[16..]).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut hello = [0; 5];
    end.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");

    let config = ParseConfig { include_tlvs: true, ..ParseConfig::default() };
    let (header, _) = ProxyHeader::parse(&bytes, config).unwrap();
    let addresses = header.proxied_address().unwrap();
    let local: SocketAddr = client.get_ref().0.local_addr().unwrap();
    assert_eq!((addresses.source, addresses.destination), (local, lab.tls));
    assert_eq!(header.alpn(), Some(&b"http/1.1"[..]));
    assert_eq!(header.authority(), Some(format!("a.{DOMAIN}").as_str()));
    let ssl = header.ssl().unwrap();
    assert!(ssl.client_ssl() && !ssl.client_cert_conn());
    assert_eq!(ssl.version(), Some("TLSv1.3"));
    assert!(ssl.cipher().unwrap().starts_with("TLS_"), "{ssl:?}");
}
