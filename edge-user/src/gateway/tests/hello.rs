//! ClientHellos of every shape, and those that are refused.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, NamedGroup, crypto::aws_lc_rs, pki_types::ServerName,
};
use tokio::{io::AsyncWriteExt, task::spawn_blocking};

use super::lab::{DOMAIN, Lab, SOON};
use crate::{gateway::Limits, region::tunnel::TunnelOptions};

const UNRECOGNIZED_NAME: &[u8] = &[0x15, 3, 3, 0, 2, 2, 112];

/// Completes a handshake whose hello is sent piece by piece, and reads what the container says.
fn greet(gateway: SocketAddr, config: ClientConfig, cut: fn(Vec<u8>) -> Vec<Vec<u8>>) -> Vec<u8> {
    let name = ServerName::try_from(format!("a.{DOMAIN}")).unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut stream = StdStream::connect(gateway).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    for piece in cut(hello) {
        stream.write_all(&piece).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    let mut said = Vec::new();
    rustls::Stream::new(&mut tls, &mut stream).read_to_end(&mut said).unwrap();
    said
}

/// The hello of one record as several records of `length` bytes each (RFC 8446, section 5.1).
fn records(hello: &[u8], length: usize) -> Vec<u8> {
    let (head, message) = hello.split_at(5);
    assert_eq!(usize::from(u16::from_be_bytes([head[3], head[4]])), message.len());
    let mut out = Vec::new();
    for part in message.chunks(length) {
        out.extend_from_slice(&head[..3]);
        out.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

async fn greeted(change: impl FnOnce(&mut ClientConfig), cut: fn(Vec<u8>) -> Vec<Vec<u8>>) {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut config = lab.client_config(&[]);
    change(&mut config);
    let client = spawn_blocking(move || greet(lab.tls, config, cut));
    let (mut container, _) = container.accept().await.unwrap();
    container.write_all(b"hello to you").await.unwrap();
    drop(container);
    assert_eq!(client.await.unwrap(), b"hello to you");
    lab.counted("edge_tls_handshakes_total{outcome=\"full\"} 1").await;
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    greeted(|_| {}, |hello| hello.into_iter().map(|byte| vec![byte]).collect()).await;
}

#[tokio::test]
async fn a_post_quantum_hello_may_come_in_two_segments() {
    let cut = |hello: Vec<u8>| {
        assert!(hello.len() > 1200, "{} bytes are no post-quantum hello", hello.len());
        hello.chunks(700).map(<[u8]>::to_vec).collect()
    };
    let only_hybrid = |config: &mut ClientConfig| {
        let groups = &config.crypto_provider().kx_groups;
        assert_eq!(groups[0].name(), NamedGroup::X25519MLKEM768);
    };
    greeted(only_hybrid, cut).await;
}

#[tokio::test]
async fn a_hello_may_be_split_over_records() {
    greeted(|_| {}, |hello| vec![records(&hello, 100)]).await;
    greeted(|_| {}, |hello| records(&hello, 1).chunks(997).map(<[u8]>::to_vec).collect()).await;
}

#[tokio::test]
async fn tls_1_2_is_served() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(lab.roots.clone())
        .with_no_client_auth();
    let client = spawn_blocking(move || greet(lab.tls, config, |hello| vec![hello]));
    container.accept().await.unwrap().0.write_all(b"old").await.unwrap();
    assert_eq!(client.await.unwrap(), b"old");
}

#[tokio::test]
async fn a_name_in_capitals_is_the_same_name() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let name = ServerName::try_from(format!("A.{}", DOMAIN.to_uppercase())).unwrap();
    let stream = tokio::net::TcpStream::connect(lab.tls).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(lab.client_config(&[])));
    connector.connect(name, stream).await.unwrap();
    container.accept().await.unwrap();
}

/// Sends `hello` and returns everything the gateway answers until it closes.
async fn answer_to(gateway: SocketAddr, hello: Vec<u8>) -> Vec<u8> {
    spawn_blocking(move || {
        let mut stream = StdStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&hello).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

fn hello_for(lab: &Lab, name: ServerName<'static>) -> Vec<u8> {
    let mut tls = ClientConnection::new(Arc::new(lab.client_config(&[])), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn an_unknown_or_missing_name_gets_the_alert_and_nothing_else() {
    let lab = Lab::new().await;
    let unknown = hello_for(&lab, ServerName::try_from(format!("b.{DOMAIN}")).unwrap());
    assert_eq!(answer_to(lab.tls, unknown).await, UNRECOGNIZED_NAME);
    lab.counted("edge_tls_handshakes_total{outcome=\"unknown_name\"} 1").await;
    // An address is not sent as a name.
    let nameless = hello_for(&lab, ServerName::try_from("127.0.0.1").unwrap());
    assert_eq!(answer_to(lab.tls, nameless).await, UNRECOGNIZED_NAME);
    lab.counted("edge_tls_handshakes_total{outcome=\"no_name\"} 1").await;
}

#[tokio::test]
async fn an_ended_tunnel_is_an_unknown_name() {
    let lab = Lab::new().await;
    let (tunnel, _container) = lab.tunnel("a", TunnelOptions::default()).await;
    tunnel.ended.cancel();
    let hello = hello_for(&lab, ServerName::try_from(tunnel.host.clone()).unwrap());
    assert_eq!(answer_to(lab.tls, hello).await, UNRECOGNIZED_NAME);
}

#[tokio::test]
async fn plain_http_gets_an_alert() {
    let lab = Lab::new().await;
    let answer = answer_to(lab.tls, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()).await;
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
    lab.counted("edge_tls_handshakes_total{outcome=\"malformed\"} 1").await;
}

#[tokio::test]
async fn a_hello_without_end_is_cut_off() {
    let lab = Lab::new().await;
    let mut hello = vec![1, 0, 0xff, 0xff, 3, 3];
    hello.resize(2000, 0);
    let head = [0x16, 3, 1, (hello.len() >> 8) as u8, (hello.len() & 0xff) as u8];
    let record = [&head[..], &hello].concat();
    // One byte to a record: six on the wire for each of the hello.
    let crumbs = records(&record, 1);
    let gateway = lab.tls;
    let sent = spawn_blocking(move || {
        let mut stream = StdStream::connect(gateway).unwrap();
        let tail = records(&[&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat(), 1);
        stream.write_all(&crumbs).and_then(|()| stream.write_all(&tail)).and_then(|()| {
            stream.set_read_timeout(Some(SOON))?;
            stream.read(&mut [0; 16])
        })
    });
    let answer = sent.await.unwrap();
    assert!(!matches!(answer, Ok(1..)), "{answer:?}");
    lab.counted("edge_tls_handshakes_total{outcome=\"too_long\"} 1").await;
}

#[tokio::test]
async fn a_slow_hello_meets_its_deadline() {
    let limits = Limits { hello: Duration::from_millis(200), ..Limits::default() };
    let lab = Lab::with(limits, false).await;
    let begun = Instant::now();
    let answer = answer_to(lab.tls, vec![0x16, 3, 1]).await;
    assert!(answer.is_empty());
    assert!(begun.elapsed() < SOON);
    lab.counted("edge_tls_handshakes_total{outcome=\"timeout\"} 1").await;
}
