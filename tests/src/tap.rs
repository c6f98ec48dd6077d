//! Frames as they are: what passes an interface, and what no honest socket would send.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, PacketHeaders, ip_number};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::netns::NetNs;

/// The router that every container has; no other receiver's address is looked at by anybody.
const ROUTER_MAC: [u8; 6] = [0x02, 0xed, 0, 0, 0, 1];
/// Ours. A program judges addresses of IP, never this.
const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
/// `PACKET_IGNORE_OUTGOING` of packet(7), which libc lacks.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// More than one frame ever has: GSO frames are read whole.
const FRAME: usize = 256 * 1024;

/// A packet socket on one interface: sees what comes in, sends what it is given.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    seen: Mutex<Vec<Vec<u8>>>,
    /// Receiver of frames that are sent here.
    mac: [u8; 6],
}

impl Tap {
    /// On an interface of the namespace. Frames towards a container's router.
    #[track_caller]
    pub fn on(netns: &NetNs, interface: &str) -> Self {
        netns.enter(|| {
            let all = u16::try_from(libc::ETH_P_ALL).expect("fits").to_be();
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))));
            let socket = socket.expect("a packet socket");
            ignore_outgoing(&socket);
            bind(&socket, interface, libc::ETH_P_ALL);
            socket.set_nonblocking(true).expect("a non-blocking socket");
            socket.set_recv_buffer_size(8 << 20).expect("a receive buffer");
            Self { socket, seen: Mutex::default(), mac: ROUTER_MAC }
        })
    }

    /// The same tap, sending to another receiver.
    pub fn towards(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    /// Sends an Ethernet frame as it is.
    #[track_caller]
    pub fn send_frame(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).expect("sending a frame");
    }

    /// Sends an IP packet as it is.
    #[track_caller]
    pub fn send_packet(&self, packet: &[u8]) {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        self.send_frame(&[&self.mac[..], &OUR_MAC, &kind, packet].concat());
    }

    /// Sends a UDP packet that claims these ends and carries the text.
    #[track_caller]
    pub fn udp(&self, source: SocketAddr, destination: SocketAddr, text: &str) {
        let packet = self.ip(source.ip(), destination.ip()).udp(source.port(), destination.port());
        let mut frame = Vec::with_capacity(packet.size(text.len()));
        packet.write(&mut frame, text.as_bytes()).expect("a frame");
        self.send_frame(&frame);
    }

    /// Sends a TCP packet that claims these ends, with data in it: a SYN, or one that does as if
    /// it belonged to a connection.
    #[track_caller]
    pub fn tcp(&self, source: SocketAddr, destination: SocketAddr, syn: bool, text: &str) {
        let ip = self.ip(source.ip(), destination.ip());
        let mut packet = ip.tcp(source.port(), destination.port(), 1000, 64240);
        packet = if syn { packet.syn() } else { packet.ack(2000) };
        let mut frame = Vec::with_capacity(packet.size(text.len()));
        packet.write(&mut frame, text.as_bytes()).expect("a frame");
        self.send_frame(&frame);
    }

    /// Sends a packet of a protocol that has no ports.
    #[track_caller]
    pub fn other(&self, source: IpAddr, destination: IpAddr, protocol: IpNumber, text: &str) {
        let packet = self.ip(source, destination);
        let mut frame = Vec::with_capacity(packet.size(text.len()));
        packet.write(&mut frame, protocol, text.as_bytes()).expect("a frame");
        self.send_frame(&frame);
    }

    /// Whether any frame that came in so far holds the text.
    pub fn saw(&self, text: &str) -> bool {
        self.any(|frame| holds(frame, text))
    }

    /// Whether any frame that came in so far is as wanted.
    pub fn any(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.read().iter().any(|frame| wanted(frame))
    }

    /// The frames that came in so far, but for so many at the beginning.
    pub fn since(&self, skipped: usize) -> Vec<Vec<u8>> {
        self.read()[skipped..].to_vec()
    }

    fn read(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; FRAME];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => seen.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("cannot read frames: {error}"),
            }
        }
        seen
    }

    /// What those of the frames that are TCP and as wanted give.
    pub fn find_tcp<T>(&self, wanted: impl Fn(&etherparse::TcpHeader) -> Option<T>) -> Option<T> {
        let found = std::cell::Cell::new(None);
        self.any(|frame| {
            let headers = PacketHeaders::from_ethernet_slice(frame).ok();
            let transport = headers.and_then(|headers| headers.transport);
            let Some(etherparse::TransportHeader::Tcp(tcp)) = transport else { return false };
            let value = wanted(&tcp);
            let is_found = value.is_some();
            if is_found {
                found.set(value);
            }
            is_found
        });
        found.into_inner()
    }

    fn ip(&self, source: IpAddr, destination: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
        let frame = PacketBuilder::ethernet2(OUR_MAC, self.mac);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.ipv6(source.octets(), destination.octets(), 64)
            }
            _ => panic!("{source} and {destination} are of two families"),
        }
    }
}

/// ICMP's echo request with an identifier, as [`Tap::other`] takes it.
pub const ICMP: IpNumber = ip_number::ICMP;

/// Whether a frame has the text in it.
pub fn holds(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

fn ignore_outgoing(socket: &Socket) {
    use std::os::fd::AsRawFd as _;

    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int from where it is told to, and it is there.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "packet sockets of this kernel cannot leave out what they send");
}

/// Binds a packet socket of the caller's namespace to an interface and an `ETH_P_…`.
#[track_caller]
pub(crate) fn bind(socket: &Socket, interface: &str, protocol: libc::c_int) {
    let index = if_nametoindex(interface).expect("an interface");
    let protocol = u16::try_from(protocol).expect("fits").to_be();
    socket.bind(&address(index, protocol)).expect("binding a packet socket");
}

fn address(index: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough and aligned for every kind of address, and any bits
    // are a value of this one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol;
    link.sll_ifindex = index.cast_signed();
    // SAFETY: the family says what the storage holds, and so does the length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
