//! Brings a machine that has only cargo to where everything builds and every test runs.
//! Does only what is missing, and says what and why.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::{
    packages, step,
    toolchain::Toolchain,
    tools::{BORE, BPF_LINKER, CARGO_DENY, RATHOLE, ensure_venv},
    workspace::Workspace,
};

const BPFFS: &str = "/sys/fs/bpf";

/// Everything that `build` and `test` need.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut changed = packages::ensure_build()?;
    changed |= packages::ensure()?;
    // Tests put two of them behind tunnels.
    changed |= packages::ensure_field()?;
    let before = Toolchain::find().is_some();
    let toolchain = for_build(workspace)?;
    changed |= !before;
    changed |= CARGO_DENY.ensure(workspace)?;
    changed |= ensure_venv(workspace)?;
    changed |= ensure_bpffs()?;
    let verdict = if changed { "ready" } else { "nothing was missing" };
    step::note("setup", &format!("{verdict}; the BPF half is built with {}", toolchain.name));
    Ok(())
}

/// What a build alone needs: no root where it is there already.
pub(crate) fn for_build(workspace: &Workspace) -> Result<Toolchain> {
    packages::ensure_build()?;
    let toolchain = Toolchain::ensure()?;
    BPF_LINKER.ensure(workspace)?;
    Ok(toolchain)
}

/// What benchmarks compare edge with.
pub(crate) fn for_bench(workspace: &Workspace) -> Result<()> {
    packages::ensure_field()?;
    RATHOLE.ensure(workspace)?;
    BORE.ensure(workspace)?;
    Ok(())
}

/// What starting `edge` needs, beyond its build.
pub(crate) fn for_run() -> Result<()> {
    packages::ensure()?;
    ensure_bpffs()?;
    Ok(())
}

/// Pinned maps and links live there.
fn ensure_bpffs() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let is_mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    });
    if is_mounted {
        return Ok(false);
    }
    if !geteuid().is_root() {
        bail!("no BPF file system at {BPFFS}; run as root: mount -t bpf bpf {BPFFS}");
    }
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", BPFFS]);
    step::run("BPF file system", "pinned maps and links outlive the daemon there", command)?;
    Ok(true)
}
