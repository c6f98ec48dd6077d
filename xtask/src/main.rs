//! The only door into this workspace: `cargo xtask setup|build|lint|test|fuzz|run|bench|lab`.

mod build;
mod fuzz;
mod lint;
mod packages;
mod promises;
mod run;
mod scene;
mod setup;
mod step;
mod test;
mod toolchain;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use workspace::Workspace;

fn main() -> ExitCode {
    // Not returned from `main`: a stack trace of this program would hide what it reports.
    match enter(&Door::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn enter(door: &Door) -> Result<()> {
    let workspace = Workspace::find()?;
    match door {
        Door::Setup => setup::run(&workspace),
        Door::Build(options) => build::run(&workspace, options).map(drop),
        Door::Lint(options) => lint::run(&workspace, options),
        Door::Test(options) => test::run(&workspace, options),
        Door::Fuzz(options) => fuzz::run(&workspace, options),
        Door::Run(options) => run::run(&workspace, options),
        Door::Bench(options) => scene::bench(&workspace, options),
        Door::Lab(options) => scene::lab(&workspace, options),
    }
}

/// Everything that is done with this workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Door {
    /// Installs what building and testing need and this machine lacks; says what and why
    Setup,
    /// Builds the BPF object, then `edge` with the object inside it
    Build(build::Options),
    /// Checks format, lints, licences and dependencies
    Lint(lint::Options),
    /// Sets up, lints, builds, and runs every test; needs root
    Test(test::Options),
    /// Builds fuzz targets and runs them; for a while each
    Fuzz(fuzz::Options),
    /// Builds, and shows edge at work on this machine until Ctrl-C; needs root
    ///
    /// Starts `edge up` with a container behind it and a namespace that plays the internet, at
    /// the other end of a veth that is the uplink. The machine's own interfaces are left alone,
    /// and nothing is left behind.
    Run(run::Options),
    /// Sets up, builds, and measures edge beside its alternatives; needs root
    Bench(scene::BenchOptions),
    /// Sets up, builds, and opens a shell in a region made of network namespaces; needs root
    ///
    /// One machine, or with --hosts gateways, hosts, an underlay between them and an internet.
    Lab(scene::LabOptions),
}
