//! Format, lints, licences and dependencies.

use std::process::Command;

use anyhow::Result;

use crate::{build, setup, step, tools::CARGO_DENY, workspace::Workspace};

/// What to check.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Skip `cargo deny`, which reads every dependency's licence
    #[arg(long)]
    pub(crate) no_deny: bool,
}

/// Stops at the first complaint.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut format = workspace.cargo();
    format.args(["fmt", "--all", "--check"]);
    step::run("format", "one style; `cargo fmt` mends it", format)?;

    // Clippy compiles edge-user, which embeds the object.
    let toolchain = setup::for_build(workspace)?;
    build::bpf(workspace, &toolchain)?;
    let mut clippy = workspace.cargo();
    // Not `fuzz`: nothing but one line a target, and a C++ library.
    clippy.args(["clippy", "--workspace", "--exclude", "edge-ebpf", "--exclude", "fuzz"]);
    clippy.arg("--all-targets");
    clippy.args(["--", "-D", "warnings"]);
    step::run("clippy", "userspace, warnings refused", clippy)?;

    match toolchain.clippy() {
        Some(mut clippy) => {
            clippy.args(build::arguments()).arg("--target-dir").arg(workspace.bpf());
            clippy.args(["--", "-D", "warnings"]).current_dir(&workspace.root);
            clippy.env("CARGO_ENCODED_RUSTFLAGS", build::rustflags().join("\x1f"));
            step::run("clippy", "the BPF half, warnings refused", clippy)?;
        }
        None => step::note(
            "clippy",
            &format!("{} has none: the BPF half is not linted", toolchain.name),
        ),
    }

    if !options.no_deny {
        CARGO_DENY.ensure(workspace)?;
        let mut deny = Command::new(workspace.tool("cargo-deny"));
        // Not the advisories: they come from a repository that not every machine reaches.
        deny.args(["check", "bans", "licenses", "sources"]).current_dir(&workspace.root);
        step::run("deny", "licences, duplicates and sources of dependencies", deny)?;
    }
    Ok(())
}
