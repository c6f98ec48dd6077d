//! Whether a program can be started, before anything depends on it.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use crate::error::{Error, Kind};

/// Where programs are looked for without a PATH; as glibc has it.
const SEARCHED: &str = "/bin:/usr/bin";

/// Looks for a program where the kernel will, from this working directory and by this search path.
///
/// # Errors
/// As [`cannot_start`] puts it.
pub(super) fn find(program: &OsStr) -> Result<(), Error> {
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program)).map_err(|error| cannot_start(program, &error));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| SEARCHED.into());
    // One that may not be executed is not the end of the search, but is what people hear of.
    let mut why = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in env::split_paths(&path) {
        // An empty one is the working directory.
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        match executable(&folder.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = error,
            Err(_absent) => {}
        }
    }
    Err(cannot_start(program, &why))
}

/// Why a program does not start, for people.
pub(super) fn cannot_start(program: &OsStr, error: &io::Error) -> Error {
    let (kind, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (Kind::NotFound, "install it, or give its full path"),
        _ => (Kind::NotExecutable, "look at its permissions and its format"),
    };
    Error::new(kind, program.display(), error, remedy)
}

fn executable(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(access(path, AccessFlags::X_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_started_is_told_by_its_exit_code() {
        let kind = |program: &str| find(OsStr::new(program)).map_err(|error| error.kind());
        assert_eq!(kind("sh"), Ok(()));
        assert_eq!(kind("/bin/sh"), Ok(()));
        assert_eq!(kind("no-such-program"), Err(Kind::NotFound));
        assert_eq!(kind("/no/such/program"), Err(Kind::NotFound));
        assert_eq!(kind("/etc/passwd"), Err(Kind::NotExecutable));
        assert_eq!(kind("/etc"), Err(Kind::NotExecutable));
    }
}
