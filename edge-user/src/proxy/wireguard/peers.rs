//! Those at the other ends of a device: their keys and sessions, where they are, and which addresses
//! each may send.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use gotatun::{
    noise::{
        TimerParams, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        index_table::IndexTable, rate_limiter::RateLimiter,
    },
    packet::{Ip, Packet, WgKind},
    tun::MtuWatcher,
    x25519::{PublicKey, StaticSecret},
};
use ipnet::IpNet;

use super::keys::Keys;

/// Handshakes a second from one address that are answered without asking for a cookie.
const HANDSHAKES: u64 = 100;
/// What was sent goes unanswered for so long until a handshake is tried again: a gateway that has
/// a new daemon does not know the old one's sessions. Probes are answered by then, so silence is
/// one.
const UNANSWERED: Duration = Duration::from_secs(3);

/// A packet as it goes over the underlay, and where to.
pub(super) type Sealed = (Packet, SocketAddr);

/// All peers of a device.
pub(super) struct Peers {
    secret: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    indices: IndexTable,
    mtu: MtuWatcher,
    all: HashMap<[u8; 32], Peer>,
    /// Whose session has an index of ours.
    sessions: HashMap<u32, [u8; 32]>,
    /// First address of a network: its last one, and whose it is. None overlap.
    networks: BTreeMap<IpAddr, (IpAddr, [u8; 32])>,
}

struct Peer {
    tunn: Tunn,
    endpoint: Option<SocketAddr>,
}

/// A peer as it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its public key.
    pub(super) key: [u8; 32],
    /// Where it is; one that says so itself needs none.
    pub(super) endpoint: Option<SocketAddr>,
    /// What it may send, and is sent.
    pub(super) networks: Vec<IpNet>,
}

/// What WireGuard itself knows of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    /// When the last handshake was.
    pub(super) shaken: Option<Instant>,
    /// Bytes to the peer, encrypted.
    pub(super) sent: u64,
    /// Bytes from there, decrypted.
    pub(super) received: u64,
}

impl Peers {
    /// None yet, with these keys, and packets of this many bytes at most.
    pub(super) fn new(keys: &Keys, mtu: u16) -> Self {
        let (secret, public) = keys.pair();
        Self {
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)),
            secret,
            public,
            indices: IndexTable::from_os_rng(),
            mtu: MtuWatcher::new(mtu),
            all: HashMap::new(),
            sessions: HashMap::new(),
            networks: BTreeMap::new(),
        }
    }

    /// One more, or the same with other networks; its session goes on then.
    pub(super) fn put(&mut self, Wanted { key, endpoint, networks }: Wanted) {
        self.networks.retain(|_, (_, owner)| *owner != key);
        let of = |network: IpNet| (network.network(), (network.broadcast(), key));
        self.networks.extend(networks.into_iter().map(of));
        if self.all.contains_key(&key) {
            return;
        }
        let (secret, limiter) = (self.secret.clone(), self.limiter.clone());
        let indices = self.indices.clone();
        let mut tunn = Tunn::new(secret, PublicKey::from(key), None, None, indices, limiter);
        if endpoint.is_some() {
            tunn.dangerously_set_timer_params(TimerParams {
                new_handshake_timeout: UNANSWERED..=UNANSWERED + Duration::from_millis(333),
                ..TimerParams::default()
            });
        }
        self.all.insert(key, Peer { tunn, endpoint });
    }

    /// One less.
    pub(super) fn remove(&mut self, key: [u8; 32]) {
        self.all.remove(&key);
        self.sessions.retain(|_, owner| *owner != key);
        self.networks.retain(|_, (_, owner)| *owner != key);
    }

    /// Speaks under other keys from now on; all sessions end.
    pub(super) fn change_keys(&mut self, keys: &Keys) {
        (self.secret, self.public) = keys.pair();
        self.limiter = Arc::new(RateLimiter::new(&self.public, HANDSHAKES));
        for peer in self.all.values_mut() {
            let (secret, limiter) = (self.secret.clone(), self.limiter.clone());
            peer.tunn.set_static_private(secret, self.public, limiter);
        }
    }

    /// What is known of each, by key.
    pub(super) fn spoken(&self) -> BTreeMap<[u8; 32], Spoken> {
        let now = Instant::now();
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let spoken = |peer: &Peer| {
            let (age, sent, received, ..) = peer.tunn.stats();
            let shaken = age.and_then(|age| now.checked_sub(age));
            Spoken { shaken, sent: count(sent), received: count(received) }
        };
        self.all.iter().map(|(key, peer)| (*key, spoken(peer))).collect()
    }

    /// Encrypts packets, each for whoever has its destination. Where there is no session yet it
    /// waits for the handshake that begins now.
    pub(super) fn seal(
        &mut self,
        packets: impl Iterator<Item = Packet<Ip>>,
        sealed: &mut Vec<Sealed>,
    ) {
        for packet in packets {
            let Some(to) = packet.destination() else { continue };
            let Some(key) = owner(&self.networks, to) else { continue };
            let Some(Peer { tunn, endpoint: Some(endpoint) }) = self.all.get_mut(&key) else {
                continue;
            };
            if let Some(kind) =
                tunn.handle_outgoing_packet(packet.into_bytes(), Some(&mut self.mtu))
            {
                register(&mut self.sessions, &kind, key);
                sealed.push((kind.into(), *endpoint));
            }
        }
    }

    /// Decrypts what has arrived, from where; answers of the protocol itself come among `sealed`.
    pub(super) fn open(
        &mut self,
        arrived: impl Iterator<Item = Sealed>,
        opened: &mut Vec<Packet>,
        sealed: &mut Vec<Sealed>,
    ) {
        for (packet, from) in arrived {
            let kind = match self.limiter.verify_packet(from, packet) {
                Ok(kind) => kind,
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    sealed.push((cookie.into(), from));
                    continue;
                }
                Err(_) => continue,
            };
            let Some(key) = self.sender(&kind) else { continue };
            let Some(Peer { tunn, endpoint }) = self.all.get_mut(&key) else { continue };
            match tunn.handle_incoming_packet(kind) {
                TunnResult::Done | TunnResult::Err(_) => {}
                TunnResult::WriteToNetwork(answer) => {
                    *endpoint = Some(from);
                    let waiting = tunn.get_queued_packets(&mut self.mtu);
                    for kind in std::iter::once(answer).chain(waiting) {
                        register(&mut self.sessions, &kind, key);
                        sealed.push((kind.into(), from));
                    }
                }
                TunnResult::WriteToTunnel(packet) => {
                    *endpoint = Some(from);
                    // An empty one only says that the peer is there.
                    let Some((from, packet)) = unpadded(packet) else { continue };
                    if owner(&self.networks, from) == Some(key) {
                        opened.push(packet);
                    }
                }
            }
        }
    }

    /// Handshakes and signs of life that are due.
    pub(super) fn tick(&mut self, sealed: &mut Vec<Sealed>) {
        let Self { all, sessions, indices, limiter, .. } = self;
        sessions.retain(|index, _| indices.in_use(*index));
        limiter.try_reset_count();
        for (key, Peer { tunn, endpoint }) in all {
            let Some(endpoint) = endpoint else { continue };
            match tunn.update_timers() {
                Ok(Some(kind)) => {
                    register(sessions, &kind, *key);
                    sealed.push((kind.into(), *endpoint));
                }
                Ok(None) | Err(WireGuardError::ConnectionExpired) => {}
                Err(error) => tracing::debug!(?error, "a timer of WireGuard"),
            }
        }
    }

    fn sender(&self, kind: &WgKind) -> Option<[u8; 32]> {
        let index = match kind {
            WgKind::HandshakeInit(init) => {
                let half = parse_handshake_anon(&self.secret, &self.public, init).ok()?;
                return Some(half.peer_static_public);
            }
            WgKind::HandshakeResp(answer) => answer.receiver_idx.get(),
            WgKind::CookieReply(answer) => answer.receiver_idx.get(),
            WgKind::Data(data) => data.header.receiver_idx.get(),
        };
        self.sessions.get(&index).copied()
    }
}

/// Remembers whose session a handshake of ours is to begin.
fn register(sessions: &mut HashMap<u32, [u8; 32]>, kind: &WgKind, key: [u8; 32]) {
    let index = match kind {
        WgKind::HandshakeInit(init) => init.sender_idx.get(),
        WgKind::HandshakeResp(answer) => answer.sender_idx.get(),
        WgKind::CookieReply(_) | WgKind::Data(_) => return,
    };
    sessions.insert(index, key);
}

fn owner(networks: &BTreeMap<IpAddr, (IpAddr, [u8; 32])>, address: IpAddr) -> Option<[u8; 32]> {
    let (_, (last, key)) = networks.range(..=address).next_back()?;
    (address <= *last).then_some(*key)
}

/// A packet without what fills it up to 16 bytes, and who sent it.
fn unpadded(packet: Packet) -> Option<(IpAddr, Packet)> {
    let read = packet.try_into_ipvx().ok()?;
    Some(read.either(
        |v4| (v4.header.source().into(), v4.into_bytes()),
        |v6| (v6.header.source().into(), v6.into_bytes()),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const A: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    const B: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

    /// Without options or contents.
    fn packet(from: [u8; 4], to: [u8; 4]) -> Packet<Ip> {
        let mut bytes = [0; 20];
        (bytes[0], bytes[3]) = (0x45, 20);
        bytes[12..16].copy_from_slice(&from);
        bytes[16..].copy_from_slice(&to);
        Packet::copy_from(&bytes[..]).try_into_ip().expect("a packet")
    }

    fn wanted(keys: &Keys, endpoint: Option<SocketAddr>, networks: &[&str]) -> Wanted {
        let networks = networks.iter().map(|network| network.parse().expect("a network"));
        Wanted { key: keys.pair().1.to_bytes(), endpoint, networks: networks.collect() }
    }

    /// A host at A and its gateway at B.
    struct Pair {
        host: Peers,
        gateway: Peers,
    }

    impl Pair {
        fn new(of_host: &Keys, of_gateway: &Keys) -> Self {
            let (mut host, mut gateway) = (Peers::new(of_host, 1400), Peers::new(of_gateway, 1400));
            host.put(wanted(of_gateway, Some(B), &["0.0.0.0/0"]));
            gateway.put(wanted(of_host, None, &["100.64.0.0/24", "169.254.0.2/32"]));
            Self { host, gateway }
        }

        /// Sends from the host; what comes out at the gateway, as pairs of source and destination.
        fn send(&mut self, packets: Vec<Packet<Ip>>) -> Vec<[[u8; 4]; 2]> {
            let ends = |packet: &Packet| {
                assert_eq!(packet.len(), 20, "without what fills it up");
                [12, 16].map(|at| packet[at..at + 4].try_into().expect("four bytes"))
            };
            self.send_all(packets).iter().map(ends).collect()
        }

        /// Sends from the host, until nobody has more to say; what comes out at the gateway.
        fn send_all(&mut self, packets: Vec<Packet<Ip>>) -> Vec<Packet> {
            let (mut to_gateway, mut to_host) = (Vec::new(), Vec::new());
            self.host.seal(packets.into_iter(), &mut to_gateway);
            let (mut opened, mut none) = (Vec::new(), Vec::new());
            while !(to_gateway.is_empty() && to_host.is_empty()) {
                assert!(to_gateway.iter().all(|(_, to)| *to == B), "where the gateway is");
                let arrived = to_gateway.drain(..).map(|(packet, _)| (packet, A));
                self.gateway.open(arrived, &mut opened, &mut to_host);
                assert!(to_host.iter().all(|(_, to)| *to == A), "where the host was seen");
                let arrived = to_host.drain(..).map(|(packet, _)| (packet, B));
                self.host.open(arrived, &mut none, &mut to_gateway);
            }
            assert!(none.is_empty());
            opened
        }
    }

    #[test]
    fn packets_wait_for_the_handshake_and_come_in_order() {
        let (of_host, of_gateway) = (Keys::new(), Keys::new());
        let mut pair = Pair::new(&of_host, &of_gateway);
        let far = |last: u8| [198, 51, 100, last];
        let from = [100, 64, 0, 9];
        let sent: Vec<_> = (1..=3).map(|last| packet(from, far(last))).collect();
        assert_eq!(pair.send(sent), [1, 2, 3].map(|last| [from, far(last)]));
        let spoken = pair.gateway.spoken()[&of_host.pair().1.to_bytes()];
        assert!(spoken.shaken.is_some() && spoken.received >= 60, "{spoken:?}");
        // The gateway answers where the host was heard.
        let mut sealed = Vec::new();
        let answer = packet(far(1), from);
        pair.gateway.seal([answer].into_iter(), &mut sealed);
        assert_eq!(sealed.first().map(|(_, to)| *to), Some(A));
    }

    #[test]
    fn nobody_sends_what_is_anothers() {
        let mut pair = Pair::new(&Keys::new(), &Keys::new());
        let far = [198, 51, 100, 7];
        let sent = [[100, 64, 1, 9], [10, 0, 0, 1], [169, 254, 0, 3], [100, 64, 0, 200]];
        let sent = sent.map(|from| packet(from, far)).into();
        assert_eq!(pair.send(sent), [[[100, 64, 0, 200], far]]);
        // With other networks the session goes on.
        let key = *pair.gateway.all.keys().next().expect("the host");
        let networks = vec!["100.64.1.0/24".parse().expect("a network")];
        pair.gateway.put(Wanted { key, endpoint: None, networks });
        let sent = [[100, 64, 0, 200], [100, 64, 1, 9]].map(|from| packet(from, far)).into();
        assert_eq!(pair.send(sent), [[[100, 64, 1, 9], far]]);
    }

    #[test]
    fn hosts_have_networks_of_both_families() {
        let (of_host, of_gateway) = (Keys::new(), Keys::new());
        let (mut host, mut gateway) = (Peers::new(&of_host, 1400), Peers::new(&of_gateway, 1400));
        host.put(wanted(&of_gateway, Some(B), &["0.0.0.0/0", "::/0"]));
        gateway.put(wanted(&of_host, None, &["100.64.0.0/24", "fdaa:0:1:5:1::/80"]));
        let v6 = |from: &str, padding: usize| {
            let mut bytes = [0; 40];
            (bytes[0], bytes[6]) = (0x60, 59);
            bytes[8..24].copy_from_slice(&from.parse::<Ipv6Addr>().expect("an address").octets());
            bytes[24] = 0x20;
            let bytes = [&bytes[..], &vec![0; padding]].concat();
            Packet::copy_from(&bytes[..]).try_into_ip().expect("a packet")
        };
        let mut pair = Pair { host, gateway };
        let sent = vec![
            v6("fdaa:0:1:5:1::2", 0),
            v6("fdaa:0:1:5:2::2", 0),
            packet([100, 64, 0, 9], [198, 51, 100, 7]),
            v6("fdaa:0:1:5:1::3", 8),
        ];
        let lengths: Vec<_> = pair.send_all(sent).iter().map(|packet| packet.len()).collect();
        assert_eq!(
            lengths,
            [40, 20, 40],
            "another host's is not heard, nor what is behind the end"
        );
    }

    #[test]
    fn strangers_are_not_heard() {
        let of_gateway = Keys::new();
        let mut pair = Pair::new(&Keys::new(), &of_gateway);
        let mut stranger = Peers::new(&Keys::new(), 1400);
        stranger.put(wanted(&of_gateway, Some(B), &["0.0.0.0/0"]));
        std::mem::swap(&mut pair.host, &mut stranger);
        assert!(pair.send(vec![packet([100, 64, 0, 9], [198, 51, 100, 7])]).is_empty());
    }

    #[test]
    fn with_other_keys_a_session_begins_anew() {
        let (of_host, of_gateway) = (Keys::new(), Keys::new());
        let mut pair = Pair::new(&of_host, &of_gateway);
        let one = || vec![packet([100, 64, 0, 9], [198, 51, 100, 7])];
        assert_eq!(pair.send(one()).len(), 1);
        let next = Keys::new();
        pair.gateway.change_keys(&next);
        assert!(pair.send(one()).is_empty(), "under the old key");
        pair.host.remove(of_gateway.pair().1.to_bytes());
        pair.host.put(wanted(&next, Some(B), &["0.0.0.0/0"]));
        assert_eq!(pair.send(one()).len(), 1);
    }
}
