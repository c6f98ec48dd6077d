//! Fuzzing what reads strangers' bytes. The targets are `tests::fuzzing`; what is found becomes a
//! case that every run of the tests repeats.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{build, packages, setup, step, tools::CARGO_FUZZ, workspace::Workspace};

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this target; without it all, one after the other
    pub(crate) target: Option<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
}

/// Stops at the first target that fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.root.join("tests/fuzz");
    let all = targets(&folder)?;
    let chosen = match &options.target {
        Some(target) => {
            ensure!(all.contains(target), "{target}: no such target; there are {}", all.join(", "));
            vec![target.clone()]
        }
        None => all,
    };
    packages::ensure()?;
    CARGO_FUZZ.ensure(workspace)?;
    let toolchain = setup::for_build(workspace)?;
    build::bpf(workspace, &toolchain)?;
    for target in chosen {
        fuzz(workspace, &folder, &target, options.seconds)?;
    }
    Ok(())
}

fn fuzz(workspace: &Workspace, folder: &Path, target: &str, seconds: u32) -> Result<()> {
    let found = workspace.target.join("fuzz/found").join(target);
    let corpus = workspace.target.join("fuzz/corpus").join(target);
    for folder in [&found, &corpus] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Command::new(workspace.tool("cargo-fuzz"));
    // All of it is safe Rust: without a sanitizer it runs faster, and on a release compiler.
    command.args(["run", target, "--sanitizer", "none", "--fuzz-dir"]).arg(folder);
    command.arg("--target-dir").arg(workspace.target.join("fuzz"));
    // What the fuzzer learns goes to the first folder; the cases are only read.
    command.arg(&corpus).arg(folder.join("cases").join(target));
    command.args(["--", "-timeout=10", &format!("-max_total_time={seconds}")]);
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.current_dir(&workspace.root).env("EDGE_BPF_OBJECT", workspace.bpf_object());
    step::live("fuzz", &format!("{target}, {seconds} s"), command).with_context(|| {
        format!(
            "what broke {target} lies in {}; move it to tests/fuzz/cases/{target} under a name \
             that says what it shows, and `cargo xtask test fuzz_cases` runs it",
            found.display()
        )
    })
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.join("fuzz_targets");
    let mut names = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
