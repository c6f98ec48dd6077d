//! Two machines of a region on real wires, with the data path alone: no daemon writes these rows.

use std::time::Duration;

use edge_common::{
    geneve,
    hosts::{BlockRow, HostRow, MAX_PATHS, Path, PeerRow, UnderlayRow},
    native::Rows,
    tables::{AddressRow, ForwardRow, LAYOUT, ListenerRow, Settings, TunnelRow},
};
use edge_user::datapath::UplinkMode;

use super::{
    kernel::Kernel,
    raw,
    scene::{ACCOUNTS, address, endpoint, padded},
};
use crate::{netns::NetNs, process::wait_for, wire::Wire};

/// The region's number, and its only workspace.
pub const REGION: u32 = 5;
/// See [`REGION`].
pub const WORKSPACE: u32 = 1;
/// The gateway's number; it runs a container, too.
pub const GATEWAY: u32 = 1;
/// The other host's.
pub const HOST: u32 = 2;
/// The public ends of the tunnel to the host's container, port 8000.
pub const PUBLICS: [&str; 2] = ["192.0.2.10:20001", "[2001:db8::10]:20001"];
/// The tunnel's place in the counters.
pub const SLOT: u32 = 3;

const KEY: [u32; 2] = [0x0123_4567, 0x89ab_cdef];
const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const ROUTER_MAC: &str = "02:00:00:00:00:01";
/// Frames longer than a page fit.
const UNDERLAY_MTU: u32 = 9000;
const PATIENCE: Duration = Duration::from_secs(10);

/// How packets go between the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// In Geneve over IPv4.
    V4,
    /// In Geneve over IPv6.
    V6,
    /// In Geneve over IPv4, with the region's key.
    Keyed,
    /// As they are.
    Direct,
}

impl Carriage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Keyed, Self::Direct];

    /// Bytes of the largest packet between containers.
    pub const fn mtu(self) -> u32 {
        UNDERLAY_MTU
            - match self {
                Self::V4 => geneve::overhead(true, false),
                Self::V6 => geneve::overhead(false, false),
                Self::Keyed => geneve::overhead(true, true),
                Self::Direct => 0,
            }
    }
}

/// Where segments are as long as the kernel can make them, instead of as long as a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// On all wires.
    All,
    /// On the underlay, but not towards the internet.
    Inside,
    /// On none: as if NICs were at their ends.
    None,
}

/// A gateway and a host, each with a container, and a client behind the gateway's uplink.
pub struct Region {
    /// The gateway, then the host.
    pub machines: [Machine; 2],
    /// The client on the internet.
    pub client: NetNs,
    _wires: [Wire; 4],
}

/// One machine.
pub struct Machine {
    /// Its programs and tables.
    pub kernel: Kernel,
    /// Its namespace.
    pub netns: NetNs,
    /// Its container.
    pub container: NetNs,
    interfaces: Vec<&'static str>,
}

/// An address of the container of a machine.
pub fn inner(number: u32) -> [String; 2] {
    [format!("100.64.0.{}", 64 * number + 2), format!("fdaa:0:{WORKSPACE}:{REGION}:{number}::2")]
}

/// What the relay of a machine dials from.
fn relay(number: u32) -> String {
    format!("100.64.0.{}", 64 * number + 1)
}

fn underlay(number: u32) -> [String; 2] {
    [format!("10.9.0.{number}"), format!("fd09::{number}")]
}

impl Region {
    /// Builds it.
    pub fn new(name: &str, carriage: Carriage, mode: UplinkMode, offloads: Offloads) -> Self {
        let ends = ["gateway", "host", "container-1", "container-2", "client"];
        let [gateway, host, one, two, client] =
            ends.map(|end| NetNs::new(&format!("{name}-{end}")));
        let wire = |a: &NetNs, a_name, from: [&str; 2], b: &NetNs, b_name, to: [&str; 2]| {
            let wire = Wire::new(a, a_name, &from, b, b_name, &to);
            let off = offloads == Offloads::None || offloads == Offloads::Inside && a_name == "up0";
            if off { wire.offloads_off() } else { wire }
        };
        let [a, b] = [GATEWAY, HOST].map(underlay);
        let [a, b] = [a, b].map(|[v4, v6]| [format!("{v4}/24"), format!("{v6}/64")]);
        let between = wire(&gateway, "un0", [&a[0], &a[1]], &host, "un0", [&b[0], &b[1]]);
        let between = between.mtu(UNDERLAY_MTU);
        let up = ["192.0.2.10/24", "2001:db8::10/64"];
        let internet =
            wire(&gateway, "up0", up, &client, "eth0", ["192.0.2.20/24", "2001:db8::20/64"]);
        let inside = |number, machine: &NetNs, container: &NetNs| {
            let [v4, v6] = inner(number);
            let own = [format!("{v4}/32"), format!("{v6}/128")];
            let ends = [&own[0][..], &own[1]];
            let wire = Wire::new(machine, "ct0", &[], container, "eth0", &ends).mtu(UNDERLAY_MTU);
            attach(machine, container, carriage.mtu());
            wire
        };
        let wires = [between, internet, inside(GATEWAY, &gateway, &one), inside(HOST, &host, &two)];
        let machines =
            [(GATEWAY, gateway, one), (HOST, host, two)].map(|(number, netns, inside)| {
                let rows = netns.enter(|| rows(number, carriage));
                let kernel = Kernel::load_with(&format!("{name}-{number}"), &rows);
                let interfaces: &[_] = if number == GATEWAY { &["un0", "up0"] } else { &["un0"] };
                netns.enter(|| {
                    for interface in interfaces {
                        kernel.datapath.attach_uplink(interface, mode).expect("on an uplink");
                    }
                    kernel.datapath.attach_container("ct0").expect("a program on the veth");
                });
                let interfaces = [interfaces, &["ct0"]].concat();
                Machine { kernel, netns, container: inside, interfaces }
            });
        Self { machines, client, _wires: wires }
    }
}

/// Wires a container's stack as the daemon does.
fn attach(machine: &NetNs, container: &NetNs, mtu: u32) {
    let [.., last] = CONTAINER_MAC;
    container.ip(&["link", "set", "eth0", "address", &format!("02:00:00:00:00:{last:02x}")]);
    container.ip(&["link", "set", "eth0", "mtu", &mtu.to_string()]);
    machine.ip(&["link", "set", "ct0", "address", ROUTER_MAC]);
    for router in ["169.254.1.1", "fe80::1"] {
        container.ip(&["route", "add", "default", "via", router, "dev", "eth0", "onlink"]);
        container.ip(&["neigh", "replace", router, "lladdr", ROUTER_MAC, "dev", "eth0"]);
    }
    // Its first packet brings more: the kernel puts addresses to use in its own time.
    wait_for("the container's addresses", PATIENCE, || {
        let routes = container.ip(&["-6", "route", "show", "table", "local"]);
        routes.contains("local fdaa:").then_some(())
    });
}

/// What a daemon of this machine would have written; in its namespace, for the interfaces.
fn rows(number: u32, carriage: Carriage) -> Rows {
    let other = if number == GATEWAY { HOST } else { GATEWAY };
    let mut rows = Rows { settings: settings(number, carriage), ..Rows::default() };
    let (un0, ct0) = (raw::index("un0"), raw::index("ct0"));
    let flags = AddressRow::I6PN | AddressRow::EGRESS;
    let (workspace, mac) = (WORKSPACE, padded(CONTAINER_MAC));
    for own in inner(number) {
        let row = AddressRow { ifindex: ct0, flags, workspace, account: ACCOUNTS[0], mac };
        rows.addresses.insert(address(&own), row);
    }
    rows.underlays.insert(un0, UnderlayRow { flags: 0 });
    for (host, own) in [(number, PeerRow::OWN), (other, 0)] {
        let gateway = if host == GATEWAY { PeerRow::GATEWAY } else { 0 };
        rows.blocks.insert(block(&inner(host)[0]), BlockRow { host });
        for one in underlay(host) {
            rows.peers.insert(address(&one), PeerRow { host, flags: own | gateway });
        }
    }
    let family = usize::from(matches!(carriage, Carriage::V6 | Carriage::Direct));
    let [local, remote] = [number, other].map(|host| address(&underlay(host)[family]));
    let path = Path { ifindex: un0, local, remote };
    let is_gateway = other == GATEWAY;
    let host = HostRow {
        flags: if is_gateway { HostRow::GATEWAY } else { 0 },
        mtu: carriage.mtu(),
        path_count: 1,
        relay: if is_gateway { address(&relay(other)).last() } else { 0 },
        paths: [path; MAX_PATHS],
    };
    rows.hosts.insert(other, host);
    for (public, own) in PUBLICS.iter().zip(inner(HOST)) {
        let own = if own.contains(':') { format!("[{own}]:8000") } else { format!("{own}:8000") };
        let (public, container) = (endpoint(public), endpoint(&own));
        let forward = if number == GATEWAY {
            let row = TunnelRow { slot: SLOT, account: ACCOUNTS[0], ..TunnelRow::default() };
            rows.tunnels.insert(public, TunnelRow { container, host: HOST, ..row });
            rows.listeners.insert(public, ListenerRow { kind: ListenerRow::RAW });
            ForwardRow { uplink: raw::index("up0"), ..ForwardRow::default() }
        } else {
            ForwardRow { gateway: GATEWAY, ..ForwardRow::default() }
        };
        let forward = ForwardRow { public, slot: SLOT, account: ACCOUNTS[0], ..forward };
        rows.forwards.insert(container, forward);
    }
    rows
}

/// The network of an address block, as it lies in a header.
fn block(one: &str) -> u32 {
    address(one).last() & u32::from_ne_bytes([255, 255, 255, 192])
}

fn settings(host: u32, carriage: Carriage) -> Settings {
    let keyed = carriage == Carriage::Keyed;
    let direct = carriage == Carriage::Direct;
    let mut settings = Settings {
        layout: LAYOUT,
        mss_v4: carriage.mtu() - 40,
        mss_v6: carriage.mtu() - 60,
        region: REGION,
        host,
        carriage: if direct { Settings::DIRECT } else { Settings::GENEVE },
        key_count: u32::from(keyed),
        keys: if keyed { [KEY, [0; 2]] } else { [[0; 2]; 2] },
        complaints: Settings::COMPLAINTS,
        block_mask: u32::from_ne_bytes([255, 255, 255, 192]),
        relay: address(&relay(host)).last(),
        service: address("169.254.20.10"),
        pool: address("100.64.0.0"),
        pool_mask: address("255.192.0.0"),
        private: address("fdaa::"),
        private_mask: address("ffff::"),
        ..Settings::default()
    };
    settings.pool_mask.words[..3].fill(u32::MAX);
    settings
}

impl Machine {
    /// What its programs made of packets, for people.
    pub fn judged(&self) -> String {
        let verdicts = self.kernel.datapath.verdicts().expect("counters");
        let all = verdicts.iter().filter(|(_, _, count)| count.packets != 0);
        let all = all.map(|(hook, verdict, count)| {
            format!("{} {}: {count:?}", hook.label(), verdict.label())
        });
        all.collect::<Vec<_>>().join("\n")
    }

    /// Says another thing of an address of its container.
    pub fn own(&self, change: impl Fn(&mut AddressRow), number: u32) {
        let veth = self.netns.enter(|| raw::index("ct0"));
        let (workspace, mac) = (WORKSPACE, padded(CONTAINER_MAC));
        let flags = AddressRow::I6PN | AddressRow::EGRESS;
        let account = ACCOUNTS[0];
        let mut row = AddressRow { ifindex: veth, flags, workspace, account, mac };
        change(&mut row);
        for own in inner(number) {
            self.kernel.datapath.add_address(address(&own), row).expect("a row");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Pins would keep the programs attached for as long as the interfaces live.
        self.netns
            .enter(|| self.interfaces.iter().for_each(|one| self.kernel.datapath.detach(one)));
    }
}
