//! `cargo xtask lab`: a region in network namespaces, from the same library that the tests use,
//! with a shell in it. Leaving the shell takes everything down.

mod machines;
mod one;
mod shell;

use std::process::ExitCode;

use clap::Parser;
use tests::region::{Plan, Underlay};

/// Without `--hosts` it is a region of one machine.
#[derive(Parser)]
#[command(name = "lab")]
struct Options {
    /// How many hosts; without it one machine runs `edge up`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    hosts: Option<u8>,
    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 1, requires = "hosts")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=9))]
    gateways: u8,
    /// What is between machines: direct (a link that all share), v4 or v6 (routed)
    #[arg(long, value_name = "KIND", default_value = "direct", requires = "hosts")]
    underlay: Underlay,
    /// The MTU of the underlay, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, requires = "hosts")]
    mtu: u32,
    /// Further arguments: of `edge up`, or with --hosts of `edge gateway`
    #[arg(last = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let Options { hosts, gateways, underlay, mtu, arguments } = Options::parse();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(hosts) = hosts else { return one::run(&arguments) };
    let plan = Plan::over(underlay).hosts(hosts).gateways(gateways).mtu(mtu);
    machines::run(plan.gateway_arguments_more(&arguments))
}
