//! The frames that decisions are timed with, and the rows behind them. A run is fed what the last
//! one left, so every tunnel leads from an endpoint to that same endpoint: each repeat is a hit.
//! What goes between hosts grows or shrinks, so it is run once at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use edge_common::{
    address::Address,
    hosts::{BlockRow, HostRow, MAX_PATHS, Path, PeerRow, UnderlayRow},
    tables::{AddressRow, ForwardRow, Settings, TunnelRow},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::Datapath;
use etherparse::PacketBuilder;

/// A frame, and what a hook must make of it.
pub(crate) struct Case {
    pub(crate) hook: Hook,
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: Verdict,
    /// Each run begins with the frame as it is here.
    pub(crate) anew: bool,
}

const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Where a tunnel of the first half leads, and one of the second half comes from.
const OTHER_PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// The region's number, this host's, and another's.
const REGION: u16 = 5;
const HERE: u16 = 1;
const THERE: u16 = 2;
/// What they have on the underlay.
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
/// Where containers' IPv4 addresses come from, in blocks of so many.
const POOL: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const BLOCK: u32 = 64;
const CONTAINER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 5);
/// The same for replies.
const OTHER_CONTAINER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 6);
/// The first tunnel's public port; the others follow.
const RAW: u16 = 20_000;
/// The first forwarded port of the container; the others follow.
const OWN: u16 = 8000;
/// The number of the first of the further containers.
const FURTHER: u32 = 1000;
/// Behind no tunnel.
const OTHER: u16 = 443;
/// What the other of a pair adds to the port.
const APART: u16 = 20_000;
/// A context of `BPF_PROG_TEST_RUN` has the loopback interface unless it is told otherwise.
const LOOPBACK: u32 = 1;

/// How much is in the tables, beside what the frames need.
pub(crate) struct Size {
    /// Pairs of tunnels; at least one.
    pub(crate) pairs: u16,
    /// Further hosts of the region.
    pub(crate) hosts: u16,
    /// Further containers' addresses.
    pub(crate) addresses: u32,
}

/// Writes settings, two containers, another host, and the rest.
pub(crate) fn fill(datapath: &Datapath, size: &Size) -> Result<()> {
    datapath.configure(&settings()?)?;
    let flags = AddressRow::EGRESS;
    let container = AddressRow { ifindex: LOOPBACK, flags, ..AddressRow::default() };
    for address in [CONTAINER, OTHER_CONTAINER] {
        datapath.add_address(IpAddr::V4(address).into(), container)?;
    }
    let private = AddressRow { flags: AddressRow::I6PN, workspace: 1, ..container };
    for number in [1, 2] {
        datapath.add_address(IpAddr::V6(inner(HERE, number)).into(), private)?;
    }
    for number in 0..size.addresses {
        let [a, b, c, d] = (FURTHER + number).to_be_bytes();
        let last = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        let address = Ipv6Addr::new(0xfdaa, 0, 1, REGION, HERE, 0, last[0], last[1]);
        datapath.add_address(IpAddr::V6(address).into(), private)?;
    }
    others(datapath, size.hosts)?;
    for number in 0..size.pairs {
        let slot = number.into();
        let at = |address: Ipv4Addr, port: u16| SocketAddr::from((address, port + number)).into();
        let public = [at(PUBLIC, RAW), at(OTHER_PUBLIC, RAW + APART)];
        let own = [at(CONTAINER, OWN), at(OTHER_CONTAINER, OWN + APART)];
        for (from, to) in [(0, 1), (1, 0)] {
            let row = TunnelRow {
                container: public[to],
                ifindex: LOOPBACK,
                slot,
                ..TunnelRow::default()
            };
            datapath.add_tunnel(public[from], row)?;
            let row =
                ForwardRow { public: own[to], uplink: LOOPBACK, slot, ..ForwardRow::default() };
            datapath.add_forward(own[from], row)?;
        }
    }
    Ok(())
}

/// A container of workspace 1.
const fn inner(host: u16, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfdaa, 0, 1, REGION, host, 0, 0, number)
}

/// Another host, reached over IPv4, and so many more, each with a block of addresses.
fn others(datapath: &Datapath, more: u16) -> Result<()> {
    datapath.add_underlay(LOOPBACK, UnderlayRow::default())?;
    let [own, _] = UNDERLAY.map(|one| Address::from(IpAddr::V4(one)));
    datapath.add_peer(own, PeerRow { host: HERE.into(), flags: PeerRow::OWN })?;
    for host in (THERE..).take(1 + usize::from(more)) {
        let number = u32::from(host);
        let remote = Ipv4Addr::from_bits(u32::from(UNDERLAY[0]) - 1 + number);
        let remote = Address::from(IpAddr::V4(remote));
        datapath.add_peer(remote, PeerRow { host: number, flags: 0 })?;
        let path = Path { ifindex: LOOPBACK, local: own, remote };
        let paths = [path; MAX_PATHS];
        let row = HostRow { mtu: 1464, path_count: 1, paths, ..HostRow::default() };
        datapath.add_host(number, row)?;
        let block = u32::from(POOL) + number * BLOCK;
        datapath.add_block(block.to_be(), BlockRow { host: number })?;
    }
    Ok(())
}

/// The settings of a machine with edge's default addresses, in a region of several.
pub(crate) fn settings() -> Result<Settings> {
    Ok(Settings {
        mss_v4: 1460,
        mss_v6: 1440,
        region: REGION.into(),
        host: HERE.into(),
        carriage: Settings::GENEVE,
        block_mask: u32::from_ne_bytes([255, 255, 255, 192]),
        pool: IpAddr::from(POOL).into(),
        pool_mask: Address {
            words: [u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes([255, 192, 0, 0])],
        },
        private: "fdaa::".parse::<IpAddr>()?.into(),
        private_mask: "ffff::".parse::<IpAddr>()?.into(),
        ..Settings::default()
    })
}

/// A hit, a miss and a refusal for each hook.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let case = |hook, name: &str, from, to, verdict| -> Result<Case> {
        let (name, frame) = (name.to_owned(), segment(from, to)?);
        Ok(Case { hook, name, frame, verdict, anew: false })
    };
    let client = (CLIENT, 40_000);
    let mut cases = Vec::new();
    for (hook, label) in [(Hook::XdpUplink, "xdp_uplink"), (Hook::TcUplink, "tc_uplink")] {
        let inner = (CONTAINER, OTHER);
        let hit = case(hook, &format!("{label}: hit"), client, (PUBLIC, RAW), Verdict::Tunnel)?;
        let miss =
            case(hook, &format!("{label}: miss"), client, (PUBLIC, OTHER), Verdict::NotOurs)?;
        let refused = case(hook, &format!("{label}: refusal"), client, inner, Verdict::BareInner)?;
        cases.extend([hit, miss, refused]);
    }
    let hook = Hook::TcContainer;
    let forged = (Ipv4Addr::new(100, 64, 0, 7), OWN);
    let hit = case(hook, "tc_container: hit", (CONTAINER, OWN), client, Verdict::Reply)?;
    let miss = case(hook, "tc_container: miss", (CONTAINER, OTHER), client, Verdict::Egress)?;
    let refused = case(hook, "tc_container: refusal", forged, client, Verdict::ForgedSource)?;
    cases.extend([hit, miss, refused]);
    cases.extend(private()?);
    Ok(cases)
}

/// The private network: on one host, to another, and from it.
fn private() -> Result<Vec<Case>> {
    let case = |hook: Hook, what: &str, frame, anew| {
        let name = format!("{}: {what}", hook.label());
        Case { hook, name, frame, verdict: Verdict::I6pn, anew }
    };
    let (own, other) = (inner(HERE, 1), inner(HERE, 2));
    let there = inner(THERE, 1);
    let here = segment_v6(own, other)?;
    let arrives = around(&segment_v6(there, own)?)?;
    Ok(vec![
        case(Hook::TcContainer, "private, here", here, false),
        case(Hook::TcContainer, "private, to a host", segment_v6(own, there)?, true),
        case(Hook::XdpUplink, "private, from a host", arrives.clone(), true),
        case(Hook::TcUplink, "private, from a host", arrives, true),
    ])
}

/// The frame as another host carries it: Geneve in UDP.
fn around(frame: &[u8]) -> Result<Vec<u8>> {
    let [_, _, high, low] = u32::from(REGION).to_be_bytes();
    let geneve = [0, 0, 0x86, 0xdd, 0, high, low, 0];
    let [to, from] = UNDERLAY;
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.octets(), to.octets(), 64)
        .udp(50_000, 6081);
    let payload = [&geneve, &frame[14..]].concat();
    let mut carried = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut carried, &payload)?;
    Ok(carried)
}

/// The same as [`segment`], in IPv6.
fn segment_v6(from: Ipv6Addr, to: Ipv6Addr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6(from.octets(), to.octets(), 64)
        .tcp(40_000, 80, 1, 1000)
        .ack(1);
    let payload = [0; 64];
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload)?;
    Ok(frame)
}

/// A TCP segment of a running connection.
pub(crate) fn segment(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1, 1000)
        .ack(1);
    let payload = [0; 64];
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload)?;
    Ok(frame)
}
