//! What browsers see when there is nothing else to show.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::lab::{DOMAIN, Lab, SOON};
use crate::{gateway::Limits, region::tunnel::TunnelOptions};

async fn told(lab: &Lab, alpn: &[&str], request: &[u8]) -> String {
    let mut client = lab.connect("a", alpn).await;
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_browser_is_told_why_the_container_was_not_reached() {
    let lab = Lab::new().await;
    let tunnel = lab.closed_tunnel("a", TunnelOptions::default());
    let answer = told(&lab, &["http/1.1"], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert!(answer.contains("nothing listens on port 8000"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert!(tunnel.stats.last_error().unwrap().contains("nothing listens on port 8000"));
    lab.counted("edge_dial_errors_total{reason=\"not_listening\"} 1").await;

    let head_only = told(&lab, &[], b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(head_only.starts_with("HTTP/1.1 502 ") && head_only.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_hide_the_page() {
    let lab = Lab::new().await;
    lab.closed_tunnel("a", TunnelOptions::default());
    let client = lab.connect("a", &[]).await;
    let (mut read, mut write) = tokio::io::split(client);
    write
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
        .await
        .unwrap();
    let upload = tokio::spawn(async move {
        let piece = [0; 4000];
        while write.write_all(&piece).await.is_ok() {}
    });
    let mut answer = vec![0; 12];
    read.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 502");
    upload.abort();
}

#[tokio::test]
async fn other_protocols_are_closed_cleanly_and_soon() {
    let lab =
        Lab::with(Limits { first_request: Duration::from_millis(100), ..Limits::default() }, false)
            .await;
    let h2 = TunnelOptions { h2: true, ..TunnelOptions::default() };
    lab.closed_tunnel("a", h2);
    let begun = Instant::now();
    assert_eq!(told(&lab, &["h2"], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
    assert_eq!(told(&lab, &[], b"\0\0\0\x08\x04\xd2\x16\x2f").await, "");
    // One that waits for the server to speak.
    assert_eq!(told(&lab, &[], b"").await, "");
    assert_eq!(told(&lab, &[], b"GE").await, "");
    assert!(begun.elapsed() < SOON);
}

async fn fetched(lab: &Lab, request: &[u8]) -> String {
    let mut client = TcpStream::connect(lab.redirect).await.unwrap();
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let lab = Lab::new().await;
    let (_tunnel, _container) = lab.tunnel("a", TunnelOptions::default()).await;
    let request = format!("GET /x?y=z HTTP/1.1\r\nHost: A.{DOMAIN}:8080\r\n\r\n");
    let answer = fetched(&lab, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    let location = format!("\r\nLocation: https://a.{DOMAIN}:{}/x?y=z\r\n", lab.tls.port());
    assert!(answer.contains(&location), "{answer}");

    let unknown = format!("GET / HTTP/1.1\r\nHost: b.{DOMAIN}\r\n\r\n");
    assert!(fetched(&lab, unknown.as_bytes()).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn plain_http_is_bounded() {
    let limits = Limits { hello: Duration::from_millis(200), ..Limits::default() };
    let lab = Lab::with(limits, false).await;
    assert!(fetched(&lab, b"\x16\x03\x01\x00\x05hello").await.starts_with("HTTP/1.1 400 "));
    assert!(fetched(&lab, b"GET / HTTP/1.1\r\n").await.starts_with("HTTP/1.1 408 "));
    let huge = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 20_000]].concat();
    assert!(fetched(&lab, &huge).await.starts_with("HTTP/1.1 431 "));
}
