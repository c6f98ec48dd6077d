//! The compiler of the BPF half: one with the standard library's source and with the LLVM
//! that the pinned `bpf-linker` speaks.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{packages, step, workspace::which};

/// The LLVM release that compiler and linker must share.
const LLVM: &str = "22";
/// A nightly with that LLVM, for machines whose own nightly has another.
const NIGHTLY: &str = "nightly-2026-05-20";
/// How long rustup may try; without a network it gives up at once.
const PATIENCE: &str = "300";
/// Debian's compiler, kept current for browsers; it comes with its source.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler that can build for BPF.
pub(crate) struct Toolchain {
    /// What it is called in messages.
    pub(crate) name: String,
    bin: PathBuf,
    libraries: PathBuf,
}

impl Toolchain {
    /// The one that is there, if any.
    pub(crate) fn find() -> Option<Self> {
        candidates().into_iter().find(|found| found.speaks_llvm() && found.has_source())
    }

    /// The one that is there, else Debian's, which is the same for everybody and changes only with
    /// security updates, else one installed by rustup.
    pub(crate) fn ensure() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        if let Err(error) = packages::install(&DEBIAN) {
            step::note("BPF toolchain", &format!("Debian's packages cannot help: {error:#}"));
            by_rustup().context("no BPF toolchain")?;
        }
        Self::find().with_context(|| {
            format!("no compiler here has LLVM {LLVM} and rust-src; try: rustup toolchain install {NIGHTLY} --component rust-src")
        })
    }

    /// Its cargo. What the calling cargo set for its own compiler is taken back.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(self.bin.join("cargo"));
        self.prepare(&mut command);
        command
    }

    /// Its clippy, if it has one.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let program = self.bin.join("cargo-clippy");
        program.exists().then(|| {
            let mut command = Command::new(program);
            self.prepare(&mut command);
            command.arg("clippy");
            command
        })
    }

    fn prepare(&self, command: &mut Command) {
        for name in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        command
            .env("CARGO", self.bin.join("cargo"))
            .env("RUSTC", self.bin.join("rustc"))
            // `-Z build-std` from a release compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            // Where bpf-linker finds the compiler's own LLVM.
            .env("LD_LIBRARY_PATH", &self.libraries);
    }

    fn speaks_llvm(&self) -> bool {
        let mut command = Command::new(self.bin.join("rustc"));
        command.arg("-vV").env_remove("RUSTUP_TOOLCHAIN");
        step::ask(command).is_ok_and(|text| text.contains(&format!("LLVM version: {LLVM}.")))
    }

    fn has_source(&self) -> bool {
        let root = self.bin.parent().unwrap_or(Path::new("/"));
        root.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    }
}

/// Every nightly that rustup has, then Debian's.
fn candidates() -> Vec<Toolchain> {
    let mut found: Vec<_> = nightlies()
        .into_iter()
        .map(|(name, path)| Toolchain { name, bin: path.join("bin"), libraries: path.join("lib") })
        .collect();
    found.push(Toolchain {
        name: "Debian's rustc-web".to_owned(),
        bin: "/usr/bin".into(),
        libraries: format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into(),
    });
    found
}

/// Name and folder of each nightly.
fn nightlies() -> Vec<(String, PathBuf)> {
    let Some(rustup) = which("rustup") else { return Vec::new() };
    let mut command = Command::new(rustup);
    command.args(["toolchain", "list", "--verbose"]);
    let list = step::ask(command).unwrap_or_default();
    list.lines()
        .filter(|line| line.starts_with("nightly"))
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let path = line.split_whitespace().last()?;
            Some((name.to_owned(), path.into()))
        })
        .collect()
}

/// Adds the source to a fitting nightly, or installs a nightly that fits.
fn by_rustup() -> Result<()> {
    which("rustup").context("it is not installed")?;
    let fitting = candidates().into_iter().find(|found| {
        found.name.starts_with("nightly") && found.speaks_llvm() && !found.has_source()
    });
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "rustup"]);
    match fitting {
        Some(nightly) => {
            command.args(["component", "add", "rust-src", "--toolchain", &nightly.name]);
            step::run("rust-src", "core is compiled for BPF from source", command)
        }
        None => {
            command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
            command.args(["--component", "rust-src", "--component", "clippy"]);
            step::run(NIGHTLY, "core is compiled for BPF from source", command)
        }
    }
}
