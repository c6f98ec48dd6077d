//! Builds the BPF object, then `edge` with the object inside it.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{setup, step, toolchain::Toolchain, workspace::Workspace};

const BPF_TARGET: &str = "bpfel-unknown-none";

/// How to build.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo profile of `edge`; the BPF half always has its own
    #[arg(long, default_value = "release")]
    pub(crate) profile: String,
}

/// Builds both halves; returns the path of `edge`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    let toolchain = setup::for_build(workspace)?;
    bpf(workspace, &toolchain)?;

    let mut command = workspace.cargo();
    command.args(["build", "--package", "edge-user", "--bin", "edge"]);
    command.args(["--profile", &options.profile]);
    step::run("edge", &format!("profile {}", options.profile), command)?;

    let folder = if options.profile == "dev" { "debug" } else { &options.profile };
    let edge = workspace.target.join(folder).join("edge");
    step::note("edge", &edge.display().to_string());
    Ok(edge)
}

/// Builds the kernel half and puts it where `edge-user` embeds it from.
pub(crate) fn bpf(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let mut flags = rustflags();
    // `--btf`: the loader relocates by type information.
    flags.extend(["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()]);
    // With registers of 32 bits, as kernels since 5.1 have them; else such a number costs two
    // instructions more each time that it is used.
    flags.push("-Ctarget-cpu=v3".to_owned());
    // Else each `memset` and `memcpy` is a call of a loop over bytes.
    flags.push("-Clink-arg=--disable-expand-memcpy-in-order".to_owned());
    flags.push(format!("-Clinker={}", workspace.tool("bpf-linker").display()));

    let mut command = toolchain.cargo();
    command.arg("build").args(arguments());
    command.arg("--target-dir").arg(workspace.bpf());
    command.current_dir(&workspace.root).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    step::run("BPF object", &format!("built with {}", toolchain.name), command)?;

    let built = workspace.bpf().join(BPF_TARGET).join("bpf").join("edge-ebpf");
    copy_if_changed(&built, &workspace.bpf_object())
}

/// What every cargo command over the BPF half says.
pub(crate) fn arguments() -> [&'static str; 8] {
    ["--package", "edge-ebpf", "-Z", "build-std=core", "--target", BPF_TARGET, "--profile", "bpf"]
}

/// What the BPF half's libraries must know of the kernel they run in.
pub(crate) fn rustflags() -> Vec<String> {
    vec![format!("--cfg=bpf_target_arch=\"{ARCH}\"")]
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from)
        .with_context(|| format!("the build left no BPF object at {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}
