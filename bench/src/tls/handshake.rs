//! CPU time of one connection that shakes hands, carries a small request and its answer through
//! to the backend, and is closed by the backend.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustls::HandshakeKind;

use super::{
    client::{Client, Exchange, Target, Visitor},
    scene::Server,
};

/// Connections open at a time.
const ABREAST: usize = 16;
/// Connections one after the other, each time.
const VISITS: usize = 200;

/// Microseconds with a full handshake.
pub(super) fn full(client: &Client, server: &Server) -> Result<f64> {
    let visitor = client.full(Exchange::X25519)?;
    cost(client, server, &[visitor], HandshakeKind::Full)
}

/// The same with the key exchange that edge prefers.
pub(super) fn default_exchange(client: &Client, server: &Server) -> Result<f64> {
    let visitor = client.full(Exchange::PostQuantum)?;
    cost(client, server, &[visitor], HandshakeKind::Full)
}

/// Microseconds with a resumed one.
pub(super) fn resumed(client: &Client, server: &Server) -> Result<f64> {
    // A session each: a ticket is used once.
    let visitors = (0..ABREAST).map(|_| client.resuming()).collect::<Result<Vec<_>>>()?;
    client.run(async || {
        for visitor in &visitors {
            visitor.visit(&server.target, HandshakeKind::Full).await?;
        }
        Ok(())
    })?;
    cost(client, server, &visitors, HandshakeKind::Resumed)
}

fn cost(
    client: &Client,
    server: &Server,
    visitors: &[Visitor],
    kind: HandshakeKind,
) -> Result<f64> {
    let before = server.usage()?.cpu;
    client.run(async || {
        let mut tasks = tokio::task::JoinSet::new();
        for visitor in visitors.iter().cycle().take(ABREAST) {
            tasks.spawn(visits(visitor.clone(), server.target.clone(), kind));
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    })?;
    let spent = server.usage()?.cpu - before;
    ensure!(spent > Duration::ZERO, "{} used no CPU time", server.name);
    #[expect(clippy::cast_precision_loss, reason = "some thousands of connections")]
    let connections = (ABREAST * VISITS) as f64;
    Ok(spent.as_secs_f64() * 1e6 / connections)
}

async fn visits(visitor: Visitor, to: Target, kind: HandshakeKind) -> Result<()> {
    for _ in 0..VISITS {
        visitor.visit(&to, kind).await?;
    }
    Ok(())
}
