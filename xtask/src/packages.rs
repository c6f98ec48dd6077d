//! The programs that building and testing call, and the Debian packages that hold them.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::{step, workspace::which};

/// One package, how its presence shows on any distribution, and what it is for.
struct Package {
    name: &'static str,
    sign: Sign,
    why: &'static str,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
    Python(&'static str),
    /// In some folder of the first, what the second names.
    Below(&'static str, &'static str),
}

use Sign::{Below, File, Program, Python};

/// What a build alone needs.
const BUILD: &[Package] = &[
    package("gcc", Program("gcc"), "crates that build C"),
    package("libc6-dev", File("/usr/include/stdio.h"), "crates that build C"),
    package("protobuf-compiler", Program("protoc"), "the client of etcd"),
    package(
        "libprotobuf-dev",
        File("/usr/include/google/protobuf/descriptor.proto"),
        "the client of etcd",
    ),
];

/// What starting edge and its tests need.
const PACKAGES: &[Package] = &[
    package("iproute2", Program("ip"), "namespaces, links and routes"),
    package("iputils-ping", Program("ping"), "reachability tests"),
    package("ethtool", Program("ethtool"), "offload settings of test wires"),
    package("nftables", Program("nft"), "NAT and the closed door under the BPF programs"),
    package("bpftool", Program("bpftool"), "a look at programs and maps when a test fails"),
    package("tcpdump", Program("tcpdump"), "what a test's wire carried"),
    package("curl", Program("curl"), "HTTP clients of tests"),
    package("netcat-openbsd", Program("nc.openbsd"), "TCP clients and servers of tests"),
    package("openssh-client", Program("ssh"), "SSH over a raw TCP tunnel"),
    package("openssh-server", Program("sshd"), "SSH over a raw TCP tunnel"),
    package("iperf3", Program("iperf3"), "throughput"),
    package("procps", Program("pkill"), "signals to what runs in a namespace"),
    package("util-linux", Program("setpriv"), "tests without a privilege"),
    package("g++", Program("c++"), "libFuzzer"),
    package("etcd-server", Program("etcd"), "regions of several gateways"),
    package("prometheus", Program("promtool"), "the board's queries and the alert rules"),
    package("python3", Program("python3"), "Modal's own client"),
    package("python3-venv", Python("import venv, ensurepip"), "Modal's own client"),
];

/// Servers: what benchmarks compare edge with, what reads the PROXY protocol in tests, and what
/// tests put on the private network.
const FIELD: &[Package] = &[
    package("haproxy", Program("haproxy"), "a userspace proxy to compare with"),
    package("nginx-light", Program("nginx"), "a userspace proxy to compare with"),
    package(
        "libnginx-mod-stream",
        File("/usr/lib/nginx/modules/ngx_stream_module.so"),
        "nginx in front of TCP and TLS",
    ),
    package("hitch", Program("hitch"), "a TLS proxy to compare with"),
    package("wireguard-go", Program("wireguard-go"), "an overlay to compare with"),
    package("wireguard-tools", Program("wg"), "an overlay to compare with"),
    package("microsocks", Program("microsocks"), "a SOCKS proxy to compare with"),
    package("proxychains4", Program("proxychains4"), "clients of a SOCKS proxy"),
    package("redis-server", Program("redis-server"), "replication over the private network"),
    package("redis-tools", Program("redis-cli"), "replication over the private network"),
    package(
        "postgresql",
        Below("/usr/lib/postgresql", "bin/initdb"),
        "a database on the private network",
    ),
    package("postgresql-client", Program("psql"), "a database on the private network"),
    package(
        "python3-torch",
        File("/usr/lib/python3/dist-packages/torch/__init__.py"),
        "an ordinary program on a cluster",
    ),
];

/// What Debian would start at boot, and of which package it is.
const SERVICES: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("prometheus", "prometheus"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("hitch", "hitch"),
    ("redis-server", "redis-server"),
    ("postgresql", "postgresql"),
];

/// Installs what a build lacks; says whether that was anything.
pub(crate) fn ensure_build() -> Result<bool> {
    ensure_quietly(BUILD)
}

/// Installs what starting and testing lack; says whether that was anything.
pub(crate) fn ensure() -> Result<bool> {
    ensure_quietly(PACKAGES)
}

/// Installs the field where it is lacking.
pub(crate) fn ensure_field() -> Result<bool> {
    ensure_quietly(FIELD)
}

/// Starts none of the services, now or at the next boot: what needs them starts its own.
fn ensure_quietly(packages: &[Package]) -> Result<bool> {
    let lacking = |name: &str| packages.iter().any(|one| one.name == name && !one.is_there());
    // Those that were there before are the machine's own, and stay as they are.
    let new = SERVICES.iter().filter(|(_, package)| lacking(package)).map(|(service, _)| service);
    let new: Vec<_> = new.collect();
    // Without the right to, nothing is installed either, and the refusal names the packages.
    let quiet = !new.is_empty() && geteuid().is_root();
    let _quiet = quiet.then(NoServices::new).transpose()?;
    let changed = ensure_all(packages)?;
    if let Some(systemctl) = which("systemctl").filter(|_| !new.is_empty()) {
        let mut command = Command::new(systemctl);
        command.args(["disable", "--quiet"]).args(&new);
        step::run("services", "tests and benchmarks start their own", command)?;
    }
    Ok(changed)
}

fn ensure_all(packages: &[Package]) -> Result<bool> {
    let missing: Vec<_> = packages.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    for package in &missing {
        step::note(package.name, &format!("missing; needed for {}", package.why));
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    install(&names)?;
    if let Some(package) = missing.iter().find(|package| !package.is_there()) {
        bail!("package {} is installed, but what edge needs of it is not there", package.name);
    }
    Ok(true)
}

/// Installs Debian packages, or names them to who can.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    let apt = which("apt-get").with_context(|| {
        format!("this system has no apt-get; install what Debian calls: {list}")
    })?;
    if !geteuid().is_root() {
        bail!("packages are missing and only root may install them: sudo apt-get install {list}");
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new(&apt);
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    step::run("apt-get update", "package lists may be old", apt(&["update", "--quiet"]))?;
    let mut command = apt(&["install", "--yes", "--no-install-recommends"]);
    command.args(names);
    step::run("apt-get install", &list, command)
}

impl Package {
    fn is_there(&self) -> bool {
        match self.sign {
            Program(program) => which(program).is_some(),
            File(path) => Path::new(path).exists(),
            Below(folder, path) => fs::read_dir(folder)
                .is_ok_and(|all| all.flatten().any(|one| one.path().join(path).exists())),
            Python(code) => Command::new("python3")
                .args(["-c", code])
                .output()
                .is_ok_and(|o| o.status.success()),
        }
    }
}

/// While it lives Debian's packages start no services (`invoke-rc.d(8)` asks this file).
struct NoServices {
    made: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        let opened =
            fs::File::options().write(true).create_new(true).mode(0o755).open(Self::POLICY);
        match opened {
            Ok(mut file) => {
                let made = Self { made: true };
                file.write_all(b"#!/bin/sh\nexit 101\n").context(Self::POLICY)?;
                Ok(made)
            }
            // The machine has a policy of its own.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { made: false }),
            Err(error) => Err(error).context(Self::POLICY),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(Self::POLICY)
        {
            step::note(Self::POLICY, &format!("not removed: {error}"));
        }
    }
}

const fn package(name: &'static str, sign: Sign, why: &'static str) -> Package {
    Package { name, sign, why }
}
