//! Where the workspace and its build products are, and a cargo prepared for them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;

/// The workspace that the caller stands in.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds; `CARGO_TARGET_DIR` counts.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--format-version", "1", "--no-deps"]);
        let metadata: Value = serde_json::from_str(&step::ask(command)?)
            .context("cannot read what `cargo metadata` says")?;
        let path = |key: &str| {
            let path = metadata[key].as_str().map(PathBuf::from);
            path.with_context(|| {
                format!("`cargo metadata` names no {key}; is cargo older than 1.95?")
            })
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// The host's cargo, ready for every crate of the workspace: `edge-user` embeds the BPF
    /// object and finds it through this variable.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).env("EDGE_BPF_OBJECT", self.bpf_object());
        command
    }

    /// A copy of the BPF object that is touched only when its bytes change, so that
    /// `edge-user` is not rebuilt for nothing.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.bpf().join("edge-ebpf.o")
    }

    /// Where the BPF half is built: apart, because it has another compiler.
    pub(crate) fn bpf(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// Where `setup` installs cargo's tools, so that nobody's home is touched.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A tool that `setup` installed.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }

    /// The Python environment that the tests run Modal's client in.
    pub(crate) fn venv(&self) -> PathBuf {
        self.target.join("venv")
    }
}

/// The program as the caller's `PATH` has it, and where Debian keeps administrators' programs.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The cargo that runs this program, without what it set for this program alone: build
/// scripts that watch those variables would run again each time.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
