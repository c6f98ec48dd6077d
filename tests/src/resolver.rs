//! A resolver that knows every name, and who asked it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::netns::NetNs;

/// What it answers to every question for an address.
pub const EVERYBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Answers in a namespace, on the addresses where the machine's `/etc/resolv.conf` expects it,
/// until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    ended: Arc<AtomicBool>,
    askers: Arc<Mutex<Vec<IpAddr>>>,
}

impl Resolver {
    /// Starts it, with those addresses on the loopback of the namespace.
    #[track_caller]
    pub fn in_place(netns: &NetNs) -> Self {
        let settings = fs::read_to_string("/etc/resolv.conf").expect("/etc/resolv.conf");
        let named = settings.lines().filter_map(|line| line.strip_prefix("nameserver"));
        let addresses = named.map(|address| address.trim().parse().expect("an address"));
        let (ended, askers) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        for address in addresses.filter(|address: &IpAddr| !address.is_loopback()) {
            let length = if address.is_ipv4() { 32 } else { 128 };
            netns.ip(&["address", "add", &format!("{address}/{length}"), "dev", "lo"]);
            let socket = netns.enter(|| UdpSocket::bind((address, 53))).expect("port 53");
            // Often enough to notice the end.
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            let (ended, askers) = (ended.clone(), askers.clone());
            thread::spawn(move || serve(&socket, &ended, &askers));
        }
        Self { ended, askers }
    }

    /// Where questions came from so far.
    pub fn askers(&self) -> Vec<IpAddr> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, ended: &AtomicBool, askers: &Mutex<Vec<IpAddr>>) {
    let mut buffer = [0; 4096];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            askers.lock().unwrap_or_else(PoisonError::into_inner).push(peer.ip().to_canonical());
            socket.send_to(&reply(&buffer[..length]), peer).expect("cannot reply");
        }
    }
}

/// A reply to a query of one question: an address record, if that was asked for (RFC 1035).
fn reply(query: &[u8]) -> Vec<u8> {
    let question = &query[12..];
    let name = question.iter().position(|byte| *byte == 0).expect("a whole name");
    let question = &question[..name + 5];
    let answers = u8::from(question[name + 2] == 1);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(question);
    if answers == 1 {
        // The name is the question's; class IN, a minute, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(EVERYBODY.octets());
    }
    reply
}
