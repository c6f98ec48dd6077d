//! What does a TLS tunnel cost? edge beside nginx's stream module, haproxy and hitch: the same
//! certificate, TLS 1.3, the same cipher suite and key exchange, one worker on one core.

mod backend;
mod bulk;
mod client;
mod cores;
mod handshake;
mod idle;
mod latency;
mod peers;
mod scene;
mod usage;

use anyhow::{Context as _, Result};

use crate::{
    machine::Machine,
    report::{Better, Measure, Report},
};
use scene::Scene;

/// edge as it is without the benchmark's restriction to one key exchange.
const DEFAULT_EXCHANGE: &str = "edge, X25519MLKEM768";

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    idle::allow_many_files()?;
    let mut full = Measure::new("CPU of a full handshake", "µs", Better::Less);
    let mut resumed = Measure::new("of a resumed one", "µs", Better::Less);
    let mut download = Measure::new("bytes to the client", "GB per CPU second", Better::More);
    let mut upload = Measure::new("from the client", "GB per CPU second", Better::More);
    let mut memory = Measure::new("memory of an idle connection", "KiB", Better::Less);
    let mut p99 = Measure::new("p99 at 4,000 requests/s", "µs", Better::Less);
    let mut request = Measure::new("CPU of a request", "µs", Better::Less);
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        // New servers each round: a heap that was used before hides what connections take.
        let scene = Scene::new()?;
        scene.each(|client, server| {
            memory.push(server.name, idle::kib(client, server)?);
            Ok(())
        })?;
        scene.each(|client, server| {
            full.push(server.name, handshake::full(client, server)?);
            Ok(())
        })?;
        let cost = handshake::default_exchange(&scene.client, &scene.servers[0]);
        full.push(DEFAULT_EXCHANGE, cost.context(DEFAULT_EXCHANGE)?);
        scene.each(|client, server| {
            resumed.push(server.name, handshake::resumed(client, server)?);
            Ok(())
        })?;
        scene.each(|client, server| {
            download.push(server.name, bulk::download(client, server)?);
            Ok(())
        })?;
        scene.each(|client, server| {
            upload.push(server.name, bulk::upload(client, server)?);
            Ok(())
        })?;
        scene.each(|client, server| {
            let load = latency::load(client, server)?;
            p99.push(server.name, load.p99);
            request.push(server.name, load.cpu);
            Ok(())
        })?;
    }
    Ok(Report {
        question: "What does a TLS tunnel cost its gateway?".to_owned(),
        machine,
        measures: vec![full, resumed, download, upload, memory, p99, request],
    })
}
