//! Who speaks to whom: pairs that mean something in the scene, and addresses and ports to put in
//! their place.

use std::net::{IpAddr, SocketAddr};

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

use crate::packets::{
    bounds,
    damage::Way,
    scene::{
        BY_GATEWAY, BY_GATEWAY_V6, CLIENT, CLIENT_V6, FAR_CONTAINER, FAR_INNER, FAR_INNER_V6,
        FAR_PUBLIC, FAR_RELAY, INNER, INNER_V6, MEMBERS, NARROW_ENDS, NEIGHBOUR, OTHER_MEMBERS,
        OWN_LISTENER, OWN_PORT, OWN_PORT_V6, PROXIED, PROXIED_ENDING, PROXIED_RAW, PROXIED_V6,
        PUBLIC, PUBLIC_V6, RELAY, RELAY_V6, RELAYED, RELAYED_V6, ROUTER, ROUTER_V6, Region,
        UNDERLAY, UNDERLAY_V6,
    },
};

/// Sender and receiver.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// The scene's ends, parsed once.
pub(super) struct Ends {
    pairs: Vec<Pair>,
    errors: Vec<(Pair, Pair)>,
    brought: Vec<(usize, Pair)>,
    brought_errors: Vec<(usize, (Pair, Pair))>,
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
    (MEMBERS[0], MEMBERS[1]),
    (MEMBERS[0], OTHER_MEMBERS[0]),
    (MEMBERS[0], OWN_PORT),
    (PROXIED[0], CLIENT),
    (PROXIED[1], CLIENT),
    (PROXIED[2], CLIENT),
    (PROXIED_RAW, CLIENT),
    (PROXIED_V6[0], CLIENT_V6),
    (PROXIED_V6[1], CLIENT_V6),
    (PROXIED_V6[2], CLIENT_V6),
    (PROXIED_ENDING[0], CLIENT),
    (PROXIED_ENDING[1], CLIENT_V6),
];

/// At the uplink, in a region of several hosts.
const IN_REGION: &[(&str, &str)] = &[
    (CLIENT, FAR_PUBLIC[0]),
    (CLIENT_V6, FAR_PUBLIC[1]),
    (CLIENT, FAR_PUBLIC[0]),
    (CLIENT_V6, FAR_PUBLIC[1]),
    (CLIENT, "192.0.2.10:20021"),
];

/// From containers and the service, in a region of several hosts.
const OUT_REGION: &[(&str, &str)] = &[
    (OWN_PORT_V6, NEIGHBOUR),
    (OWN_PORT_V6, NEIGHBOUR),
    (OWN_PORT_V6, FAR_CONTAINER),
    (OWN_PORT_V6, FAR_CONTAINER),
    (INNER_V6, FAR_INNER_V6),
    ("[fdaa:0:1:5:1::3]:45000", FAR_CONTAINER),
    ("[fdaa:0:2:5:1::5]:45000", FAR_CONTAINER),
    ("[fdaa:0:2:5:1::5]:45000", "[fdaa:0:2:5:3::5]:45000"),
    (OWN_PORT_V6, "[fdaa:0:1:6:1::2]:80"),
    (OWN_PORT_V6, "[fdaa:0:1:5:9::9]:80"),
    (OWN_PORT_V6, "[fdaa:0:1:5:1::77]:80"),
    (RELAY, FAR_INNER),
    (RELAY, "100.64.0.131:9000"),
    (RELAY, "100.64.0.130:22"),
    (RELAY, "100.64.9.2:8000"),
    (RELAYED, FAR_RELAY),
    (INNER, FAR_RELAY),
    (OWN_PORT, FAR_RELAY),
    (OWN_PORT, FAR_INNER),
    (BY_GATEWAY, CLIENT),
    (BY_GATEWAY, CLIENT),
    (BY_GATEWAY_V6, CLIENT_V6),
    ("100.64.0.2:8101", CLIENT),
    (OWN_PORT, "198.51.100.7:6081"),
    (MEMBERS[0], MEMBERS[2]),
    (MEMBERS[0], OTHER_MEMBERS[1]),
];

/// Brought by the hosts 1 (the gateway) and 2, as the underlay's addresses count them.
const BROUGHT: &[(usize, &str, &str)] = &[
    (2, MEMBERS[2], MEMBERS[0]),
    (2, MEMBERS[2], MEMBERS[1]),
    (2, OTHER_MEMBERS[1], MEMBERS[0]),
    (2, MEMBERS[2], OWN_PORT),
    (1, NEIGHBOUR, OWN_PORT_V6),
    (1, NEIGHBOUR, INNER_V6),
    (2, FAR_CONTAINER, OWN_PORT_V6),
    (2, FAR_CONTAINER, "[fdaa:0:1:5:1::4]:80"),
    (2, FAR_CONTAINER, "[fdaa:0:1:5:1::3]:80"),
    (2, FAR_CONTAINER, "[fdaa:0:2:5:1::5]:80"),
    (2, "[fdaa:0:2:5:3::5]:9", "[fdaa:0:2:5:1::5]:80"),
    (2, FAR_CONTAINER, "[fdaa:0:1:5:1::77]:80"),
    (2, FAR_CONTAINER, "[fdaa:0:1:6:1::2]:80"),
    (2, FAR_CONTAINER, "[fdaa:0:1:5:2::2]:80"),
    (1, FAR_RELAY, RELAYED),
    (1, FAR_RELAY, INNER),
    (1, FAR_RELAY, "100.64.0.3:22"),
    (1, FAR_RELAY, "100.64.0.1:80"),
    (1, "100.64.0.66:1", INNER),
    (2, FAR_INNER, RELAYED),
    (2, FAR_INNER, RELAY),
    (2, "100.64.0.131:9000", RELAY),
    (2, "100.64.0.130:22", RELAY),
    (1, CLIENT, BY_GATEWAY),
    (1, CLIENT, BY_GATEWAY),
    (1, CLIENT_V6, BY_GATEWAY_V6),
    (1, CLIENT, INNER),
    (1, CLIENT, OWN_PORT),
    (1, CLIENT, RELAYED),
    (2, CLIENT, BY_GATEWAY),
    (2, FAR_INNER, CLIENT),
    (2, FAR_INNER, CLIENT),
    (2, FAR_INNER_V6, CLIENT_V6),
    (2, "100.64.0.130:22", CLIENT),
    (2, "100.64.0.131:9000", CLIENT),
    (2, FAR_INNER, "127.0.0.1:80"),
];

/// Errors that they bring: by whom, who complains to whom, and about what.
const BROUGHT_ERRORS: &[(usize, &str, &str, (&str, &str))] = &[
    (1, ROUTER, "100.64.0.2", (BY_GATEWAY, CLIENT)),
    (1, ROUTER_V6, "fdaa:0:1:5:1::2", (BY_GATEWAY_V6, CLIENT_V6)),
    (2, "100.64.0.130", "198.51.100.7", (CLIENT, FAR_INNER)),
    (2, "fdaa:0:1:5:3::2", "2001:db8:1::7", (CLIENT_V6, FAR_INNER_V6)),
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
    "fdaa:0:1:5:1::1",
    "fdaa:0:1:5:1::2",
    "fdaa:0:1:5:1::3",
    "fdaa:0:1:5:1::4",
    "fdaa:0:2:5:1::5",
    "fdaa:0:1:5:2::2",
    "fdaa:0:1:5:3::2",
    "fdaa:0:1:5:9::9",
    "fdaa:0:1:6:3::2",
    "100.64.0.65",
    "100.64.0.130",
    "10.9.0.1",
    "fd09::1",
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

const PORTS: &[u16] = &[
    0, 1, 22, 53, 80, 443, 6081, 8000, 8001, 8100, 9000, 20_000, 20_001, 20_002, 40_000, 50_000,
    65_535,
];

impl Ends {
    pub(super) fn new(way: Way, region: Region) -> Self {
        let end = |text: &str| -> SocketAddr { text.parse().expect("an end") };
        let pair = |(from, to): &(&str, &str)| (end(from), end(to));
        let portless = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
        let error = |from, to, about| ((portless(from), portless(to)), pair(about));
        let alone = region == Region::Alone;
        let mut ends = Self {
            pairs: Vec::new(),
            errors: Vec::new(),
            brought: Vec::new(),
            brought_errors: Vec::new(),
            addresses: [Vec::new(), Vec::new()],
            ports: PORTS.to_vec(),
        };
        match way {
            // A router complains about a tunnel's reply.
            Way::In => {
                ends.pairs.extend(IN.iter().map(pair));
                ends.errors.push(error(ROUTER, "192.0.2.10", &(PUBLIC, CLIENT)));
                ends.errors.push(error(ROUTER_V6, "2001:db8::10", &(PUBLIC_V6, CLIENT_V6)));
            }
            // A container complains about a client's packet; the service about a query.
            Way::Out => {
                ends.pairs.extend(OUT.iter().map(pair));
                let about = [(CLIENT, INNER), (CLIENT_V6, INNER_V6), (CLIENT, RELAYED)];
                let about = about.iter().chain(&[(OWN_PORT, DNS)]).map(pair);
                ends.errors.extend(about.map(|(a, b)| ((b, a), (a, b))));
            }
        }
        if way == Way::In && !alone {
            ends.pairs.extend(IN_REGION.iter().map(pair));
            ends.errors.push(error(ROUTER, "192.0.2.10", &(FAR_PUBLIC[0], CLIENT)));
            ends.errors.push(error(ROUTER_V6, "2001:db8::10", &(FAR_PUBLIC[1], CLIENT_V6)));
            // Or about what was carried to another host.
            let [v4, v6] = NARROW_ENDS;
            let about = (&*format!("{}:50000", UNDERLAY[0]), &*format!("{v4}:6081"));
            ends.errors.push(error(ROUTER, UNDERLAY[0], &about));
            let about = (&*format!("[{}]:50000", UNDERLAY_V6[0]), &*format!("[{v6}]:6081"));
            ends.errors.push(error(ROUTER_V6, UNDERLAY_V6[0], &about));
            let brought = BROUGHT.iter().map(|(host, from, to)| (*host, pair(&(*from, *to))));
            ends.brought.extend(brought);
            let errors = BROUGHT_ERRORS.iter();
            let errors = errors.map(|(host, from, to, about)| (*host, error(from, to, about)));
            ends.brought_errors.extend(errors);
        }
        if way == Way::Out && !alone {
            ends.pairs.extend(OUT_REGION.iter().map(pair));
            let about = [(CLIENT, BY_GATEWAY), (CLIENT_V6, BY_GATEWAY_V6)];
            ends.errors.extend(about.iter().map(pair).map(|(a, b)| ((b, a), (a, b))));
        }
        let addresses = ADDRESSES.iter().map(|text| text.parse::<IpAddr>().expect("an address"));
        let (v4, v6) = addresses.partition(IpAddr::is_ipv4);
        ends.addresses = [v4, v6];
        ends
    }

    /// What another host brings, if there are any, and which.
    pub(super) fn brought(&self, rng: &mut SmallRng) -> Option<(usize, Pair)> {
        let (host, pair) = self.brought.choose(rng)?;
        Some((*host, self.disturbed(*pair, rng)))
    }

    /// The same, of errors.
    pub(super) fn brought_error(&self, rng: &mut SmallRng) -> Option<(usize, (Pair, Pair))> {
        let (host, (outer, quoted)) = self.brought_errors.choose(rng)?;
        Some((*host, (self.disturbed(*outer, rng), self.disturbed(*quoted, rng))))
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
