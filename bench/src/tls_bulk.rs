//! How many bytes does a server move for a second of its CPU time? A few connections, as fast as
//! the client's core can take or make the bytes.

use anyhow::Result;
use rustls::HandshakeKind;

use crate::{
    report::Report,
    tls_backend::{PIECE, Request},
    tls_client::{Client, Connection, Exchange, ask, receive},
    tls_scene::{Scene, Server},
};

const ROUNDS: usize = 7;
const CONNECTIONS: usize = 4;
/// Bytes over each connection in one round.
const BYTES: u64 = 256 << 20;

/// From the backend to the client.
pub(crate) fn download() -> Result<Report> {
    let request = Request { upload: 0, answer: BYTES, last: false };
    measure("bytes to the client for a second of server CPU, by server", request)
}

/// From the client to the backend.
pub(crate) fn upload() -> Result<Report> {
    let request = Request { upload: BYTES, answer: 1, last: false };
    measure("bytes from the client for a second of server CPU, by server", request)
}

fn measure(question: &'static str, request: Request) -> Result<Report> {
    Scene::new()?.rounds(question, "GB", ROUNDS, |client, server| gigabytes(client, server, request))
}

fn gigabytes(client: &Client, server: &Server, request: Request) -> Result<f64> {
    let visitor = client.full(Exchange::X25519)?;
    let target = &server.target;
    let spent = client.run(async || {
        let mut tasks = tokio::task::JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut tls = visitor.connect(target, HandshakeKind::Full).await?;
            ask(&mut tls, Request { upload: 0, answer: 1, last: false }).await?;
            connections.push(tls);
        }
        let before = server.usage()?.cpu;
        for tls in connections {
            tasks.spawn(transfer(tls, request));
        }
        let mut done = Vec::new();
        while let Some(task) = tasks.join_next().await {
            done.push(task??);
        }
        Ok(server.usage()?.cpu - before)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    let bytes = (BYTES * CONNECTIONS as u64) as f64;
    Ok(bytes / 1e9 / spent.as_secs_f64())
}

async fn transfer(mut tls: Connection, request: Request) -> Result<Connection> {
    use tokio::io::AsyncWriteExt as _;
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
