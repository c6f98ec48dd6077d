//! The host that all packet tables play on: its settings and rows, natively and in the kernel.
//! Alone it is a region of one machine; [`Region`] says how packets go to others.

use std::net::{IpAddr, SocketAddr};

use edge_common::{
    account::{Lane, NOBODY},
    address::{Address, Endpoint},
    admit::Pace,
    hosts::{BlockRow, HostRow, MAX_PATHS, Path, PeerRow, UnderlayRow},
    native::Rows,
    tables::{
        AddressRow, ForwardRow, LAYOUT, ListenerRow, MemberRow, ProxyRow, Settings, TunnelRow,
    },
};
use edge_user::datapath::{Datapath, DatapathError};

/// Who has addresses on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The host-side veth.
    pub ifindex: u32,
    /// The MAC address inside.
    pub mac: [u8; 6],
}

/// `BPF_PROG_TEST_RUN` gives every skb the loopback device: whoever sends in a table has its index.
pub const SENDER: u32 = 1;
/// The uplink.
pub const UPLINK: u32 = 4;

/// The container with a raw tunnel and with egress.
pub const SERVER: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0a] };
/// A container without egress and without a raw tunnel.
pub const QUIET: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0b] };
/// A container behind another veth.
pub const OTHER: Owner = Owner { ifindex: 9, mac: [2, 0, 0, 0, 0, 0x0c] };
/// A container of another workspace.
pub const STRANGER: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0e] };
/// A member of a cluster, with a fellow on this host and one on [`FAR`]; see [`MEMBERS`].
pub const MEMBER: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0f] };
/// See [`MEMBER`].
pub const FELLOW: Owner = Owner { ifindex: 9, mac: [2, 0, 0, 0, 0, 0x10] };
/// A container whose proxy another gateway serves; see [`PROXIED`].
pub const CLIENT_OF_PROXY: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x11] };
/// The daemon's service namespace.
pub const SERVICE: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0d] };

/// [`SERVER`]'s tunnel as the internet sees it, and its port inside; IPv4.
pub const PUBLIC: &str = "192.0.2.10:20001";
/// See [`PUBLIC`].
pub const INNER: &str = "100.64.0.2:8000";
/// The place of the IPv4 rows in the traffic counters.
pub const SLOT: u32 = 3;
/// See [`PUBLIC`]; IPv6.
pub const PUBLIC_V6: &str = "[2001:db8::10]:20001";
/// See [`PUBLIC`]; IPv6.
pub const INNER_V6: &str = "[fdaa:0:1:5:1::2]:8000";
/// The place of the IPv6 rows in the traffic counters. The daemon gives both families one slot;
/// two tell more.
pub const SLOT_V6: u32 = 5;

/// Ports of [`MEMBER`], of [`FELLOW`] and of their fellow on [`FAR`].
pub const MEMBERS: [&str; 3] = ["100.64.0.6:45000", "100.64.0.7:29500", "100.64.0.140:29500"];
/// Ports of [`OTHER`] and of its fellow on [`FAR`], of another cluster.
pub const OTHER_MEMBERS: [&str; 2] = ["100.64.0.4:29500", "100.64.0.141:29500"];

/// Ports of containers whose proxies another gateway serves, this machine, and nobody.
pub const PROXIED: [&str; 3] = ["100.64.0.20:45000", "100.64.0.21:45000", "100.64.0.22:45000"];
/// A port of one whose flows spread over several ways, all to the gateway of the first.
pub const PROXIED_SPREAD: &str = "100.64.0.23:45000";
/// The same, IPv6, of the first three: the last one's address has no IPv6 beside it.
pub const PROXIED_V6: [&str; 3] =
    ["[fdaa:0:1:5:1::8]:45000", "[fdaa:0:1:5:1::9]:45000", "[fdaa:0:1:5:1::a]:45000"];
/// Ports of one whose addresses all go, IPv4 and IPv6: nothing begins.
pub const PROXIED_ENDING: [&str; 2] = ["100.64.0.24:45000", "[fdaa:0:1:5:1::b]:45000"];
/// A port of the first that has a row as a raw tunnel's, which it should not.
pub const PROXIED_RAW: &str = "100.64.0.20:8000";
/// Its traffic's slot, and that of [`RELAYED`] and [`RELAYED_V6`].
pub const RELAYED_SLOT: u32 = 7;
/// The WireGuard interface to the gateway, and bytes of the largest packet on it.
pub const WIREGUARD: (u32, u32) = (11, 1250);

/// A public port that a socket of its own serves (TLS).
pub const OWN_LISTENER: &str = "192.0.2.10:443";
/// A port of [`QUIET`] that only userspace serves.
pub const RELAYED: &str = "100.64.0.3:9000";
/// The same, IPv6.
pub const RELAYED_V6: &str = "[fdaa:0:1:5:1::3]:9000";
/// Where the relay dials from.
pub const RELAY: &str = "100.64.0.1:50000";
/// The same, IPv6.
pub const RELAY_V6: &str = "[fdaa:0:1:5:1::1]:50000";

/// Somebody on the internet.
pub const CLIENT: &str = "198.51.100.7:40000";
/// See [`CLIENT`]; IPv6.
pub const CLIENT_V6: &str = "[2001:db8:1::7]:40000";
/// A router on the way.
pub const ROUTER: &str = "203.0.113.9";
/// See [`ROUTER`]; IPv6.
pub const ROUTER_V6: &str = "2001:db8:2::9";
/// A port of [`SERVER`] that is not forwarded.
pub const OWN_PORT: &str = "100.64.0.2:45000";
/// See [`OWN_PORT`]; IPv6.
pub const OWN_PORT_V6: &str = "[fdaa:0:1:5:1::2]:45000";

/// The largest segments that fit.
pub const MSS: u16 = 1300;
/// See [`MSS`].
pub const MSS_V6: u16 = 1280;

/// The accounts of workspace 1, of workspace 2, and of tunnels to [`FAR`]; the daemon would give
/// the last the first's, but three tell more.
pub const ACCOUNTS: [u32; 3] = [2 * Lane::COUNT, 3 * Lane::COUNT, 4 * Lane::COUNT];

/// An address of a table.
pub fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address in a table").into()
}

/// An endpoint of a table.
pub fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an endpoint in a table").into()
}

/// A MAC address as rows hold it.
pub const fn padded([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    [a, b, c, d, e, f, 0, 0]
}

/// The region's number, and this host's in it.
pub const REGION: u32 = 5;
/// See [`REGION`].
pub const OWN_HOST: u32 = 1;
/// A gateway; it is reached over IPv4.
pub const GATEWAY: u32 = 2;
/// A host without a public address; it is reached by two ways over IPv6.
pub const FAR: u32 = 3;
/// A host to which nothing is sent, and whose way is as narrow as one can be.
pub const NARROW: u32 = 0x55;
/// What [`GATEWAY`]'s relay dials from.
pub const FAR_RELAY: &str = "100.64.0.65:50000";
/// A port of a container of [`FAR`]'s that this host forwards, as a gateway; IPv4.
pub const FAR_INNER: &str = "100.64.0.130:8000";
/// See [`FAR_INNER`]; IPv6.
pub const FAR_INNER_V6: &str = "[fdaa:0:1:5:3::2]:8000";
/// Its public ends.
pub const FAR_PUBLIC: [&str; 2] = ["192.0.2.10:20020", "[2001:db8::10]:20020"];
/// Its place in the traffic counters.
pub const FAR_SLOT: u32 = 17;
/// A port of [`SERVER`] whose clients come by [`GATEWAY`]; IPv4.
pub const BY_GATEWAY: &str = "100.64.0.2:8100";
/// See [`BY_GATEWAY`]; IPv6.
pub const BY_GATEWAY_V6: &str = "[fdaa:0:1:5:1::2]:8100";
/// Its place in the traffic counters.
pub const BY_GATEWAY_SLOT: u32 = 18;
/// A container of [`GATEWAY`]'s.
pub const NEIGHBOUR: &str = "[fdaa:0:1:5:2::2]:45000";
/// A container of [`FAR`]'s.
pub const FAR_CONTAINER: &str = "[fdaa:0:1:5:3::9]:45000";
/// Bytes of the largest packet to [`GATEWAY`], and to [`FAR`].
pub const MTU: u32 = 1400;
/// See [`MTU`].
pub const FAR_MTU: u32 = 1300;

/// Addresses on the underlay: this host's, [`GATEWAY`]'s and [`FAR`]'s; IPv4.
pub const UNDERLAY: [&str; 3] = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];
/// See [`UNDERLAY`]; IPv6.
pub const UNDERLAY_V6: [&str; 3] = ["fd09::1", "fd09::2", "fd09::3"];
/// [`FAR`]'s second address.
pub const FAR_SECOND: &str = "fd0a::3";
/// [`NARROW`]'s addresses.
pub const NARROW_ENDS: [&str; 2] = ["172.31.77.88", "fd77:8888:9999::aaaa"];
/// The interfaces towards the underlay.
pub const UNDERLAYS: [u32; 2] = [6, 7];

/// How packets go to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// There are none.
    Alone,
    /// In Geneve.
    Geneve,
    /// In Geneve, with a key.
    Keyed,
    /// As they are.
    Direct,
}

impl Region {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Alone, Self::Geneve, Self::Keyed, Self::Direct];
    /// The keys, as they lie in a packet: the first is sent.
    pub const KEYS: [[u8; 8]; 2] = [*b"key now.", *b"key then"];
}

/// All rows of a machine that is alone.
pub fn rows() -> Rows {
    rows_in(Region::Alone)
}

/// All rows.
pub fn rows_in(region: Region) -> Rows {
    let mut rows = Rows { settings: settings(region), ..Rows::default() };
    let all = AddressRow::EGRESS | AddressRow::I6PN;
    let proxied = AddressRow::EGRESS | AddressRow::PROXIED;
    for (owner, flags, workspace, addresses) in [
        (SERVER, all, 1, &["100.64.0.2", "fdaa:0:1:5:1::2"][..]),
        (QUIET, 0, 1, &["100.64.0.3", "fdaa:0:1:5:1::3"]),
        (OTHER, all, 1, &["100.64.0.4", "fdaa:0:1:5:1::4"]),
        (STRANGER, all, 2, &["100.64.0.5", "fdaa:0:2:5:1::5"]),
        (MEMBER, all, 1, &["100.64.0.6", "fdaa:0:1:5:1::6"]),
        (FELLOW, all, 1, &["100.64.0.7", "fdaa:0:1:5:1::7"]),
        (CLIENT_OF_PROXY, proxied, 1, &["100.64.0.20", "fdaa:0:1:5:1::8"]),
        (CLIENT_OF_PROXY, proxied, 1, &["100.64.0.21", "100.64.0.22", "100.64.0.23"]),
        (CLIENT_OF_PROXY, proxied, 1, &["fdaa:0:1:5:1::9", "fdaa:0:1:5:1::a"]),
        (CLIENT_OF_PROXY, proxied, 1, &["100.64.0.24", "fdaa:0:1:5:1::b"]),
        (SERVICE, AddressRow::SERVICE, 0, &["169.254.20.10", "100.64.0.1", "fdaa:0:1:5:1::1"]),
    ] {
        let account = [NOBODY, ACCOUNTS[0], ACCOUNTS[1]][workspace as usize];
        let (ifindex, mac) = (owner.ifindex, padded(owner.mac));
        let row = AddressRow { ifindex, flags, workspace, account, mac };
        rows.addresses.extend(addresses.iter().map(|one| (address(one), row)));
    }
    for (public, inner, slot) in [(PUBLIC, INNER, SLOT), (PUBLIC_V6, INNER_V6, SLOT_V6)] {
        let (public, inner) = (endpoint(public), endpoint(inner));
        let (ifindex, mac) = (SERVER.ifindex, padded(SERVER.mac));
        let [account, ..] = ACCOUNTS;
        let row = TunnelRow { ifindex, slot, account, mac, ..TunnelRow::default() };
        rows.tunnels.insert(public, TunnelRow { container: inner, ..row });
        let row = ForwardRow { public, uplink: UPLINK, gateway: 0, slot, account };
        rows.forwards.insert(inner, row);
    }
    for inner in [RELAYED, RELAYED_V6] {
        let row = ForwardRow { slot: RELAYED_SLOT, account: ACCOUNTS[0], ..ForwardRow::default() };
        rows.forwards.insert(endpoint(inner), row);
    }
    for (ends, mark) in [(&MEMBERS[..], 7), (&OTHER_MEMBERS, 8)] {
        for end in ends {
            rows.members.insert(endpoint(end).address.last(), MemberRow { mark });
        }
    }
    let (ifindex, mtu) = WIREGUARD;
    let mut by_one = ProxyRow { mtu, ..ProxyRow::HERE };
    by_one.ways[0] = ifindex;
    let by_many = ProxyRow { ways: [ifindex; ProxyRow::WAYS], fresh: 5, count: 7, ..by_one };
    let here = ProxyRow::HERE;
    let v4 = [(PROXIED[0], by_one), (PROXIED[1], here), (PROXIED_SPREAD, by_many)];
    for (end, row) in v4.into_iter().chain([(PROXIED_V6[0], by_one), (PROXIED_V6[1], here)]) {
        rows.proxies.insert(endpoint(end).address, row);
    }
    for end in PROXIED_ENDING {
        rows.proxies.insert(endpoint(end).address, ProxyRow { fresh: 0, ..by_many });
    }
    let row = ForwardRow {
        public: endpoint(PUBLIC),
        uplink: UPLINK,
        slot: RELAYED_SLOT,
        gateway: 0,
        account: ACCOUNTS[0],
    };
    rows.forwards.insert(endpoint(PROXIED_RAW), row);
    for (public, kind) in [
        (PUBLIC, ListenerRow::RAW),
        (PUBLIC_V6, ListenerRow::RAW),
        ("127.0.0.1:20001", ListenerRow::RAW),
        ("[::1]:20001", ListenerRow::RAW),
        (OWN_LISTENER, ListenerRow::OWN),
    ] {
        rows.listeners.insert(endpoint(public), ListenerRow { kind });
    }
    if region != Region::Alone {
        others(&mut rows, region);
    }
    rows
}

fn settings(region: Region) -> Settings {
    let mut settings = Settings {
        layout: LAYOUT,
        mss_v4: MSS.into(),
        mss_v6: MSS_V6.into(),
        // Whoever is refused in a table is told so.
        complaints: Pace { interval: 1, slack: u64::MAX / 2 },
        service: address("169.254.20.10"),
        pool: address("100.64.0.0"),
        pool_mask: address("255.192.0.0"),
        private: address("fdaa::"),
        private_mask: address("ffff::"),
        ..Settings::default()
    };
    // A mapped IPv4 mask covers the mapping as well.
    settings.pool_mask.words[..3].fill(u32::MAX);
    if region == Region::Alone {
        return settings;
    }
    settings.region = REGION;
    settings.host = OWN_HOST;
    settings.carriage = if region == Region::Direct { Settings::DIRECT } else { Settings::GENEVE };
    if region == Region::Keyed {
        settings.key_count = 2;
        settings.keys = Region::KEYS.map(|key| {
            let [a, b, c, d, e, f, g, h] = key;
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        });
    }
    settings.block_mask = u32::from_ne_bytes([255, 255, 255, 192]);
    settings.relay = address("100.64.0.1").last();
    settings
}

/// What is known of other hosts.
fn others(rows: &mut Rows, region: Region) {
    // `BPF_PROG_TEST_RUN` lets every frame come in by the loopback device.
    rows.underlays.insert(SENDER, UnderlayRow { flags: 0 });
    for (index, host) in [OWN_HOST, GATEWAY, FAR].into_iter().enumerate() {
        let flags = [PeerRow::OWN, PeerRow::GATEWAY, 0][index];
        for one in [UNDERLAY[index], UNDERLAY_V6[index]] {
            rows.peers.insert(address(one), PeerRow { host, flags });
        }
    }
    rows.peers.insert(address(FAR_SECOND), PeerRow { host: FAR, flags: 0 });
    for one in NARROW_ENDS {
        rows.peers.insert(address(one), PeerRow { host: NARROW, flags: 0 });
    }
    let path = |number: usize, local, remote| Path {
        ifindex: UNDERLAYS[number],
        local: address(local),
        remote: address(remote),
    };
    let v4 = match region {
        // A next hop is an IPv6 address, whatever goes there.
        Region::Direct => path(0, UNDERLAY_V6[0], UNDERLAY_V6[1]),
        _ => path(0, UNDERLAY[0], UNDERLAY[1]),
    };
    let (one, two) = (path(0, UNDERLAY_V6[0], UNDERLAY_V6[2]), path(1, "fd0a::1", FAR_SECOND));
    let gateway = HostRow {
        flags: HostRow::GATEWAY,
        mtu: MTU,
        path_count: 1,
        relay: address("100.64.0.65").last(),
        paths: [v4; MAX_PATHS],
    };
    let far =
        HostRow { mtu: FAR_MTU, path_count: 2, paths: [one, two, v4, v4], ..HostRow::default() };
    let narrow = HostRow { mtu: 576, path_count: 1, paths: [v4; 4], ..HostRow::default() };
    rows.hosts.extend([(GATEWAY, gateway), (FAR, far), (NARROW, narrow)]);
    for (network, host) in [
        ("100.64.0.0", OWN_HOST),
        ("100.64.0.64", GATEWAY),
        ("100.64.0.128", FAR),
        // Of a host that nobody knows.
        ("100.64.9.0", 9),
    ] {
        rows.blocks.insert(address(network).last(), BlockRow { host });
    }
    let [account, _, far_account] = ACCOUNTS;
    for (index, (far, own)) in
        [(FAR_INNER, BY_GATEWAY), (FAR_INNER_V6, BY_GATEWAY_V6)].into_iter().enumerate()
    {
        let (container, public) = (endpoint(far), endpoint(FAR_PUBLIC[index]));
        let row = TunnelRow { slot: FAR_SLOT, account: far_account, ..TunnelRow::default() };
        rows.tunnels.insert(public, TunnelRow { container, host: FAR, ..row });
        let row =
            ForwardRow { public, uplink: UPLINK, gateway: 0, slot: FAR_SLOT, account: far_account };
        rows.forwards.insert(container, row);
        let row =
            ForwardRow { public, uplink: 0, gateway: GATEWAY, slot: BY_GATEWAY_SLOT, account };
        rows.forwards.insert(endpoint(own), row);
    }
    // Only userspace serves this one, at whichever gateway.
    let row = ForwardRow { slot: FAR_SLOT, account: far_account, ..ForwardRow::default() };
    rows.forwards.insert(endpoint("100.64.0.131:9000"), row);
    // One whose host nobody knows, and one whose gateway nobody knows.
    let lost = TunnelRow {
        container: endpoint("100.64.9.2:8000"),
        host: 9,
        slot: FAR_SLOT,
        account: far_account,
        ..TunnelRow::default()
    };
    rows.tunnels.insert(endpoint("192.0.2.10:20021"), lost);
    let row = ForwardRow { gateway: 9, slot: BY_GATEWAY_SLOT, account, ..ForwardRow::default() };
    rows.forwards.insert(endpoint("100.64.0.2:8101"), row);
}

/// Writes the same rows into the kernel's tables.
pub fn install(rows: &Rows, datapath: &Datapath) -> Result<(), DatapathError> {
    datapath.configure(&rows.settings)?;
    for (number, account) in (1..).zip(ACCOUNTS) {
        assert_eq!(datapath.account(number, &format!("workspace-{number}"), None)?, account);
    }
    for (address, row) in &rows.addresses {
        datapath.add_address(*address, *row)?;
    }
    for (public, row) in &rows.tunnels {
        datapath.add_tunnel(*public, *row)?;
    }
    for (inner, row) in &rows.forwards {
        datapath.add_forward(*inner, *row)?;
    }
    for (public, row) in &rows.listeners {
        datapath.add_listener(*public, *row)?;
    }
    for (ifindex, row) in &rows.underlays {
        datapath.add_underlay(*ifindex, *row)?;
    }
    for (address, row) in &rows.peers {
        datapath.add_peer(*address, *row)?;
    }
    for (number, row) in &rows.hosts {
        datapath.add_host(*number, *row)?;
    }
    for (network, row) in &rows.blocks {
        datapath.add_block(*network, *row)?;
    }
    for (address, row) in &rows.members {
        datapath.add_member(*address, *row)?;
    }
    for (container, row) in &rows.proxies {
        datapath.add_proxy(*container, *row)?;
    }
    Ok(())
}
