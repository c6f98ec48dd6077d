//! Every test, in the order in which a failure is cheapest.

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::{build, fuzz, lint, promises, setup, step, workspace::Workspace};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also the tests that take minutes, and a minute of each fuzz target
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains one of these; leaves out the lints
    filters: Vec<String>,
}

/// Prints the summary lines of `cargo test`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "the tests make network namespaces and load BPF programs, which needs root; \
             run: sudo --preserve-env=PATH cargo xtask test"
        );
    }
    setup::run(workspace)?;
    if options.filters.is_empty() {
        lint::run(workspace, &lint::Options { no_deny: false })?;
    }
    // The profile that the tests themselves are built with: half the compiling, and overflow checks.
    let edge = build::run(workspace, &build::Options { profile: "dev".to_owned() })?;

    let mut units = workspace.cargo();
    units.args(["test", "--workspace", "--exclude", "edge-ebpf", "--exclude", "fuzz"]);
    units.args(["--exclude", "tests", "--"]);
    // What a plain `cargo test` leaves out needs the Python environment, which is there by now.
    units.arg("--include-ignored").args(&options.filters);
    units.env("EDGE_MODAL_PYTHON", workspace.venv().join("bin/python"));
    step::live("unit tests", "decisions and formats, without a daemon", units)?;

    promises::run(workspace, &options.filters, |program| {
        program.env("EDGE_BIN", &edge).env("EDGE_VENV", workspace.venv());
        program.env("EDGE_BPF_OBJECT", workspace.bpf_object()).env_remove("EDGE_LONG");
        if options.long {
            program.env("EDGE_LONG", "1");
        }
    })?;
    if options.long && options.filters.is_empty() {
        fuzz::run(workspace, &fuzz::Options { target: None, seconds: 60 })?;
    }
    Ok(())
}
