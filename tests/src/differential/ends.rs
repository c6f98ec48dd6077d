//! Who speaks to whom: pairs that mean something in the scene, and addresses and ports to put in
//! their place.

use std::net::{IpAddr, SocketAddr};

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

use crate::packets::{
    bounds,
    damage::Way,
    scene::{
        CLIENT, CLIENT_V6, INNER, INNER_V6, OWN_LISTENER, OWN_PORT, OWN_PORT_V6, PUBLIC, PUBLIC_V6,
        RELAY, RELAY_V6, RELAYED, RELAYED_V6, ROUTER, ROUTER_V6,
    },
};

/// Sender and receiver.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// The scene's ends, parsed once.
pub(super) struct Ends {
    pairs: Vec<Pair>,
    errors: Vec<(Pair, Pair)>,
    addresses: [Vec<IpAddr>; 2],
    ports: Vec<u16>,
}

const DNS: &str = "169.254.20.10:53";
const API: &str = "169.254.20.10:80";
const QUIET_PORT: &str = "100.64.0.3:45000";
const OTHER_PORT: &str = "100.64.0.4:45000";

/// At the uplink.
const IN: &[(&str, &str)] = &[
    (CLIENT, PUBLIC),
    (CLIENT, PUBLIC),
    (CLIENT, PUBLIC),
    (CLIENT_V6, PUBLIC_V6),
    (CLIENT_V6, PUBLIC_V6),
    (CLIENT_V6, PUBLIC_V6),
    (CLIENT, bounds::LISTED[0]),
    (CLIENT_V6, bounds::LISTED[1]),
    ("203.0.113.128:9", bounds::LISTED[0]),
    (CLIENT, bounds::ONLY_V6[0]),
    (CLIENT_V6, bounds::ONLY_V6[1]),
    (CLIENT, bounds::PACED[0]),
    (CLIENT_V6, bounds::PACED[1]),
    ("198.51.100.6:9", bounds::SHARED[0]),
    (CLIENT, bounds::SHARED[0]),
    (CLIENT, bounds::BOTH[0]),
    (CLIENT_V6, bounds::BOTH[1]),
];

/// From containers and the service.
const OUT: &[(&str, &str)] = &[
    (INNER, CLIENT),
    (INNER, CLIENT),
    (INNER_V6, CLIENT_V6),
    (INNER_V6, CLIENT_V6),
    (OWN_PORT, CLIENT),
    (OWN_PORT_V6, CLIENT_V6),
    (OWN_PORT, DNS),
    (OWN_PORT, API),
    (QUIET_PORT, CLIENT),
    (QUIET_PORT, DNS),
    (OTHER_PORT, CLIENT),
    (OTHER_PORT, API),
    (RELAYED, CLIENT),
    (RELAY, RELAYED),
    (RELAY, INNER),
    (RELAY_V6, RELAYED_V6),
    (RELAYED, RELAY),
    (RELAYED_V6, RELAY_V6),
    (INNER, RELAY),
    (DNS, OWN_PORT),
    (API, OTHER_PORT),
    (OWN_PORT, PUBLIC),
    (OWN_PORT_V6, PUBLIC_V6),
    (INNER, PUBLIC),
    (OWN_PORT, OWN_LISTENER),
    (QUIET_PORT, PUBLIC),
    (OWN_PORT, OTHER_PORT),
    (INNER, RELAYED),
    (OWN_PORT, "100.64.77.7:80"),
    (OWN_PORT_V6, "[fdaa:9::9]:80"),
];

const ADDRESSES: &[&str] = &[
    "192.0.2.10",
    "192.0.2.11",
    "198.51.100.6",
    "203.0.113.127",
    "203.0.113.128",
    "198.51.100.7",
    ROUTER,
    "100.64.0.1",
    "100.64.0.2",
    "100.64.0.3",
    "100.64.0.4",
    "100.64.9.9",
    "100.127.255.255",
    "100.63.255.255",
    "100.128.0.0",
    "169.254.20.10",
    "169.254.1.1",
    "169.254.169.254",
    "127.0.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "192.168.1.1",
    "223.255.255.255",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "2001:db8::10",
    "2001:db8::11",
    "2001:db8:1::7",
    "2001:db8:1::ffff",
    "2001:db8:1:1::7",
    "2001:db8:2::7",
    ROUTER_V6,
    "fdaa:0:1::1",
    "fdaa:0:1::2",
    "fdaa:0:1::3",
    "fdaa:0:1::4",
    "fdaa:ffff::1",
    "fda9:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fdab::",
    "fd00::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "::",
    "::1",
    "::1:0:0:0",
    "0:0:0:1::",
    "::192.0.2.10",
    "::ffff:192.0.2.10",
    "::ffff:198.51.100.7",
    "::ffff:100.64.0.2",
    "::ffff:169.254.20.10",
    "64:ff9b::192.0.2.10",
];

const PORTS: &[u16] =
    &[0, 1, 22, 53, 80, 443, 8000, 8001, 9000, 20_000, 20_001, 20_002, 40_000, 50_000, 65_535];

impl Ends {
    pub(super) fn new(way: Way) -> Self {
        let end = |text: &str| -> SocketAddr { text.parse().expect("an end") };
        let pair = |(from, to): &(&str, &str)| (end(from), end(to));
        let portless = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
        let (pairs, errors) = match way {
            // A router complains about a tunnel's reply.
            Way::In => {
                let v4 = (portless(ROUTER), portless("192.0.2.10"));
                let v6 = (portless(ROUTER_V6), portless("2001:db8::10"));
                let about = [(v4, pair(&(PUBLIC, CLIENT))), (v6, pair(&(PUBLIC_V6, CLIENT_V6)))];
                (IN.iter().map(pair).collect(), about.to_vec())
            }
            // A container complains about a client's packet; the service about a query.
            Way::Out => {
                let about = [(CLIENT, INNER), (CLIENT_V6, INNER_V6), (CLIENT, RELAYED)];
                let about = about.iter().chain(&[(OWN_PORT, DNS)]).map(pair);
                (OUT.iter().map(pair).collect(), about.map(|(a, b)| ((b, a), (a, b))).collect())
            }
        };
        let addresses = ADDRESSES.iter().map(|text| text.parse::<IpAddr>().expect("an address"));
        let (v4, v6) = addresses.partition(IpAddr::is_ipv4);
        Self { pairs, errors, addresses: [v4, v6], ports: PORTS.to_vec() }
    }

    /// Most are as the scene has them; some have one end of something else.
    pub(super) fn pair(&self, rng: &mut SmallRng) -> Pair {
        let pair = *self.pairs.choose(rng).expect("pairs");
        self.disturbed(pair, rng)
    }

    /// Who complains to whom, and the pair that is complained about.
    pub(super) fn error(&self, rng: &mut SmallRng) -> (Pair, Pair) {
        let (outer, quoted) = *self.errors.choose(rng).expect("pairs");
        (self.disturbed(outer, rng), self.disturbed(quoted, rng))
    }

    fn disturbed(&self, (mut source, mut destination): Pair, rng: &mut SmallRng) -> Pair {
        if rng.random_bool(0.75) {
            return (source, destination);
        }
        for end in [&mut source, &mut destination] {
            if rng.random_bool(0.35) {
                // Seldom of the other family: such a packet is of IPv6, with a mapped end.
                let is_v6 = end.is_ipv6() ^ rng.random_bool(0.02);
                let list = &self.addresses[usize::from(is_v6)];
                end.set_ip(*list.choose(rng).expect("addresses"));
            }
            if rng.random_bool(0.35) {
                let known = *self.ports.choose(rng).expect("ports");
                end.set_port(if rng.random_bool(0.8) { known } else { rng.random() });
            }
        }
        (source, destination)
    }
}
