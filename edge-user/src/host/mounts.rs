//! The few kinds of mounts that a container's view is made of.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

/// What no mount of ours lets programs do.
pub(super) const INERT: MsFlags =
    MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

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
pub(super) fn detach() -> Result<(), MountError> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(because("making private", "/"))
}

/// Mounts a new file system.
pub(super) fn fresh(
    kind: &str,
    path: impl AsRef<Path>,
    flags: MsFlags,
    options: &str,
) -> Result<(), MountError> {
    mount(Some(kind), path.as_ref(), Some(kind), flags, Some(options))
        .map_err(because("mounting on", path))
}

/// Lays a file or a directory, with all that is mounted below it, over another.
pub(super) fn bind(source: &Path, target: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .map_err(because("binding over", target))
}

/// Makes what is mounted here read-only, on this side only.
pub(super) fn read_only(path: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | INERT;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .map_err(because("write-protecting", path))
}

/// Covers a directory with an empty one, a file with nothing; what is absent needs neither.
pub(super) fn mask(path: &Path) -> Result<(), MountError> {
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            fresh("tmpfs", path, INERT | MsFlags::MS_RDONLY, "mode=755,size=4k")
        }
        Ok(_file) => bind(Path::new("/dev/null"), path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(because("looking at", path)(error)),
    }
}

/// The device of the file system that a path is on; none if there is no such path.
pub(super) fn device(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|found| found.dev())
}

/// Names what was being done when an error came up.
pub(super) fn because<E: Into<io::Error>>(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> MountError {
    move |error| MountError { action, path: path.as_ref().to_owned(), source: error.into() }
}
