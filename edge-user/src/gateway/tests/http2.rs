//! HTTP/2 under a certificate that several tunnels share.

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::lab::{DOMAIN, Lab};
use crate::{gateway::Limits, region::tunnel::TunnelOptions};

fn h2() -> TunnelOptions {
    TunnelOptions { h2: true, ..TunnelOptions::default() }
}

/// A container that speaks HTTP/2 with prior knowledge and tells of each request's authority
/// and of every byte it was sent.
async fn container(listener: TcpListener, requests: mpsc::UnboundedSender<String>) {
    while let Ok((stream, _)) = listener.accept().await {
        let requests = requests.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                requests.send(request.uri().to_string()).unwrap();
                let response = http::Response::new(());
                let mut body = respond.send_response(response, false).unwrap();
                body.send_data(Bytes::from_static(b"mine"), true).unwrap();
            }
        });
    }
}

async fn client(lab: &Lab, label: &str) -> h2::client::SendRequest<Bytes> {
    let stream = lab.connect(label, &["h2"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn get(
    client: &h2::client::SendRequest<Bytes>,
    authority: &str,
) -> Result<http::StatusCode, h2::Error> {
    let mut client = client.clone().ready().await?;
    let uri = format!("https://{authority}/");
    let request = Request::builder().uri(uri).header("cookie", "secret").body(()).unwrap();
    let (response, _) = client.send_request(request, true)?;
    Ok(response.await?.status())
}

#[tokio::test]
async fn a_coalesced_request_never_reaches_the_other_tenant() {
    let lab = Lab::with(Limits::default(), true).await;
    let (tunnel, listener) = lab.tunnel("a", h2()).await;
    let (_other, _other_listener) = lab.tunnel("b", h2()).await;
    let (sender, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(container(listener, sender));
    let client = client(&lab, "a").await;
    for authority in ["a", "A"] {
        let authority = format!("{authority}.{DOMAIN}:443");
        assert_eq!(get(&client, &authority).await.unwrap(), 200);
        requests.recv().await.unwrap();
    }
    let error = get(&client, &format!("b.{DOMAIN}")).await.unwrap_err();
    assert!(error.is_go_away() && error.is_remote(), "{error}");
    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
    assert!(requests.try_recv().is_err());
    lab.counted("edge_h2_refusals_total{reason=\"foreign_authority\"} 1").await;
    assert!(tunnel.stats.last_error().unwrap().contains(&format!("b.{DOMAIN}")));
}

#[tokio::test]
async fn none_of_the_refused_frame_is_forwarded_and_the_goaway_is_whole() {
    let lab = Lab::with(Limits::default(), true).await;
    let (_tunnel, listener) = lab.tunnel("a", h2()).await;
    let mut client = lab.connect("a", &["h2"]).await;
    let (mut container, _) = listener.accept().await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    client.write_all(preface).await.unwrap();
    let mut seen = vec![0; preface.len()];
    container.read_exact(&mut seen).await.unwrap();
    // The container is in the middle of a frame (SETTINGS of six bytes) when it happens.
    container.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x03").await.unwrap();
    client.read_exact(&mut [0; 11]).await.unwrap();
    let authority = format!("b.{DOMAIN}");
    let mut headers = vec![0, 0, (authority.len() + 4) as u8, 1, 5, 0, 0, 0, 1];
    headers.extend([0x82, 0x86, 0x41, authority.len() as u8]);
    headers.extend(authority.as_bytes());
    client.write_all(&headers).await.unwrap();
    container.write_all(b"\0\0\0\x64").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    let (frame, goaway) = rest.split_at(4);
    assert_eq!(frame, b"\0\0\0\x64");
    assert_eq!(goaway[3], 7, "{goaway:?}");
    assert_eq!(goaway[9..17], [0; 8], "no stream was taken, and no error of the client's");
    let mut leaked = Vec::new();
    // However the connection ends, nothing more came over it.
    container.read_to_end(&mut leaked).await.ok();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[tokio::test]
async fn bytes_that_are_no_http2_are_refused_before_the_container_sees_them() {
    let lab = Lab::with(Limits::default(), true).await;
    let (_tunnel, listener) = lab.tunnel("a", h2()).await;
    let mut client = lab.connect("a", &["h2"]).await;
    let (mut container, _) = listener.accept().await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    // SETTINGS comes first, as it must, then GOAWAY with PROTOCOL_ERROR.
    assert_eq!(told[3], 4);
    assert_eq!((told[9 + 3], told[9 + 16]), (7, 1));
    let mut leaked = Vec::new();
    container.read_to_end(&mut leaked).await.unwrap();
    assert!(leaked.is_empty());
}

#[tokio::test]
async fn with_a_certificate_for_each_name_the_authority_is_the_containers_business() {
    let lab = Lab::new().await;
    let (_tunnel, listener) = lab.tunnel("a", h2()).await;
    let (sender, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(container(listener, sender));
    let client = client(&lab, "a").await;
    assert_eq!(get(&client, "my-grpc-service").await.unwrap(), 200);
    assert_eq!(requests.recv().await.unwrap(), "https://my-grpc-service/");
}

#[tokio::test]
async fn many_guarded_requests_and_large_bodies_pass_unharmed() {
    let lab = Lab::with(Limits::default(), true).await;
    let (_tunnel, listener) = lab.tunnel("a", h2()).await;
    let echo = tokio::spawn(async move {
        let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut bytes = 0;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(piece)) = body.data().await {
                    bytes += piece.len();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                }
                let response = http::Response::builder().header("x-bytes", bytes);
                respond.send_response(response.body(()).unwrap(), true).unwrap();
            });
        }
    });
    let client = client(&lab, "a").await;
    for at in 0..50 {
        let request = Request::post(format!("https://a.{DOMAIN}/{at}"))
            .header("x-large", "v".repeat(at * 300))
            .header("x-changing", at.to_string())
            .body(())
            .unwrap();
        let mut ready = client.clone().ready().await.unwrap();
        let (response, mut body) = ready.send_request(request, false).unwrap();
        body.send_data(Bytes::from(vec![1; 20_000]), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-bytes"], "20000");
    }
    echo.abort();
}
