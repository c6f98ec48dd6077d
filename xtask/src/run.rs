//! Starts `edge up` from this source tree.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{build, setup, workspace::Workspace};

/// What to start.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments of `edge up`, after `--`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Becomes `edge`; returns only if that fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    let edge = build::run(workspace, &build::Options { profile: "release".to_owned() })?;
    let error = Command::new(&edge).arg("up").args(&options.arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", edge.display()))
}
