//! Tools that come from package registries and live under the target folder.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{step, workspace::Workspace};

/// One cargo tool, pinned.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    /// Its cargo features in place of the default ones, if they matter.
    features: Option<&'static str>,
    /// Whether its own lock file still builds.
    locked: bool,
    why: &'static str,
}

/// The last release that loads the compiler's own LLVM 22; later ones link a system LLVM 23.
pub(crate) const BPF_LINKER: Tool = tool("bpf-linker", "0.10.4", "links the BPF half");

/// Reads `deny.toml`.
pub(crate) const CARGO_DENY: Tool =
    tool("cargo-deny", "0.20.2", "checks licences and dependencies");

/// Without TLS and encryption: raw bytes are compared with raw bytes. Its lock file names a `time`
/// that this compiler refuses.
pub(crate) const RATHOLE: Tool = Tool {
    features: Some("client,server"),
    locked: false,
    ..tool("rathole", "0.5.0", "a userspace tunnel to compare with")
};

/// Another.
pub(crate) const BORE: Tool = tool("bore-cli", "0.6.0", "a userspace tunnel to compare with");

/// The release of Modal's client that the wire contract was read from.
const MODAL: &str = "1.6.4";

impl Tool {
    /// Installs it unless that very version is there; says whether it did.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> Result<bool> {
        if self.is_there(workspace) {
            return Ok(false);
        }
        let mut command = workspace.cargo();
        let version = format!("={}", self.version);
        command.args(["install", self.name, "--version", &version, "--force"]);
        if self.locked {
            command.arg("--locked");
        }
        command.arg("--root").arg(workspace.tools());
        if let Some(features) = self.features {
            command.args(["--no-default-features", "--features", features]);
        }
        // A folder of its own, so that a build of the workspace need not wait.
        command.arg("--target-dir").arg(workspace.tools().join("build"));
        step::run(self.name, self.why, command)?;
        Ok(true)
    }

    /// What cargo itself remembers of its installations: the tools need not start for it.
    fn is_there(&self, workspace: &Workspace) -> bool {
        let record = fs::read_to_string(workspace.tools().join(".crates.toml"));
        let entry = format!("\"{} {} ", self.name, self.version);
        let line = record.ok().and_then(|text| {
            text.lines().find(|line| line.starts_with(&entry)).map(ToOwned::to_owned)
        });
        let program = line.as_deref().and_then(|line| line.split_once("[\"")?.1.split('"').next());
        program.is_some_and(|program| workspace.tool(program).exists())
    }
}

const fn tool(name: &'static str, version: &'static str, why: &'static str) -> Tool {
    Tool { name, version, features: None, locked: true, why }
}

/// Makes the Python environment with Modal's client; says whether it had to.
pub(crate) fn ensure_venv(workspace: &Workspace) -> Result<bool> {
    let venv = workspace.venv();
    let python = venv.join("bin/python");
    let check = "import importlib.metadata as m; print(m.version('modal'))";
    let mut command = Command::new(&python);
    command.args(["-c", check]);
    if step::ask(command).is_ok_and(|version| version.trim() == MODAL) {
        return Ok(false);
    }
    let mut command = Command::new("python3");
    command.args(["-m", "venv", "--clear"]).arg(&venv);
    step::run("Python environment", "tests run Modal's unmodified client", command)?;
    let mut command = Command::new(&python);
    command.args(["-m", "pip", "install", "--quiet", &format!("modal=={MODAL}")]);
    step::run("modal", "tests run Modal's unmodified client", command)
        .context("cannot install Modal's client; pip must reach a package index")?;
    Ok(true)
}
