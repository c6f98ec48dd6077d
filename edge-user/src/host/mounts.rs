//! What a container sees of the file system: the machine's files, without the doors back into
//! the kernel's and edge's own business.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::Mode,
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

use super::{
    control::Setup,
    mountinfo,
    names::{self, Overlay},
};

/// Parts of /proc and /sys that tell of the machine or act on it, and that not every program
/// with root's user id is kept from by the kernel.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/security",
];

/// Parts of /proc that may be read only.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// Sockets through which libc asks the machine's resolver before it looks at any file.
const RESOLVER_CACHES: [&str; 2] = ["/run/nscd", "/var/run/nscd"];

const CGROUPS: &str = "/sys/fs/cgroup";
const INERT: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}", path = path.display())]
pub struct MountError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Cuts the mount namespace off from the machine's: nothing mounted on one side, a bpffs for
/// one, appears on the other.
pub fn detach() -> Result<(), MountError> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(because("making private", "/"))
}

/// Builds the container's view. For the first process of the pid namespace, in network and IPC
/// namespaces that are already the container's: /proc, /sys and mqueue show those of their mounter.
pub fn isolate(setup: &Setup) -> Result<(), MountError> {
    let before = mountinfo::read().map_err(because("listing mounts by", "/proc/self/mountinfo"))?;
    lay_over(&names::overlays(setup))?;
    fresh("proc", "/proc", INERT, "")?;
    fresh_sysfs()?;
    for path in READ_ONLY.map(Path::new).into_iter().filter(|path| path.exists()) {
        bind(path, path)?;
        read_only(path)?;
    }
    for path in MASKED.map(Path::new) {
        mask(path)?;
    }
    for (kind, path, options) in [("tmpfs", "/dev/shm", "mode=1777"), ("mqueue", "/dev/mqueue", "")]
    {
        if Path::new(path).is_dir() {
            fresh(kind, path, INERT, options)?;
        }
    }
    // Wherever it is mounted: pinned maps and programs are edge's data path.
    for mount in before.iter().filter(|mount| mount.kind == "bpf") {
        if statfs(&mount.path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
            mask(&mount.path)?;
        }
    }
    for path in setup.hidden.iter().map(PathBuf::as_path).chain(RESOLVER_CACHES.map(Path::new)) {
        mask(path)?;
    }
    Ok(())
}

/// Puts files over others by way of a file system in memory that nothing else can reach.
fn lay_over(overlays: &[Overlay]) -> Result<(), MountError> {
    // /sys exists everywhere, and is about to be covered anyway.
    let scratch = Path::new("/sys");
    fresh("tmpfs", "/sys", INERT, "mode=755,size=1m")?;
    for (index, overlay) in overlays.iter().enumerate() {
        let source = scratch.join(index.to_string());
        fs::write(&source, &overlay.contents).map_err(because("writing", &source))?;
        let target = names::ensure_file(&overlay.path).map_err(because("making", &overlay.path))?;
        bind(&source, &target)?;
    }
    umount2(scratch, MntFlags::MNT_DETACH).map_err(because("unmounting", scratch))
}

/// sysfs of the container's network namespace, with the machine's cgroups to read limits from.
fn fresh_sysfs() -> Result<(), MountError> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let cgroups = open(CGROUPS, directory, Mode::empty());
    fresh("sysfs", "/sys", INERT | MsFlags::MS_RDONLY, "")?;
    let (Ok(cgroups), true) = (cgroups, Path::new(CGROUPS).is_dir()) else { return Ok(()) };
    bind(Path::new(&format!("/proc/self/fd/{}", cgroups.as_raw_fd())), Path::new(CGROUPS))?;
    let mounts = mountinfo::read().map_err(because("listing mounts by", "/proc/self/mountinfo"))?;
    mountinfo::below(&mounts, Path::new(CGROUPS)).try_for_each(|mount| read_only(&mount.path))
}

/// Covers a directory with an empty one, a file with nothing; what is absent needs neither.
fn mask(path: &Path) -> Result<(), MountError> {
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            fresh("tmpfs", path, INERT | MsFlags::MS_RDONLY, "mode=755,size=4k")
        }
        Ok(_file) => bind(Path::new("/dev/null"), path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(because("looking at", path)(error)),
    }
}

fn fresh(
    kind: &str,
    path: impl AsRef<Path>,
    flags: MsFlags,
    options: &str,
) -> Result<(), MountError> {
    mount(Some(kind), path.as_ref(), Some(kind), flags, Some(options))
        .map_err(because("mounting on", path))
}

fn bind(source: &Path, target: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .map_err(because("binding over", target))
}

fn read_only(path: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | INERT;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .map_err(because("write-protecting", path))
}

fn because<E: Into<io::Error>>(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> MountError {
    move |error| MountError { action, path: path.as_ref().to_owned(), source: error.into() }
}
