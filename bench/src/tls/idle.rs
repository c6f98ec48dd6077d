//! Memory of an open, silent connection that has shaken hands and had one answer. The kernel's
//! memory for sockets comes on top, two sockets each for all servers.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::HandshakeKind;

use super::{
    backend::Request,
    client::{Client, Connection, Exchange, ask},
    scene::Server,
};

const CONNECTIONS: usize = 2000;
/// Connections made and closed before the first look, so that what is made once is there.
const WARM_UP: usize = 50;
/// Bytes of the answer.
const ANSWER: u64 = 16 * 1024;
/// How long allocators may take to give back what they will.
const SETTLE: Duration = Duration::from_secs(3);

/// KiB for each connection.
pub(super) fn kib(client: &Client, server: &Server) -> Result<f64> {
    drop(client.run(async || open(client, server, WARM_UP).await)?);
    thread::sleep(SETTLE);
    let before = server.usage()?.pss;
    let after = client.run(async || {
        let open = open(client, server, CONNECTIONS).await?;
        tokio::time::sleep(SETTLE).await;
        let after = server.usage()?.pss;
        drop(open);
        Ok(after)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some megabytes in KiB")]
    Ok((after as f64 - before as f64) / CONNECTIONS as f64)
}

/// Lets this process and the servers that it starts have as many open files as they may.
pub(super) fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("the limit on open files")
}

async fn open(client: &Client, server: &Server, amount: usize) -> Result<Vec<Connection>> {
    let visitor = client.full(Exchange::X25519)?;
    let request = Request { upload: 0, answer: ANSWER, last: false };
    let mut open = Vec::with_capacity(amount);
    for _ in 0..amount {
        let mut tls = visitor.connect(&server.target, HandshakeKind::Full).await?;
        ask(&mut tls, request).await?;
        open.push(tls);
    }
    Ok(open)
}
