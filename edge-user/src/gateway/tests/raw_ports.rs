//! The userspace listener behind the raw ports.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::lab::{Lab, is_reset};
use crate::region::tunnel::TunnelOptions;

fn raw() -> TunnelOptions {
    TunnelOptions { unencrypted: true, ..TunnelOptions::default() }
}

#[tokio::test]
async fn a_raw_client_is_relayed_without_being_read() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", raw()).await;
    let mut client = TcpStream::connect(lab.raw).await.unwrap();
    let (mut container, _) = container.accept().await.unwrap();
    container.write_all(b"SSH-2.0").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    container.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    container.write_all(b"so long").await.unwrap();
    drop(container);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"so long");
    lab.counted("edge_relay_bytes_total{direction=\"out\",path=\"userspace\"} 14").await;
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one_both_ways() {
    let lab = Lab::new().await;
    let (_tunnel, listener) = lab.tunnel("a", raw()).await;

    let client = TcpStream::connect(lab.raw).await.unwrap();
    let (mut container, _) = listener.accept().await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(is_reset(&container.read(&mut [0]).await.unwrap_err()));

    let mut client = TcpStream::connect(lab.raw).await.unwrap();
    let (container, _) = listener.accept().await.unwrap();
    container.set_zero_linger().unwrap();
    drop(container);
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
}

#[tokio::test]
async fn without_a_tunnel_or_a_container_the_client_is_reset() {
    let lab = Lab::new().await;
    let mut stranger = TcpStream::connect(lab.raw).await.unwrap();
    assert!(is_reset(&stranger.read(&mut [0]).await.unwrap_err()));

    let tunnel = lab.closed_tunnel("a", raw());
    let mut client = TcpStream::connect(lab.raw).await.unwrap();
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
    assert!(tunnel.stats.last_error().is_some());
    lab.counted("edge_dial_errors_total{reason=\"not_listening\"} 1").await;
}

#[tokio::test]
async fn the_end_of_a_tunnel_resets_raw_clients_too() {
    let lab = Lab::new().await;
    let (tunnel, container) = lab.tunnel("a", raw()).await;
    let mut client = TcpStream::connect(lab.raw).await.unwrap();
    let (mut container, _) = container.accept().await.unwrap();
    client.write_all(b"x").await.unwrap();
    container.read_exact(&mut [0]).await.unwrap();
    tunnel.ended.cancel();
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
    assert!(is_reset(&container.read(&mut [0]).await.unwrap_err()));
}
