//! The system calls that no crate of ours offers as safe functions.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd},
};

use nix::sys::signalfd::SignalFd;
use socket2::Socket;
use tokio::io::{Interest, unix::AsyncFd};

/// Takes over a socket that was inherited across exec. Call it once per number, before the
/// process opens anything: only then does the number name what the parent passed.
pub(super) fn inherited_socket(number: i32) -> io::Result<Socket> {
    // The standard streams have owners; a closed number must not become an owned one.
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD reads a flag of this process's file table and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, was passed to this process for this one purpose, and nothing
    // else in the process owns it.
    Ok(unsafe { Socket::from_raw_fd(number) })
}

/// Removes a capability from the bounding set by its number. `false`: the kernel has no such
/// capability. (The `caps` crate knows only those that had names when it was written.)
pub(super) fn drop_from_bounding_set(number: u8) -> io::Result<bool> {
    let unused: libc::c_ulong = 0;
    // SAFETY: PR_CAPBSET_DROP takes its arguments by value and touches no memory.
    let result = unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), unused, unused, unused)
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error => Err(error),
    }
}

/// What kind of namespace a file of nsfs is, as a `CLONE_NEW…` flag.
pub(super) fn namespace_kind(file: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // `NS_GET_NSTYPE` of ioctl_nsfs(2), which libc lacks.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request has no argument and touches no memory.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// Lets a task wait for a socket, which must not block.
pub(super) fn watch_socket(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns one descriptor, and neither closes nor changes it while it lives.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Lets a task wait for signals.
pub(super) fn watch_signals(signals: SignalFd) -> io::Result<AsyncFd<SignalFd>> {
    // SAFETY: a `SignalFd` owns one descriptor, and neither closes nor changes it while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?)
}
