//! Tools that come from package registries and live under the target folder.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{step, workspace::Workspace};

/// One cargo tool, pinned.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    why: &'static str,
}

/// The last release that loads the compiler's own LLVM 22; later ones link a system LLVM 23.
pub(crate) const BPF_LINKER: Tool =
    Tool { name: "bpf-linker", version: "0.10.4", why: "links the BPF half" };

/// Reads `deny.toml`.
pub(crate) const CARGO_DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", why: "checks licences and dependencies" };

/// Builds the targets of `tests/fuzz` with libFuzzer in them.
pub(crate) const CARGO_FUZZ: Tool =
    Tool { name: "cargo-fuzz", version: "0.13.2", why: "builds and runs fuzz targets" };

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
        command.args(["install", self.name, "--version", &version, "--locked", "--force"]);
        command.arg("--root").arg(workspace.tools());
        // A folder of its own, so that a build of the workspace need not wait.
        command.arg("--target-dir").arg(workspace.tools().join("build"));
        step::run(self.name, self.why, command)?;
        Ok(true)
    }

    /// What cargo itself remembers of its installations: the tools need not start for it.
    fn is_there(&self, workspace: &Workspace) -> bool {
        let record = fs::read_to_string(workspace.tools().join(".crates.toml"));
        let entry = format!("\"{} {} ", self.name, self.version);
        workspace.tool(self.name).exists() && record.is_ok_and(|text| text.contains(&entry))
    }
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
