//! What does a raw TCP tunnel cost? The same client and server through the tunnel, through a plain
//! router, through DNAT, and through userspace proxies and tunnels.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::process::Start as _;

use crate::{
    cpu::{self, Busy},
    field::{self, Field, Path},
    load,
    machine::Machine,
    report::{Better, Measure, Report},
    summary::percentile,
};

/// Seconds of one stream.
const STREAM: &str = "2";
/// Time for small requests.
pub(crate) const WHILE: Duration = Duration::from_secs(1);
/// Connections at once, where there are several.
pub(crate) const MANY: usize = 16;

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let field = Field::new()?;
    let mut measures = [
        Measure::new("one stream", "Gbit/s", Better::More),
        Measure::new("CPU of the whole machine", "s/GB", Better::Less),
        Measure::new("round trips, 1 connection", "1/s", Better::More),
        Measure::new("their p99", "µs", Better::Less),
        Measure::new("round trips, 16 connections", "1/s", Better::More),
        Measure::new("p99 of these", "µs", Better::Less),
        Measure::new("new connections", "1/s", Better::More),
    ];
    field::interleaved(rounds, field.paths.iter(), &mut measures, once)?;
    Ok(Report {
        question: "What does a raw TCP tunnel cost?".to_owned(),
        machine,
        measures: measures.into(),
    })
}

/// One round of one path, in the order of the measures.
fn once(path: &Path) -> Result<[f64; 7]> {
    let Bulk { gigabits, cpu, .. } = bulk(path, &[])?;
    let single = load::round_trips(&path.from, path.echo, 1, WHILE)?;
    let many = load::round_trips(&path.from, path.echo, MANY, WHILE)?;
    let new = load::new_connections(&path.from, path.echo, MANY, WHILE)?;
    Ok([gigabits, cpu, single.rate, single.p99, many.rate, many.p99, new])
}

/// What one run of iperf3 had.
pub(crate) struct Bulk {
    /// Gbit/s.
    pub(crate) gigabits: f64,
    /// The same while nothing else was on the machine's processors: what the best tenth of its
    /// tenths of a second had at least. Other tenants of a shared machine halve its speed for a
    /// second or two at a time, so that a mean mostly says how often they did.
    pub(crate) undisturbed: f64,
    /// CPU seconds of the whole machine for each gigabyte.
    pub(crate) cpu: f64,
}

/// One stream, unless further arguments of iperf3's client make it several.
pub(crate) fn bulk(path: &Path, further: &[&str]) -> Result<Bulk> {
    let (address, port) = (path.bulk.ip().to_string(), path.bulk.port().to_string());
    let (mut command, _configuration) = path.iperf3()?;
    command.args(["--client", &address, "--port", &port, "--json"]);
    command.args(["--affinity", &cpu::CLIENT.to_string(), "--interval", "0.1"]);
    // With small writes two CPUs measure the scheduler.
    command.args(["--time", STREAM, "--length", "1M"]).args(further);
    let (output, result, busy) = tests::process::wait_for("iperf3", tests::lab::PATIENCE, || {
        let busy = Busy::start().ok()?;
        let output = command.output_of();
        let busy = busy.time();
        let result: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
        // The server refuses while it closes its last test, which iperf3 may call a success.
        let done = output.status.success() && result["error"].is_null();
        done.then_some((output, result, busy))
    });
    let received = &result["end"]["sum_received"];
    let field = |name: &str| {
        received[name].as_f64().with_context(|| format!("iperf3 printed no {name}: {output}"))
    };
    let gigabytes = field("bytes")? / 1e9;
    let parts = result["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sums = parts.iter().map(|part| &part["sum"]).filter(|sum| sum["omitted"] == false);
    let mut rates: Vec<_> = sums.filter_map(|sum| sum["bits_per_second"].as_f64()).collect();
    Ok(Bulk {
        gigabits: field("bits_per_second")? / 1e9,
        undisturbed: percentile(&mut rates, 0.9) / 1e9,
        cpu: busy?.as_secs_f64() / gigabytes,
    })
}
