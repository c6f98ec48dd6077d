//! The other hosts of the region, and what goes between them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use edge_common::{
    account::Lane,
    hosts::{HostRow, PeerRow},
    native::Rows,
    tables::Settings,
};

/// What a machine of several knows of the others.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub(super) number: u32,
    /// This machine's number.
    pub(super) own: u32,
    pub(super) is_direct: bool,
    /// Which are taken; the first is sent.
    pub(super) keys: Vec<[u8; 8]>,
    /// What this machine's relay dials from.
    pub(super) relay: IpAddr,
    pub(super) underlays: HashSet<u32>,
    pub(super) peers: HashMap<IpAddr, Peer>,
    pub(super) hosts: HashMap<u32, Far>,
    blocks: HashMap<Ipv4Addr, u32>,
    block_mask: u32,
}

/// Who has an address of the underlay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) host: u32,
    pub(super) is_self: bool,
    pub(super) is_gateway: bool,
}

/// Another host.
#[derive(Debug, Clone)]
pub(super) struct Far {
    pub(super) is_gateway: bool,
    pub(super) relay: IpAddr,
    /// Bytes of the largest packet that goes there.
    pub(super) largest: usize,
    pub(super) ways: Vec<Way>,
}

/// One way to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) interface: u32,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

/// What a private address says of its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) workspace: u32,
    pub(super) region: u32,
    pub(super) host: u32,
}

impl Place {
    /// `fdaa` · workspace (32 bits) · region (16) · host (16) · container (48).
    pub(super) fn of(address: Ipv6Addr) -> Self {
        let bits = u128::from(address);
        let field = |shift: u32, width: u32| (bits >> shift & ((1 << width) - 1)) as u32;
        Self { workspace: field(80, 32), region: field(64, 16), host: field(48, 16) }
    }
}

impl Region {
    /// `None` where there are no other hosts.
    pub(super) fn of(rows: &Rows) -> Option<Self> {
        let settings = &rows.settings;
        if settings.carriage == 0 {
            return None;
        }
        let keys = settings.keys[..settings.key_count as usize].iter();
        let peer = |row: &PeerRow| Peer {
            host: row.host,
            is_self: row.flags & PeerRow::OWN != 0,
            is_gateway: row.flags & PeerRow::GATEWAY != 0,
        };
        let far = |row: &HostRow| Far {
            is_gateway: row.flags & HostRow::GATEWAY != 0,
            relay: v4(row.relay).into(),
            largest: row.mtu as usize,
            ways: row.paths[..row.path_count as usize]
                .iter()
                .map(|path| Way {
                    interface: path.ifindex,
                    from: path.local.into(),
                    to: path.remote.into(),
                })
                .collect(),
        };
        Some(Self {
            number: settings.region,
            own: settings.host,
            is_direct: settings.carriage == Settings::DIRECT,
            keys: keys
                .map(|[a, b]| u64::to_ne_bytes(u64::from(*b) << 32 | u64::from(*a)))
                .collect(),
            relay: v4(settings.relay).into(),
            underlays: rows.underlays.keys().copied().collect(),
            peers: rows.peers.iter().map(|(at, row)| (IpAddr::from(*at), peer(row))).collect(),
            hosts: rows.hosts.iter().map(|(number, row)| (*number, far(row))).collect(),
            blocks: rows.blocks.iter().map(|(network, row)| (v4(*network), row.host)).collect(),
            block_mask: u32::from(v4(settings.block_mask)),
        })
    }

    /// How packets go to other hosts.
    pub(super) const fn lane(&self) -> Lane {
        if self.is_direct { Lane::Direct } else { Lane::Encapsulated }
    }

    /// Whose an inner address is, by its block or by what it says itself.
    pub(super) fn owner(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(v4) => {
                let network = Ipv4Addr::from(u32::from(v4) & self.block_mask);
                self.blocks.get(&network).copied()
            }
            IpAddr::V6(v6) => {
                let place = Place::of(v6);
                (place.region == self.number).then_some(place.host)
            }
        }
    }
}

/// An IPv4 address that a row holds as it lies in a header.
fn v4(word: u32) -> Ipv4Addr {
    Ipv4Addr::from(word.to_ne_bytes())
}

/// The place of an inner IPv6 address.
pub(super) fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V6(v6) => Place::of(v6),
        IpAddr::V4(v4) => panic!("{v4} has no place"),
    }
}

/// Only for addresses of rows.
pub(super) fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => panic!("a next hop that is no IPv6 address"),
    }
}
