//! What two containers do on their private network, with the sockets that programs have.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    echo::{Echo, round_trip},
    lab::PATIENCE,
    process::{Start as _, wait_for},
    tenant::Tenant,
};

/// Far more than one packet carries.
pub const LARGE_DATAGRAM: usize = 20_000;
/// For experiments, and neither TCP nor UDP (RFC 3692).
const EXPERIMENT: i32 = 253;
/// Where nobody listens.
const SILENT: u16 = 7200;
/// Each server here has a port of its own: what a test has closed may be held a moment longer by
/// a program that is just being started.
static PORT: AtomicU16 = AtomicU16::new(7300);

/// Ping, TCP, small and large UDP, and a protocol without ports: all of it arrives.
#[track_caller]
pub fn everything(from: &Tenant, to: &Tenant) {
    ping(from, to);
    tcp(from, to, 4 << 20);
    udp(from, to, 100);
    udp(from, to, LARGE_DATAGRAM);
    other_protocol(from, to);
}

/// An echo request is answered.
#[track_caller]
pub fn ping(from: &Tenant, to: &Tenant) {
    wait_for(&what("ping", from, to), PATIENCE, || pings(from, to.i6pn()).then_some(()));
}

/// Whether one echo request is answered within a second.
pub fn pings(from: &Tenant, to: Ipv6Addr) -> bool {
    let mut command = from.netns.command("ping");
    command.args(["-c", "1", "-W", "1", &to.to_string()]).output_of().status.success()
}

/// So many bytes go there and come back, and the server sees who sent them.
#[track_caller]
pub fn tcp(from: &Tenant, to: &Tenant, bytes: usize) {
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let echo = Echo::serve(&to.netns, port);
    round_trip(&from.netns, (to.i6pn(), port).into(), bytes);
    assert!(echo.saw(&from.container.i6pn), "{:?}", echo.clients());
}

/// A datagram arrives as it was sent, from the sender's address. UDP may lose the first ones
/// while its sender learns how large the way's packets are.
#[track_caller]
pub fn udp(from: &Tenant, to: &Tenant, bytes: usize) {
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let inbox = to.netns.enter(|| UdpSocket::bind((to.i6pn(), port))).expect("a UDP socket");
    inbox.set_nonblocking(true).expect("a non-blocking socket");
    let outbox = from.netns.enter(|| UdpSocket::bind((from.i6pn(), 0))).expect("a UDP socket");
    let sent: Vec<u8> = (0..bytes).map(|place| (place * 31 + place / 251) as u8).collect();
    let mut buffer = vec![0; bytes + 1];
    wait_for(&what(&format!("{bytes} bytes of UDP"), from, to), PATIENCE, || {
        // "Too big" of the one before is told at the next.
        outbox.send_to(&sent, (to.i6pn(), port)).ok();
        let (length, source) = arrived(|| inbox.recv_from(&mut buffer))?;
        assert_eq!(source.ip(), from.i6pn(), "the datagram's sender");
        assert!(buffer[..length] == sent, "another datagram came than was sent");
        Some(())
    });
}

/// A packet of a protocol that edge knows nothing of arrives.
#[track_caller]
pub fn other_protocol(from: &Tenant, to: &Tenant) {
    let socket = |tenant: &Tenant| {
        tenant.netns.enter(|| {
            let protocol = Some(Protocol::from(EXPERIMENT));
            let socket = Socket::new(Domain::IPV6, Type::RAW, protocol).expect("a raw socket");
            let own = SocketAddr::from((tenant.i6pn(), 0));
            socket.bind(&own.into()).expect("an own address");
            socket.set_nonblocking(true).expect("a non-blocking socket");
            socket
        })
    };
    let (outbox, inbox) = (socket(from), socket(to));
    let text = format!("protocol {EXPERIMENT} to {}", to.container.name);
    let address = SocketAddr::from((to.i6pn(), 0));
    let mut buffer = [MaybeUninit::new(0); 256];
    wait_for(&what(&text, from, to), PATIENCE, || {
        outbox.send_to(text.as_bytes(), &address.into()).expect("sending to a container");
        let (length, source) = arrived(|| inbox.recv_from(&mut buffer))?;
        let source = source.as_socket_ipv6().expect("an IPv6 address");
        assert_eq!(source.ip(), &from.i6pn(), "the packet's sender");
        assert_eq!(length, text.len(), "an IPv6 raw socket gives what is behind the header");
        Some(())
    });
}

/// What a program is told that connects to where it must not; none if it connects or is told
/// nothing in a while.
pub fn refusal(from: &Tenant, to: Ipv6Addr) -> Option<i32> {
    let to = SocketAddr::from((to, SILENT));
    let tried = from.netns.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    tried.err().and_then(|error| error.raw_os_error())
}

/// Nothing is not an error here, and neither is what ICMP says of an earlier packet.
fn arrived<T>(receive: impl FnOnce() -> io::Result<T>) -> Option<T> {
    // One beat, in which a packet may come.
    std::thread::sleep(Duration::from_millis(5));
    match receive() {
        Ok(value) => Some(value),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("cannot receive: {error}"),
    }
}

fn what(what: &str, from: &Tenant, to: &Tenant) -> String {
    format!("{what} from {} to {}", from.container.name, to.container.name)
}
