//! Bytes both ways: order, ends, resets and bounds.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::lab::{Lab, SOON, is_reset};
use crate::{gateway::Limits, region::tunnel::TunnelOptions};

#[tokio::test]
async fn a_server_may_speak_first_and_bytes_are_counted_as_they_flow() {
    let lab = Lab::new().await;
    let (tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    container.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
    client.write_all(b"EHLO").await.unwrap();
    container.read_exact(&mut [0; 4]).await.unwrap();
    lab.counted("edge_relay_bytes_total{direction=\"in\",path=\"tls\"} 4").await;
    lab.counted("edge_relay_bytes_total{direction=\"out\",path=\"tls\"} 9").await;
    lab.counted("edge_relay_connections{path=\"tls\"} 1").await;
    assert_eq!(tunnel.stats.bytes_in.load(Ordering::Relaxed), 4);
    assert_eq!(tunnel.stats.bytes_out.load(Ordering::Relaxed), 9);
    assert_eq!(tunnel.stats.connections.load(Ordering::Relaxed), 1);
    drop((client, container));
    lab.counted("edge_relay_connections{path=\"tls\"} 0").await;
}

#[tokio::test]
async fn a_client_may_stop_speaking_and_still_listen() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut container, _) = container.accept().await.unwrap();
    let mut question = Vec::new();
    container.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    container.write_all(b"answer").await.unwrap();
    drop(container);
    let mut answer = Vec::new();
    // Ok only with close_notify: the end is the container's, not an accident.
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn a_container_may_stop_speaking_and_still_listen() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    container.write_all(b"go on").await.unwrap();
    container.shutdown().await.unwrap();
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"go on");
    client.write_all(b"and on").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    container.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"and on");
}

#[tokio::test]
async fn a_client_that_closes_without_close_notify_has_ended_its_stream() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    client.write_all(b"all of it").await.unwrap();
    client.flush().await.unwrap();
    let (mut stream, _) = client.into_inner();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    container.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"all of it");
}

#[tokio::test]
async fn a_container_that_breaks_is_not_a_clean_end() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    container.write_all(b"half an ans").await.unwrap();
    let mut said = [0; 11];
    client.read_exact(&mut said).await.unwrap();
    container.set_zero_linger().unwrap();
    drop(container);
    let end = client.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn the_end_of_a_tunnel_resets_both_sides() {
    let lab = Lab::new().await;
    let (tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    client.write_all(b"x").await.unwrap();
    container.read_exact(&mut [0]).await.unwrap();
    tunnel.ended.cancel();
    assert!(is_reset(&container.read(&mut [0]).await.unwrap_err()));
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
}

#[tokio::test]
async fn draining_lets_connections_finish_and_resets_the_rest() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    assert_eq!(lab.gateway.drain(Duration::from_millis(50)).await, 1);
    assert!(is_reset(&container.read(&mut [0]).await.unwrap_err()));
    assert!(is_reset(&client.read(&mut [0]).await.unwrap_err()));
    assert_eq!(lab.gateway.drain(SOON).await, 0);
}

#[tokio::test]
async fn a_half_closed_and_silent_connection_is_given_up() {
    let limits = Limits { half_closed_idle: Duration::from_millis(100), ..Limits::default() };
    let lab = Lab::with(limits, false).await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut open = lab.connect("a", &[]).await;
    let (mut open_end, _) = container.accept().await.unwrap();
    let mut half = lab.connect("a", &[]).await;
    let (mut half_end, _) = container.accept().await.unwrap();
    half.shutdown().await.unwrap();
    assert_eq!(half_end.read(&mut [0]).await.unwrap(), 0);
    // Bytes keep it alive beyond the limit.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        half_end.write_all(b"x").await.unwrap();
        half.read_exact(&mut [0]).await.unwrap();
    }
    let end = timeout(SOON, half_end.read(&mut [0])).await.unwrap();
    drop(end);
    assert!(timeout(SOON, half.read(&mut [0])).await.unwrap().is_err());
    // One that is open both ways has no such limit.
    open.write_all(b"x").await.unwrap();
    open_end.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer() {
    let lab = Lab::new().await;
    let (tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (mut container, _) = container.accept().await.unwrap();
    let piece = vec![7; 1 << 20];
    let mut sent = 0_usize;
    while let Ok(written) = timeout(Duration::from_millis(300), container.write(&piece)).await {
        sent += written.unwrap();
        // The kernel's buffers are large; the relay must not add to them without end.
        assert!(sent < 64 << 20, "nothing stops the writer");
    }
    let taken = tunnel.stats.bytes_out.load(Ordering::Relaxed) as usize;
    assert!(taken <= sent);
    drop(container);
    let mut received = 0;
    let mut target = vec![0; 1 << 16];
    loop {
        match timeout(SOON, client.read(&mut target)).await.unwrap().unwrap() {
            0 => break,
            amount => received += amount,
        }
    }
    assert_eq!(received, sent);
}

#[tokio::test]
async fn a_client_that_goes_while_both_sides_are_full_ends_the_connection() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let mut client = lab.connect("a", &[]).await;
    let (container, _) = container.accept().await.unwrap();
    // Gives back what it is sent, and reads no more before that is taken.
    let (mut reader, mut writer) = container.into_split();
    let echo = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await });
    let piece = vec![7; 1 << 20];
    while timeout(Duration::from_millis(300), client.write(&piece)).await.is_ok() {}
    drop(client);
    // How the echo sees it end is the kernel's business.
    timeout(SOON, echo).await.expect("an end").unwrap().ok();
    lab.counted("edge_relay_connections{path=\"tls\"} 0").await;
}

#[tokio::test]
async fn megabytes_arrive_as_they_were_sent() {
    let lab = Lab::new().await;
    let (_tunnel, container) = lab.tunnel("a", TunnelOptions::default()).await;
    let client = lab.connect("a", &[]).await;
    let (container, _) = container.accept().await.unwrap();
    let bytes: Vec<u8> =
        (0..8_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut container_read, mut container_write) = container.into_split();
    let send_in = async { client_write.write_all(&bytes).await.and(client_write.shutdown().await) };
    let send_out =
        async { container_write.write_all(&bytes).await.and(container_write.shutdown().await) };
    let (mut heard_in, mut heard_out) = (Vec::new(), Vec::new());
    let (one, two, three, four) = tokio::join!(
        send_in,
        send_out,
        container_read.read_to_end(&mut heard_in),
        client_read.read_to_end(&mut heard_out)
    );
    one.and(two).unwrap();
    three.and(four).unwrap();
    assert!(heard_in == bytes && heard_out == bytes);
}
