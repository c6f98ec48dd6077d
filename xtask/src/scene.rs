//! `bench` and `lab`: programs of this workspace that bring up a region in namespaces of their own
//! around the built `edge`.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, setup, step, workspace::Workspace};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct BenchOptions {
    /// What to ask: raw, decision, live, start, restart, tls, hostile; everything if nothing is named
    questions: Vec<String>,
    /// How often everything is measured; each question has a default
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure nothing: draw the plots and write the README's tables from the last results
    #[arg(long)]
    write_readme: bool,
}

/// What the lab's daemon is told.
#[derive(clap::Args)]
pub(crate) struct LabOptions {
    /// Arguments of `edge up`, after `--`
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
    command.args(&options.arguments);
    Err(command.exec()).context("the lab cannot be started")
}

fn prepared(workspace: &Workspace, profile: &str) -> Result<Command> {
    setup::run(workspace)?;
    let edge = build::run(workspace, &build::Options { profile: profile.to_owned() })?;
    let mut command = workspace.cargo();
    command.env("EDGE_BIN", edge).env("EDGE_VENV", workspace.venv());
    Ok(command)
}
