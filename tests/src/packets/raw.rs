//! Whole frames on an interface, sent and seen as they are.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::netns::NetNs;

/// All protocols, in network byte order.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// One end of a wire, for frames of a test's own making.
#[derive(Debug)]
pub struct RawEnd {
    socket: Socket,
}

impl RawEnd {
    /// Opens an interface of a namespace; frames that come from now on are kept.
    #[track_caller]
    pub fn open(netns: &NetNs, interface: &str) -> Self {
        let socket = netns.enter(|| {
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL))))?;
            socket.bind(&address(index(interface)))?;
            io::Result::Ok(socket)
        });
        let socket = socket.unwrap_or_else(|error| panic!("cannot open {interface}: {error}"));
        Self { socket }
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = self.socket.send(frame).expect("cannot send a frame");
        assert_eq!(sent, frame.len());
    }

    /// Sends a frame longer than a page, of which only so many bytes are in one piece, and the others
    /// in pages.
    #[track_caller]
    pub fn send_in_pieces(&self, frame: &[u8], first: u16) {
        let on: libc::c_int = 1;
        // SAFETY: the option is an int, and as long as the kernel is told.
        let done = unsafe {
            let (fd, value) = (self.socket.as_raw_fd(), (&raw const on).cast());
            let size = size_of_val(&on) as libc::socklen_t;
            libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, value, size)
        };
        assert_eq!(done, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        // `struct virtio_net_hdr`: of its ten bytes only the length of the headers says anything.
        let mut bytes = vec![0; 10];
        bytes[2..4].copy_from_slice(&first.to_ne_bytes());
        bytes.extend(frame);
        let sent = self.socket.send(&bytes).expect("cannot send a frame");
        assert_eq!(sent, bytes.len());
    }

    /// Waits until a frame comes that is this one. Others, of the kernel's own making, may come
    /// before it.
    #[track_caller]
    pub fn expect(&self, frame: &[u8], patience: Duration) {
        assert!(self.sees(frame, patience), "this frame did not come: {frame:02x?}");
    }

    /// Whether the frame comes in time.
    #[track_caller]
    pub fn sees(&self, frame: &[u8], patience: Duration) -> bool {
        self.find(patience, |came| came == frame).is_some()
    }

    /// The first frame in time that is the one meant.
    #[track_caller]
    pub fn find(&self, patience: Duration, meant: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        let mut buffer = [0; 2048];
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match io::Read::read(&mut &self.socket, &mut buffer) {
                Ok(length) if meant(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("cannot read frames: {error}"),
            }
        }
        None
    }
}

/// The index of an interface of this thread's namespace.
#[track_caller]
pub fn index(interface: &str) -> u32 {
    let name = CString::new(interface).expect("a name without zeros");
    // SAFETY: the name ends in a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "there is no interface {interface}");
    index
}

fn address(index: u32) -> SockAddr {
    // SAFETY: zeros are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL;
    address.sll_ifindex = index as i32;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for every kind of address, and the length is right.
    unsafe {
        *storage.view_as() = address;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32)
    }
}
