//! How long small requests over open connections take, at the same load for all servers and well
//! below what any of them can carry.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustls::HandshakeKind;
use tokio::time::{MissedTickBehavior, interval_at};

use super::{
    backend::Request,
    client::{Client, Connection, Exchange, ask},
    scene::Server,
};
use crate::summary::percentile;

const CONNECTIONS: u32 = 50;
/// Between two requests of a connection: 4,000 a second in all.
const PAUSE: Duration = Duration::from_micros(12_500);
/// Requests of a connection.
const REQUESTS: usize = 320;
/// Bytes of an answer.
const ANSWER: u64 = 1024;

/// What a load of requests showed.
pub(super) struct Load {
    /// Microseconds that 99 of 100 requests did not exceed.
    pub(super) p99: f64,
    /// Microseconds of server CPU for each request.
    pub(super) cpu: f64,
}

/// Sends requests at a steady pace.
pub(super) fn load(client: &Client, server: &Server) -> Result<Load> {
    let visitor = client.full(Exchange::X25519)?;
    let (mut times, spent) = client.run(async || {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(visitor.connect(&server.target, HandshakeKind::Full).await?);
        }
        let before = server.usage()?.cpu;
        let mut tasks = tokio::task::JoinSet::new();
        let begin = tokio::time::Instant::now() + Duration::from_millis(50);
        for (number, tls) in (0..).zip(connections) {
            // Spread evenly, so that the load has no waves.
            tasks.spawn(requests(tls, begin + PAUSE * number / CONNECTIONS));
        }
        let mut times = Vec::new();
        while let Some(task) = tasks.join_next().await {
            times.extend(task??);
        }
        Ok((times, server.usage()?.cpu - before))
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands of requests")]
    let cpu = spent.as_secs_f64() * 1e6 / times.len() as f64;
    Ok(Load { p99: percentile(&mut times, 0.99), cpu })
}

/// Microseconds of each.
async fn requests(mut tls: Connection, begin: tokio::time::Instant) -> Result<Vec<f64>> {
    let mut ticks = interval_at(begin, PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        ticks.tick().await;
        let begun = Instant::now();
        ask(&mut tls, Request { upload: 0, answer: ANSWER, last: false }).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}
