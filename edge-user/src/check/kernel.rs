//! What the kernel and its tools can do, and what this process may ask of them.

use std::{fs, io, path::Path, process::Command};

use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Finding;
use crate::host::{netns::NetNs, sysctl};

/// The first kernel with TCX, which every container's packets pass.
const NEEDED: (u32, u32) = (6, 6);
const BTF: &str = "/sys/kernel/btf/vmlinux";
const TUN: &str = "/dev/net/tun";
const BPFFS: &str = "/sys/fs/bpf";

/// Everything of the kernel and its tools.
pub(super) fn look(daemon: Option<u32>) -> Vec<Finding> {
    let release = sysctl::read("kernel/osrelease").unwrap_or_default();
    vec![
        version(&release),
        btf(Path::new(BTF).exists()),
        bpffs(),
        jit(jit_setting()),
        privilege(daemon.is_some()),
        nftables(),
        wireguard(Path::new(TUN).exists()),
    ]
}

fn version(release: &str) -> Finding {
    let (major, minor) = NEEDED;
    let known = numbers(release);
    if known.is_some_and(|version| version >= NEEDED) {
        return Finding::ok("kernel", release, "it has TCX, which steers containers' packets");
    }
    let found = if known.is_some() { release } else { "a kernel of unknown version" };
    Finding::broken(
        "kernel",
        found,
        format_args!("TCX, which steers containers' packets, came with {major}.{minor}"),
        format_args!("boot Linux {major}.{minor} or later"),
    )
}

/// Major and minor of `6.18.44-generic`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf(exists: bool) -> Finding {
    if exists {
        return Finding::ok("btf", BTF, "tools can name what edge's programs do");
    }
    Finding::slower(
        "btf",
        format_args!("no {BTF}"),
        "edge's programs read no kernel types and load without it, but tools such as bpftool and \
         bpftrace cannot explain them",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are",
    )
}

/// Edge's own is in userspace, whatever the kernel has.
fn wireguard(exists: bool) -> Finding {
    const NAME: &str = "wireguard";
    if exists {
        return Finding::ok(
            NAME,
            format_args!("in userspace, by {TUN}"),
            "proxied containers of a region's hosts reach the gateway of their address",
        );
    }
    Finding::slower(
        NAME,
        format_args!("no {TUN}"),
        "in a region, proxied containers reach no other machine's address; on one machine nothing \
         is amiss",
        "load the kernel's module tun: modprobe tun",
    )
}

fn bpffs() -> Finding {
    const NAME: &str = "bpf-file-system";
    match statfs(BPFFS) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Finding::ok(NAME, BPFFS, "links are pinned there: packets flow while edge is down")
        }
        _ => Finding::broken(
            NAME,
            format_args!("none at {BPFFS}"),
            "links cannot be pinned, so edge does not start",
            format_args!("mount -t bpf bpf {BPFFS}"),
        ),
    }
}

/// The setting belongs to the machine's first network namespace and is seen only there.
fn jit_setting() -> Option<String> {
    const NAME: &str = "net/core/bpf_jit_enable";
    let first = || NetNs::of_process(1)?.run(|| sysctl::read(NAME));
    sysctl::read(NAME).or_else(|_elsewhere: io::Error| first()).ok()
}

fn jit(setting: Option<String>) -> Finding {
    match setting.as_deref() {
        Some("0") => Finding::slower(
            "jit",
            "off",
            "the kernel interprets edge's programs: each packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1, and put it in /etc/sysctl.d",
        ),
        Some(_) => Finding::ok("jit", "on", "edge's programs run as machine code"),
        None => Finding::ok(
            "jit",
            "not visible from here",
            "the setting is that of the machine's first network namespace",
        ),
    }
}

fn privilege(daemon_answers: bool) -> Finding {
    const NEEDED: [Capability; 3] =
        [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_BPF];
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let missing: Vec<_> =
        NEEDED.iter().filter(|one| !held.contains(one)).map(ToString::to_string).collect();
    privilege_of(&missing, daemon_answers)
}

fn privilege_of(missing: &[String], daemon_answers: bool) -> Finding {
    const NAME: &str = "privilege";
    if missing.is_empty() {
        return Finding::ok(NAME, "all that is needed", "`edge up` may start");
    }
    let found = format!("no {}", missing.join(", "));
    if daemon_answers {
        return Finding::ok(NAME, found, "the running daemon has what it needs; you see less");
    }
    let meaning = "`edge up` cannot start, and part of this list cannot be seen";
    Finding::broken(NAME, found, meaning, "run as root, as with sudo")
}

fn nftables() -> Finding {
    const NAME: &str = "nftables";
    let version = Command::new("nft").arg("--version").output();
    match version {
        Ok(output) if output.status.success() => Finding::ok(
            NAME,
            String::from_utf8_lossy(&output.stdout).trim(),
            "the closed door under edge's programs, and containers' source NAT",
        ),
        _ => Finding::broken(
            NAME,
            "nft does not run",
            "edge does not start without the closed door that nftables keeps",
            "install the nftables package: apt-get install nftables",
        ),
    }
}

/// The process's name, where the kernel shows it.
pub(super) fn process_name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn kernels_before_tcx_are_broken() {
        for good in ["6.6.0", "6.18.44-generic", "7.0", "10.1-rc2"] {
            assert_eq!(version(good).state, State::Ok, "{good}");
        }
        for bad in ["6.5.13", "5.15.0-91-generic", "", "linux"] {
            assert_eq!(version(bad).state, State::Broken, "{bad}");
        }
    }

    #[test]
    fn an_interpreter_is_slower_and_an_unseen_setting_is_no_fault() {
        assert_eq!(jit(Some("0".into())).state, State::Slower);
        assert_eq!(jit(Some("2".into())).state, State::Ok);
        assert_eq!(jit(None).state, State::Ok);
    }

    #[test]
    fn who_only_looks_needs_no_privilege_once_the_daemon_runs() {
        let missing = ["CAP_BPF".to_owned()];
        assert_eq!(privilege_of(&missing, false).state, State::Broken);
        assert_eq!(privilege_of(&missing, true).state, State::Ok);
        assert_eq!(privilege_of(&[], false).state, State::Ok);
    }
}
