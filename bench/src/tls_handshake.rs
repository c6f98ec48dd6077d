//! What does a TLS connection cost its server? CPU time of one that shakes hands, carries a small
//! request and its answer through to the backend, and is closed by the backend.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustls::HandshakeKind;

use crate::{
    machine::Machine,
    report::{Report, Row},
    tls_client::{Client, Exchange, Target, Visitor},
    tls_scene::{Scene, Server},
};

const ROUNDS: usize = 7;
/// Connections open at a time.
const ABREAST: usize = 16;
/// Connections of one visitor in one round.
const VISITS: usize = 200;

/// With a full handshake.
pub(crate) fn full() -> Result<Report> {
    let scene = Scene::new()?;
    let mut rows: Vec<Row> = scene.servers.iter().map(Server::row).collect();
    let mut default = Row { name: "edge, X25519MLKEM768".to_owned(), samples: Vec::new() };
    for round in 0..=ROUNDS {
        let edge = (&scene.servers[0], &mut default, Exchange::PostQuantum);
        let same = scene.servers.iter().zip(&mut rows);
        let same = same.map(|(server, row)| (server, row, Exchange::X25519));
        for (server, row, exchange) in same.chain([edge]) {
            let visitor = scene.client.full(exchange)?;
            let cost = cost(&scene.client, server, &[visitor; 1], HandshakeKind::Full)?;
            if round > 0 {
                row.samples.push(cost);
            }
        }
    }
    rows.push(default);
    Ok(Report {
        question: "server CPU of one connection with a full handshake, by server",
        unit: "µs",
        machine: Machine::here(),
        rows,
    })
}

/// With a resumed one.
pub(crate) fn resumed() -> Result<Report> {
    let scene = Scene::new()?;
    scene.rounds(
        "server CPU of one connection with a resumed handshake, by server",
        "µs",
        ROUNDS,
        |client, server| {
            let visitors = (0..ABREAST).map(|_| client.resuming());
            let visitors = visitors.collect::<Result<Vec<_>>>()?;
            let target = &server.target;
            client.run(async || {
                for visitor in &visitors {
                    visitor.visit(target, HandshakeKind::Full).await?;
                }
                Ok(())
            })?;
            cost(client, server, &visitors, HandshakeKind::Resumed)
        },
    )
}

/// Microseconds of server CPU for each connection. Each task of those abreast has a visitor of
/// its own, if there are so many.
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
