//! The system calls that no crate of ours offers as safe functions.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::sys::signalfd::SignalFd;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
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

/// Sends an ARP announcement by an interface (RFC 826, RFC 5227).
pub(crate) fn announce(index: u32, mac: [u8; 6], ip: Ipv4Addr) -> io::Result<()> {
    const ARP: u16 = 0x0806;
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough and aligned for every kind of address, and any bits are a
    // value of this one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = ARP.to_be();
    link.sll_ifindex = index.cast_signed();
    // SAFETY: the family says what the storage holds, and so does the length.
    let to = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    let request: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let parts = [&[0xff; 6][..], &mac, &ARP.to_be_bytes(), &request, &mac, &ip.octets(), &[0; 6]];
    let frame = [&parts.concat()[..], &ip.octets()].concat();
    socket.send_to(&frame, &to).map(drop)
}

/// Sends an unsolicited neighbour advertisement by an interface that has the address (RFC 4861,
/// section 7.2.6).
pub(crate) fn advertise(index: u32, mac: [u8; 6], ip: Ipv6Addr) -> io::Result<()> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    // The kernel fills in the checksum, of which the source is a part.
    socket.bind(&SocketAddrV6::new(ip, 0, 0, index).into())?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    // From a router, and in the place of what was known; with the option of its link address.
    let (begin, option) = ([136, 0, 0, 0, 0xa0, 0, 0, 0], [2, 1]);
    let message = [&begin[..], &ip.octets(), &option, &mac].concat();
    socket.send_to(&message, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into()).map(drop)
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

/// Lets a task wait until there is something to read.
pub(crate) fn watch_readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns one descriptor, and neither closes nor changes it while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
}

/// Lets a task wait for signals.
pub(super) fn watch_signals(signals: SignalFd) -> io::Result<AsyncFd<SignalFd>> {
    // SAFETY: a `SignalFd` owns one descriptor, and neither closes nor changes it while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?)
}
