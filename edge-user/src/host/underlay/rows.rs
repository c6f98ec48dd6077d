//! From the region's view to rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use edge_common::{
    hosts::{BlockRow, HostRow, MAX_PATHS, Path, PeerRow, UnderlayRow},
    tables::Settings,
};
use ipnet::Ipv4Net;

use crate::region::{
    roster::{Carriage, RegionSettings, Role},
    view::{Host, View},
};

/// This machine, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its number.
    pub host: u16,
    /// Whether it is a gateway.
    pub gateway: bool,
    /// Its interfaces towards the others, in the order in which they were named.
    pub interfaces: Vec<Interface>,
}

/// An interface towards the region's other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// The addresses that the others send to, at most one of a family.
    pub addresses: Vec<IpAddr>,
}

/// What the tables shall hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// What all machines have in common; none before the first view.
    pub(super) region: Option<Arc<RegionSettings>>,
    pub(super) peers: BTreeMap<IpAddr, Peer>,
    pub(super) hosts: BTreeMap<u16, Way>,
    pub(super) blocks: BTreeMap<Ipv4Net, u16>,
    /// Hosts that no address leads to.
    pub(super) unreachable: BTreeSet<u16>,
}

/// Who has an address of the underlay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Peer {
    host: u16,
    own: bool,
    gateway: bool,
}

/// The way to a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    gateway: bool,
    relay: Option<Ipv4Addr>,
    mtu: u32,
    /// The interface, this machine's address and the other's.
    paths: Vec<(u32, IpAddr, IpAddr)>,
}

/// What the tables of this machine shall hold, with this view.
pub(super) fn rows(own: &Own, view: &View) -> Rows {
    let mut rows = Rows { region: Some(view.settings.clone()), ..Rows::default() };
    for address in own.interfaces.iter().flat_map(|interface| &interface.addresses) {
        let peer = Peer { host: own.host, own: true, gateway: own.gateway };
        rows.peers.insert(*address, peer);
    }
    for (number, host) in &view.hosts {
        rows.blocks.extend(host.record.blocks.iter().map(|block| (*block, *number)));
        if *number == own.host {
            continue;
        }
        let gateway = host.record.role == Role::Gateway;
        for address in &host.record.about.underlay {
            // Whatever another machine claims, this one's addresses are its own.
            let peer = || Peer { host: *number, own: false, gateway };
            rows.peers.entry(*address).or_insert_with(peer);
        }
        let paths = paths(own, host, view.settings.carriage);
        if paths.is_empty() {
            // One that has just joined has not said where it is.
            if !host.record.about.underlay.is_empty() {
                rows.unreachable.insert(*number);
            }
            continue;
        }
        let relay = gateway.then(|| relay(host)).flatten();
        rows.hosts.insert(*number, Way { gateway, relay, mtu: view.settings.mtu, paths });
    }
    rows
}

/// The i-th own address of a family goes with the other's i-th.
fn paths(own: &Own, other: &Host, carriage: Carriage) -> Vec<(u32, IpAddr, IpAddr)> {
    let families = match carriage {
        Carriage::Geneve => &[true, false][..],
        // The next hop is told to the kernel as an IPv6 address.
        Carriage::Direct => &[false],
    };
    let mut paths = Vec::new();
    for v4 in families {
        let of_family = |address: &IpAddr| address.is_ipv4() == *v4;
        let ours = own.interfaces.iter().flat_map(|interface| {
            let addresses = interface.addresses.iter().copied().filter(of_family);
            addresses.map(|address| (interface.index, address))
        });
        let theirs = other.record.about.underlay.iter().copied().filter(of_family);
        let pairs = ours.zip(theirs).map(|((index, local), remote)| (index, local, remote));
        paths.extend(pairs);
    }
    paths.truncate(MAX_PATHS);
    paths
}

/// What a gateway's relay dials from: see [`crate::region::addresses::Addresses::service`].
fn relay(gateway: &Host) -> Option<Ipv4Addr> {
    gateway.record.blocks.first()?.hosts().next()
}

impl Peer {
    pub(super) fn row(&self) -> PeerRow {
        let flag = |holds, flag| if holds { flag } else { 0 };
        let flags = flag(self.own, PeerRow::OWN) | flag(self.gateway, PeerRow::GATEWAY);
        PeerRow { host: self.host.into(), flags }
    }
}

impl Way {
    pub(super) fn row(&self) -> HostRow {
        let mut row = HostRow {
            flags: if self.gateway { HostRow::GATEWAY } else { 0 },
            mtu: self.mtu,
            relay: self.relay.map(in_header).unwrap_or_default(),
            ..HostRow::default()
        };
        for (slot, (ifindex, local, remote)) in row.paths.iter_mut().zip(&self.paths) {
            *slot = Path { ifindex: *ifindex, local: (*local).into(), remote: (*remote).into() };
            row.path_count += 1;
        }
        row
    }
}

/// The kernel half's settings, with what the region tells.
pub(super) fn settings(base: Settings, region: &RegionSettings) -> Settings {
    let mut keys = [[0; 2]; Settings::KEYS];
    for (slot, key) in keys.iter_mut().zip(&region.keys) {
        let [a, b, c, d, e, f, g, h] = key.to_be_bytes();
        *slot = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])];
    }
    let carriage = match region.carriage {
        Carriage::Geneve => Settings::GENEVE,
        Carriage::Direct => Settings::DIRECT,
    };
    let key_count = region.keys.len().min(Settings::KEYS) as u32;
    Settings { carriage, key_count, keys, ..base }
}

pub(super) fn block(host: u16) -> BlockRow {
    BlockRow { host: host.into() }
}

pub(super) fn interface() -> UnderlayRow {
    UnderlayRow::default()
}

/// A block's key.
pub(super) fn network(block: Ipv4Net) -> u32 {
    in_header(block.network())
}

/// An address as it lies in an IPv4 header.
pub fn in_header(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::roster::{About, HostRecord};

    fn host(id: u16, role: Role, underlay: &[&str], blocks: &[&str]) -> (u16, Arc<Host>) {
        let underlay = underlay.iter().map(|address| address.parse().unwrap()).collect();
        let about = About { underlay, ..About::default() };
        let blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
        let record = HostRecord { id, role, key: String::new(), blocks, about };
        (id, Arc::new(Host { record, alive: id.is_multiple_of(2) }))
    }

    fn view(carriage: Carriage) -> View {
        let hosts = [
            host(1, Role::Gateway, &["192.0.2.1", "2001:db8::1"], &["100.64.0.0/26"]),
            host(2, Role::Host, &["192.0.2.2", "2001:db8::2"], &["100.64.0.64/26"]),
            host(
                3,
                Role::Host,
                &["192.0.2.3", "192.0.2.33"],
                &["100.64.0.128/26", "100.64.1.0/26"],
            ),
            host(4, Role::Host, &["2001:db8:1::4"], &[]),
            host(6, Role::Host, &[], &[]),
        ];
        let settings = RegionSettings { mtu: 1430, carriage, ..RegionSettings::default() };
        View { settings: Arc::new(settings), hosts: hosts.into(), ..View::default() }
    }

    fn own() -> Own {
        let interface = |index, addresses: &[&str]| Interface {
            index,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let interfaces =
            vec![interface(7, &["192.0.2.2", "2001:db8::2"]), interface(8, &["192.0.2.22"])];
        Own { host: 2, gateway: false, interfaces }
    }

    #[test]
    fn a_way_is_the_nth_address_to_the_nth_of_its_family() {
        let rows = rows(&own(), &view(Carriage::Geneve));
        let path = |index, local: &str, remote: &str| {
            (index, local.parse::<IpAddr>().unwrap(), remote.parse::<IpAddr>().unwrap())
        };
        assert_eq!(
            rows.hosts[&1].paths,
            [path(7, "192.0.2.2", "192.0.2.1"), path(7, "2001:db8::2", "2001:db8::1")]
        );
        assert_eq!(
            rows.hosts[&3].paths,
            [path(7, "192.0.2.2", "192.0.2.3"), path(8, "192.0.2.22", "192.0.2.33")]
        );
        assert_eq!(rows.hosts.keys().copied().collect::<Vec<_>>(), [1, 3, 4], "never itself");
        assert!(rows.unreachable.is_empty(), "who has said nothing is yet to come");
        let row = rows.hosts[&1].row();
        assert_eq!((row.flags, row.mtu, row.path_count), (HostRow::GATEWAY, 1430, 2));
        assert_eq!(row.relay.to_ne_bytes(), [100, 64, 0, 1]);
        assert_eq!(rows.hosts[&3].row().relay, 0, "only gateways relay");
    }

    #[test]
    fn the_first_key_is_the_one_that_is_sent() {
        let region = RegionSettings { keys: vec![0x0102_0304_0506_0708], ..Default::default() };
        let settings = settings(Settings::default(), &region);
        let bytes: Vec<u8> = settings.keys[0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!((settings.key_count, bytes), (1, (1..=8).collect()), "as they lie in a packet");
        assert_eq!(settings.carriage, Settings::GENEVE);
    }

    #[test]
    fn without_encapsulation_only_ipv6_leads_anywhere() {
        let rows = rows(&own(), &view(Carriage::Direct));
        assert_eq!(rows.hosts.keys().copied().collect::<Vec<_>>(), [1, 4]);
        assert!(rows.hosts[&1].paths.iter().all(|(_, local, _)| local.is_ipv6()));
        assert_eq!(rows.unreachable, BTreeSet::from([3]));
    }

    #[test]
    fn the_dead_keep_their_rows_and_nobody_takes_an_address_of_ours() {
        let mut view = view(Carriage::Geneve);
        view.hosts.extend([host(5, Role::Gateway, &["192.0.2.22"], &[])]);
        let rows = rows(&own(), &view);
        assert_eq!(rows.blocks.len(), 4);
        assert_eq!(rows.blocks[&"100.64.0.64/26".parse().unwrap()], 2, "own ones too");
        let own = rows.peers[&"192.0.2.22".parse::<IpAddr>().unwrap()].row();
        assert_eq!((own.host, own.flags), (2, PeerRow::OWN));
        let gateway = rows.peers[&"2001:db8::1".parse::<IpAddr>().unwrap()].row();
        assert_eq!((gateway.host, gateway.flags), (1, PeerRow::GATEWAY));
        assert!(rows.peers.contains_key(&"192.0.2.3".parse::<IpAddr>().unwrap()));
        assert_eq!(network("100.64.1.0/26".parse().unwrap()).to_ne_bytes(), [100, 64, 1, 0]);
    }
}
