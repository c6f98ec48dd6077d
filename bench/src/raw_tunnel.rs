//! What does a raw TCP tunnel cost? One TCP stream from the internet to a container, through the
//! tunnel, beside the same wire and a namespace that the kernel routes to without edge.

use std::process::Command;

use anyhow::{Context as _, Result};
use tests::{
    lab::Lab,
    netns::NetNs,
    process::{Running, Start as _},
    wire::Wire,
};

use crate::{
    machine::Machine,
    report::{Better, Measure, Report},
};

const SECONDS: &str = "2";
const ROUTED: &str = "198.18.0.2";

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let lab = Lab::new(&[]);
    let server = ["iperf3", "--server", "--port", "8000", "--affinity", "0"];
    let (_container, tunnel) = lab.serve(&["--unencrypted-port", "8000"], 8000, &server);
    let socket = tunnel.tcp.context("the tunnel has no raw socket")?;
    let (address, port) = socket.rsplit_once(':').context("no port in the raw socket")?;
    let routed = Routed::new(&lab, &server);
    let paths = [
        ("kernel routed, no tunnel", &lab.internet, ROUTED, "8000"),
        ("edge, raw tunnel", &lab.internet, address, port),
        ("edge, userspace listener", &lab.machine, "127.0.0.1", port),
    ];
    let mut throughput = Measure::new("one TCP stream", "Gbit/s", Better::More);
    for _ in 0..rounds {
        for (name, from, address, port) in &paths {
            throughput.push(name, gigabits(from, address, port)?);
        }
    }
    drop(routed);
    Ok(Report {
        question: "What does a raw TCP tunnel cost?".to_owned(),
        machine,
        measures: vec![throughput],
    })
}

/// A namespace behind the same machine, reached by plain routing.
struct Routed {
    _server: Running,
    _wire: Wire,
    _namespace: NetNs,
}

impl Routed {
    fn new(lab: &Lab, server: &[&str]) -> Self {
        let namespace = NetNs::new("routed");
        let own = format!("{ROUTED}/24");
        let wire =
            Wire::new(&lab.machine, "plain0", &["198.18.0.1/24"], &namespace, "eth0", &[&own]);
        namespace.ip(&["route", "add", "default", "via", "198.18.0.1"]);
        lab.internet.ip(&["route", "add", "198.18.0.0/24", "via", Lab::PUBLIC]);
        let running = namespace.command(server[0]).args(&server[1..]).running();
        Self { _server: running, _wire: wire, _namespace: namespace }
    }
}

fn gigabits(from: &NetNs, address: &str, port: &str) -> Result<f64> {
    let mut command: Command = from.command("iperf3");
    command.args(["--client", address, "--port", port, "--affinity", "1", "--json"]);
    command.args(["--time", SECONDS, "--length", "1M"]);
    // The one algorithm that a program without CAP_NET_ADMIN may choose anywhere.
    command.args(["--congestion", "reno"]);
    let output = tests::process::wait_for("iperf3", tests::lab::PATIENCE, || {
        let output = command.output_of();
        output.status.success().then_some(output)
    });
    let result: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let bits = result["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 printed no result: {output}"))? / 1e9)
}
