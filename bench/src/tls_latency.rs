//! How long do requests take over open connections, at the same load for all servers? The 99th
//! percentile of small requests, well below what any of them can carry.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::HandshakeKind;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::{
    report::Report,
    tls_backend::Request,
    tls_client::{Client, Connection, Exchange, ask},
    tls_scene::{Scene, Server},
};

const ROUNDS: usize = 9;
const CONNECTIONS: usize = 50;
/// Between two requests of a connection: 4,000 a second in all.
const PAUSE: Duration = Duration::from_micros(12_500);
/// Requests of a connection in one round.
const REQUESTS: usize = 160;
/// Bytes of an answer.
const ANSWER: u64 = 1024;

/// In microseconds.
pub(crate) fn measure() -> Result<Report> {
    let question = "99th percentile of request times at 4,000 requests a second, by server";
    Scene::new()?.rounds(question, "µs", ROUNDS, p99)
}

fn p99(client: &Client, server: &Server) -> Result<f64> {
    let visitor = client.full(Exchange::X25519)?;
    let mut times = client.run(async || {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(visitor.connect(&server.target, HandshakeKind::Full).await?);
        }
        let mut tasks = tokio::task::JoinSet::new();
        let begin = tokio::time::Instant::now() + Duration::from_millis(50);
        for (number, tls) in (0..).zip(connections) {
            // Spread evenly, so that the load has no waves.
            tasks.spawn(requests(tls, begin + PAUSE * number / CONNECTIONS as u32));
        }
        let mut times = Vec::new();
        while let Some(task) = tasks.join_next().await {
            times.extend(task??);
        }
        Ok(times)
    })?;
    times.sort_unstable();
    let at = times.len() * 99 / 100;
    Ok(times.get(at).context("no requests")?.as_secs_f64() * 1e6)
}

async fn requests(mut tls: Connection, begin: tokio::time::Instant) -> Result<Vec<Duration>> {
    let mut ticks = interval_at(begin, PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        ticks.tick().await;
        let begun = Instant::now();
        ask(&mut tls, Request { upload: 0, answer: ANSWER, last: false }).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
