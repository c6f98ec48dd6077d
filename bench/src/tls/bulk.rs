//! How many bytes a server moves for a second of its CPU time: a few connections, as fast as the
//! client's core can take or make the bytes.

use anyhow::Result;
use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt as _;

use super::{
    backend::{PIECE, Request},
    client::{Client, Connection, Exchange, ask, receive},
    scene::Server,
};

const CONNECTIONS: usize = 4;
/// Bytes over each connection.
const BYTES: u64 = 256 << 20;

/// Gigabytes from the backend to the client.
pub(super) fn download(client: &Client, server: &Server) -> Result<f64> {
    gigabytes(client, server, Request { upload: 0, answer: BYTES, last: false })
}

/// Gigabytes from the client to the backend.
pub(super) fn upload(client: &Client, server: &Server) -> Result<f64> {
    gigabytes(client, server, Request { upload: BYTES, answer: 1, last: false })
}

fn gigabytes(client: &Client, server: &Server, request: Request) -> Result<f64> {
    let visitor = client.full(Exchange::X25519)?;
    let spent = client.run(async || {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut tls = visitor.connect(&server.target, HandshakeKind::Full).await?;
            ask(&mut tls, Request { upload: 0, answer: 1, last: false }).await?;
            connections.push(tls);
        }
        let before = server.usage()?.cpu;
        let transfers = connections.into_iter().map(|tls| transfer(tls, request));
        let connections = futures::future::try_join_all(transfers).await?;
        let spent = server.usage()?.cpu - before;
        drop(connections);
        Ok(spent)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    let bytes = (BYTES * CONNECTIONS as u64) as f64;
    Ok(bytes / 1e9 / spent.as_secs_f64())
}

async fn transfer(mut tls: Connection, request: Request) -> Result<Connection> {
    tls.write_all(&request.bytes()).await?;
    let piece = vec![0; PIECE];
    let mut left = usize::try_from(request.upload)?;
    while left > 0 {
        let amount = left.min(PIECE);
        tls.write_all(&piece[..amount]).await?;
        left -= amount;
    }
    tls.flush().await?;
    receive(&mut tls, request.answer).await?;
    Ok(tls)
}
