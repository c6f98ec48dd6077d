//! What a container sees of the file system: the machine's files, without the doors back into
//! the kernel's and edge's own business.

use std::{
    collections::HashSet,
    env, fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open},
    mount::MsFlags,
    sys::{
        stat::Mode,
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

use super::{
    control::Setup,
    mountinfo,
    mounts::{INERT, MountError, because, bind, device, fresh, mask, read_only},
    names::{self, Overlay},
};

/// Parts of /proc that tell of the machine or act on it.
const MASKED_PROC: [&str; 12] = [
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
];

/// Parts of /proc that may be read only.
const READ_ONLY_PROC: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// The same of /sys, all of which may be read only.
const MASKED_SYS: [&str; 2] = ["/sys/devices/virtual/powercap", "/sys/firmware"];

/// Sockets through which libc asks the machine's resolver before it looks at any file.
const RESOLVER_CACHE: &str = "/run/nscd";

const CGROUPS: &str = "/sys/fs/cgroup";
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A container's view, as long as it must be kept up: the machine's own programs replace files
/// and directories under it, and with a replaced file goes whatever was mounted on it.
#[derive(Debug)]
pub struct View {
    overlays: Vec<Overlay>,
    hidden: Vec<PathBuf>,
    /// Devices of the file systems that we have mounted over others.
    ours: HashSet<u64>,
}

impl View {
    /// Builds the view, but for /proc. For a process in namespaces that are already the
    /// container's, since sysfs and mqueue show those of their mounter. It gets another working
    /// directory: the files that lie over others, in memory.
    pub fn build(setup: &Setup) -> Result<Self, MountError> {
        let hidden = setup.hidden.iter().cloned().chain([RESOLVER_CACHE.into()]);
        let mut view = Self {
            overlays: names::overlays(setup),
            hidden: hidden.filter(|path: &PathBuf| path.is_dir()).collect(),
            ours: HashSet::new(),
        };

        let before = mountinfo::read().map_err(because("listing mounts by", MOUNTINFO))?;
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let cgroups = open(CGROUPS, directory, Mode::empty());
        view.prepare_overlays()?;
        fresh("sysfs", "/sys", INERT | MsFlags::MS_RDONLY, "")?;
        if let (Ok(cgroups), true) = (cgroups, Path::new(CGROUPS).is_dir()) {
            show_cgroups(&PathBuf::from(format!("/proc/self/fd/{}", cgroups.as_raw_fd())))?;
        }
        MASKED_SYS.map(Path::new).into_iter().try_for_each(mask)?;
        for (kind, path, options) in
            [("tmpfs", "/dev/shm", "mode=1777"), ("mqueue", "/dev/mqueue", "")]
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
        for index in 0..view.overlays.len() {
            view.lay_over(index)?;
        }
        for index in 0..view.hidden.len() {
            view.hide(index)?;
        }
        Ok(view)
    }

    /// Mounts again what came off. `false`: not all of it, as something is being replaced at this
    /// moment; try again soon.
    pub fn repair(&mut self) -> bool {
        let mut whole = true;
        for index in 0..self.overlays.len() {
            whole &= self.lay_over(index).unwrap_or(false);
        }
        for index in 0..self.hidden.len() {
            whole &= self.hide(index).unwrap_or(false);
        }
        whole
    }

    /// `false`: there is nothing to mount upon.
    fn lay_over(&mut self, index: usize) -> Result<bool, MountError> {
        let path = &self.overlays[index].path;
        match device(path) {
            None => Ok(false),
            Some(device) if self.ours.contains(&device) => Ok(true),
            Some(_foreign) => bind(Path::new(&index.to_string()), path).map(|()| true),
        }
    }

    fn hide(&mut self, index: usize) -> Result<bool, MountError> {
        let path = &self.hidden[index];
        match device(path) {
            None => Ok(false),
            Some(device) if self.ours.contains(&device) => Ok(true),
            Some(_foreign) => {
                mask(path)?;
                self.ours.extend(device(path));
                Ok(true)
            }
        }
    }

    /// Writes the files into a file system in memory. It stays where it is to be mounted from
    /// again; no program reaches it, for it lies under the container's /sys.
    fn prepare_overlays(&mut self) -> Result<(), MountError> {
        fresh("tmpfs", "/sys", INERT, "mode=755,size=1m")?;
        env::set_current_dir("/sys").map_err(because("entering", "/sys"))?;
        self.ours.extend(device(Path::new(".")));
        for (index, overlay) in self.overlays.iter().enumerate() {
            fs::write(index.to_string(), &overlay.contents)
                .map_err(because("writing", &overlay.path))?;
            names::ensure_file(&overlay.path).map_err(because("making", &overlay.path))?;
        }
        Ok(())
    }
}

/// Mounts the /proc of this process's pid namespace.
pub fn fresh_proc() -> Result<(), MountError> {
    fresh("proc", "/proc", INERT, "")?;
    for path in READ_ONLY_PROC.map(Path::new).into_iter().filter(|path| path.exists()) {
        bind(path, path)?;
        read_only(path)?;
    }
    MASKED_PROC.map(Path::new).into_iter().try_for_each(mask)
}

/// For programs that read their limits there.
fn show_cgroups(source: &Path) -> Result<(), MountError> {
    let cgroups = Path::new(CGROUPS);
    bind(source, cgroups)?;
    let mounts = mountinfo::read().map_err(because("listing mounts by", MOUNTINFO))?;
    mountinfo::below(&mounts, cgroups).try_for_each(|mount| read_only(&mount.path))
}
