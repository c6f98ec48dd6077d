//! `bench` and `lab`: programs of this workspace that bring up a region in namespaces of their own
//! around the built `edge`.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, setup, step, workspace::Workspace};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct BenchOptions {
    /// What to ask: raw, i6pn, i6pn_delay, i6pn_packets, decision, live, start, restart, tls, hostile, trace, proxy, proxy_spread; everything if nothing is named
    questions: Vec<String>,
    /// How often everything is measured; each question has a default
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure nothing: draw the plots and write the README's tables from the last results
    #[arg(long)]
    write_readme: bool,
}

/// What the lab's region is like.
#[derive(clap::Args)]
pub(crate) struct LabOptions {
    /// How many hosts; without it one machine runs `edge up`
    #[arg(long, value_name = "N")]
    hosts: Option<u8>,
    /// How many gateways [default: 1]
    #[arg(long, value_name = "N", requires = "hosts")]
    gateways: Option<u8>,
    /// What is between machines: direct (a link that all share), v4 or v6 (routed) [default: direct]
    #[arg(long, value_name = "KIND", requires = "hosts")]
    underlay: Option<String>,
    /// The MTU of the underlay, in bytes [default: 1500]
    #[arg(long, value_name = "BYTES", requires = "hosts")]
    mtu: Option<u32>,
    /// After `--`: arguments of `edge up`, or with --hosts of `edge gateway`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures, prints the tables, and leaves the results under `bench/runs/`.
pub(crate) fn bench(workspace: &Workspace, options: &BenchOptions) -> Result<()> {
    setup::for_bench(workspace)?;
    let mut command = prepared(workspace, "release")?;
    command.env("EDGE_TOOLS", workspace.tools().join("bin"));
    command.args(["run", "--quiet", "--release", "--package", "bench", "--"]);
    command.args(&options.questions);
    if let Some(rounds) = options.rounds {
        command.arg(format!("--rounds={rounds}"));
    }
    if options.write_readme {
        command.arg("--write-readme");
    }
    step::live("benchmarks", "ratios of one interleaved run; the machine should be idle", command)
}

/// Becomes the lab; its shell ends it.
pub(crate) fn lab(workspace: &Workspace, options: &LabOptions) -> Result<()> {
    let mut command = prepared(workspace, "release")?;
    command.args(["run", "--quiet", "--release", "--package", "tests", "--bin", "lab", "--"]);
    command.args(options.words()).arg("--").args(&options.arguments);
    Err(command.exec()).context("the lab cannot be started")
}

impl LabOptions {
    /// Those that were given, as the lab itself reads them.
    fn words(&self) -> Vec<String> {
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let given = [
            ("--hosts", number(self.hosts.map(u32::from))),
            ("--gateways", number(self.gateways.map(u32::from))),
            ("--underlay", self.underlay.clone()),
            ("--mtu", number(self.mtu)),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().collect()
    }
}

fn prepared(workspace: &Workspace, profile: &str) -> Result<Command> {
    setup::run(workspace)?;
    let edge = build::run(workspace, &build::Options { profile: profile.to_owned() })?;
    let mut command = workspace.cargo();
    command.env("EDGE_BIN", edge).env("EDGE_VENV", workspace.venv());
    Ok(command)
}
