//! An "internet" server that records who came, by TCP, UDP and ICMP.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    echo::Echo,
    lab::PATIENCE,
    netns::NetNs,
    process::Start as _,
    tap::{self, Tap},
};

/// The server, and whatever else comes in by its interface.
#[derive(Debug)]
pub struct Visitors {
    address: IpAddr,
    tcp: Echo,
    udp: UdpSocket,
    tap: Tap,
    /// What [`Visitors::sources_of`] has found so far, and in how many frames.
    sources: Mutex<BTreeMap<String, (usize, BTreeSet<IpAddr>)>>,
}

const TCP: u16 = 7777;
const UDP: u16 = 7778;

impl Visitors {
    /// On an address of a namespace's `eth0`.
    #[track_caller]
    pub fn at(netns: &NetNs, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let udp = netns.enter(|| UdpSocket::bind((address, UDP)).expect("a port"));
        udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let tcp = Echo::at(netns, (address, TCP).into());
        Self { address, tcp, udp, tap: Tap::on(netns, "eth0"), sources: Mutex::default() }
    }

    /// Where TCP is answered.
    pub fn tcp(&self) -> SocketAddr {
        (self.address, TCP).into()
    }

    /// As whom all were seen who came by TCP.
    pub fn clients(&self) -> BTreeSet<IpAddr> {
        self.tcp.clients().iter().map(SocketAddr::ip).collect()
    }

    /// A namespace comes by TCP so often, by UDP and by ping once; as whom it was seen.
    #[track_caller]
    pub fn visited_by(&self, netns: &NetNs, times: usize) -> BTreeSet<IpAddr> {
        let before = self.tcp.clients().len();
        // As long as all are there, no two have the same port: each is a connection of NAT's.
        let mut sockets = Vec::new();
        for _ in 0..times {
            self.dial(netns);
            netns.enter(|| {
                let any = if self.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("a port");
                socket.send_to(b"datagram", (self.address, UDP)).expect("a way out");
                sockets.push(socket);
            });
        }
        let address = self.address.to_string();
        netns.command("ping").args(["-c", "1", "-W", "10", &address]).output_of().ok();
        let mut seen = BTreeSet::new();
        for _ in 0..times {
            seen.insert(self.udp.recv_from(&mut [0; 64]).expect("a datagram").1.ip());
        }
        seen.extend(self.accepted(before, times));
        seen
    }

    /// A namespace comes by TCP so often; as whom how often.
    #[track_caller]
    pub fn dialled_by(&self, netns: &NetNs, times: usize) -> BTreeMap<IpAddr, usize> {
        let before = self.tcp.clients().len();
        (0..times).for_each(|_| self.dial(netns));
        let mut counts = BTreeMap::new();
        for address in self.accepted(before, times) {
            *counts.entry(address).or_insert(0) += 1;
        }
        counts
    }

    #[track_caller]
    fn dial(&self, netns: &NetNs) {
        let stream = netns.enter(|| TcpStream::connect_timeout(&self.tcp(), PATIENCE));
        drop(stream.unwrap_or_else(|error| panic!("no way out: {error}")));
    }

    /// As whom so many more came by TCP, once they have.
    #[track_caller]
    fn accepted(&self, before: usize, times: usize) -> Vec<IpAddr> {
        crate::process::wait_for("the server to have accepted all", PATIENCE, || {
            let clients = self.tcp.clients();
            let all = clients.len() >= before + times;
            all.then(|| clients[before..].iter().map(SocketAddr::ip).collect())
        })
    }

    /// A namespace has no way out, and is told so at once.
    #[track_caller]
    pub fn refuse(&self, netns: &NetNs) {
        let before = self.tcp.clients().len();
        let error = netns.enter(|| TcpStream::connect_timeout(&self.tcp(), Duration::from_secs(5)));
        let error = error.expect_err("it has a way out").kind();
        assert_ne!(error, ErrorKind::TimedOut, "it was not told");
        assert_ne!(error, ErrorKind::ConnectionRefused, "somebody answered");
        assert_eq!(self.tcp.clients().len(), before);
    }

    /// Whether a text came in by whatever protocol.
    pub fn saw(&self, text: &str) -> bool {
        self.tap.saw(text)
    }

    /// The sources of the frames that held a text.
    pub fn sources_of(&self, text: &str) -> BTreeSet<IpAddr> {
        let mut all = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let (looked_at, sources) = all.entry(text.to_owned()).or_default();
        let frames = self.tap.since(*looked_at);
        *looked_at += frames.len();
        let holding = frames.iter().filter(|frame| tap::holds(frame, text));
        sources.extend(holding.filter_map(|frame| match frame[12..14] {
            [0x08, 0] => read::<4>(frame, 26).map(IpAddr::from),
            [0x86, 0xdd] => read::<16>(frame, 22).map(IpAddr::from),
            _ => None,
        }));
        sources.clone()
    }
}

fn read<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// One address, as whom a visitor was seen.
pub fn only(address: &str) -> BTreeSet<IpAddr> {
    BTreeSet::from([address.parse().expect("an address")])
}
