//! `/sys` as this process's network namespace has it. What is mounted there may show another one's
//! interfaces, as under `ip netns exec` without its mount; so it is mounted anew, beside all names.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A mount that has no place in the file system and ends with this.
#[derive(Debug)]
pub(super) struct Sysfs {
    mount: OwnedFd,
}

impl Sysfs {
    /// Of this thread's network namespace. Needs root.
    pub(super) fn here() -> io::Result<Self> {
        let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Ok(Self { mount: fsmount(&context, flags, MountAttrFlags::empty())? })
    }

    /// A file's first line.
    pub(super) fn read(&self, below: impl AsRef<Path>) -> Option<String> {
        Some(fs::read_to_string(self.path(below)).ok()?.trim().to_owned())
    }

    /// Writes a value.
    pub(super) fn write(&self, below: impl AsRef<Path>, value: &str) -> io::Result<()> {
        fs::write(self.path(below), value)
    }

    /// The names in a folder; none if there is no such folder.
    pub(super) fn list(&self, below: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(below)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.mount.as_raw_fd())).join(below)
    }
}
