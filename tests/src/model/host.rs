//! The tables, as maps that anybody can read.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use edge_common::{
    address::{Address, Endpoint},
    native::Rows,
    tables::{AddressRow, LAYOUT, TunnelRow},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::bounds::Bounds;

/// What one host knows.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) is_configured: bool,
    pub(super) largest_segment_v4: u16,
    pub(super) largest_segment_v6: u16,
    pub(super) service: IpAddr,
    pub(super) owners: HashMap<IpAddr, Owner>,
    pub(super) tunnels: HashMap<(IpAddr, u16), Tunnel>,
    pub(super) forwards: HashMap<(IpAddr, u16), Option<Reply>>,
    pub(super) listeners: HashSet<(IpAddr, u16)>,
    pub(super) bounds: HashMap<u32, Bounds>,
    pool: Ipv4Net,
    private: Ipv6Net,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) veth: u32,
    pub(super) mac: [u8; 6],
    pub(super) is_service: bool,
    pub(super) has_egress: bool,
}

/// Where a public endpoint leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tunnel {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) veth: u32,
    pub(super) mac: [u8; 6],
    pub(super) slot: u32,
    pub(super) is_listed: bool,
    pub(super) is_paced: bool,
}

/// How a forwarded port answers clients outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) uplink: u32,
    pub(super) slot: u32,
}

impl Host {
    /// With a network on the list of a slot's tunnel. The rows hold them in a form of the
    /// kernel's own.
    #[must_use]
    pub fn with_listed(mut self, slot: u32, network: IpNet) -> Self {
        self.bounds.entry(slot).or_default().networks.push(network);
        self
    }

    /// Whether an address is one of containers, here or elsewhere, or of what serves them; in
    /// whichever clothes.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            own if own == self.service => true,
            IpAddr::V4(v4) => self.pool.contains(&v4),
            IpAddr::V6(v6) => self.private.contains(&v6),
        }
    }
}

impl From<&Rows> for Host {
    fn from(rows: &Rows) -> Self {
        let settings = &rows.settings;
        let forwards = rows.forwards.iter().map(|(inner, row)| {
            let reply = (row.uplink != 0).then(|| {
                let (address, port) = end(&row.public);
                Reply { address, port, uplink: row.uplink, slot: row.slot }
            });
            (end(inner), reply)
        });
        let tunnels = rows.tunnels.iter().map(|(public, row)| {
            let (address, port) = end(&row.container);
            let tunnel = Tunnel {
                address,
                port,
                veth: row.ifindex,
                mac: mac(row.mac),
                slot: row.slot,
                is_listed: row.flags & TunnelRow::LISTED != 0,
                is_paced: row.flags & TunnelRow::PACED != 0,
            };
            (end(public), tunnel)
        });
        let bounds = rows.paces.iter().map(|(slot, row)| {
            let mut bounds = Bounds::default();
            bounds.set_pace(row);
            (*slot, bounds)
        });
        let owners = rows.addresses.iter().map(|(address, row)| {
            let owner = Owner {
                veth: row.ifindex,
                mac: mac(row.mac),
                is_service: row.flags & AddressRow::SERVICE != 0,
                has_egress: row.flags & AddressRow::EGRESS != 0,
            };
            (IpAddr::from(*address), owner)
        });
        Self {
            is_configured: settings.layout == LAYOUT,
            largest_segment_v4: settings.mss_v4 as u16,
            largest_segment_v6: settings.mss_v6 as u16,
            service: settings.service.into(),
            owners: owners.collect(),
            tunnels: tunnels.collect(),
            forwards: forwards.collect(),
            bounds: bounds.collect(),
            listeners: rows.listeners.keys().map(end).collect(),
            pool: Ipv4Net::with_netmask(last_four(settings.pool), last_four(settings.pool_mask))
                .expect("a mask of ones and then zeros"),
            private: Ipv6Net::with_netmask(all(settings.private), all(settings.private_mask))
                .expect("a mask of ones and then zeros"),
        }
    }
}

fn end(endpoint: &Endpoint) -> (IpAddr, u16) {
    let port = u16::try_from(endpoint.port).expect("a port");
    // The model takes a packet without ports for one from port 0 to port 0.
    assert_ne!(port, 0, "a row for port 0");
    (endpoint.address.into(), port)
}

fn mac([a, b, c, d, e, f, ..]: [u8; 8]) -> [u8; 6] {
    [a, b, c, d, e, f]
}

fn all(address: Address) -> Ipv6Addr {
    match IpAddr::from(address) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn last_four(address: Address) -> Ipv4Addr {
    let [.., a, b, c, d] = all(address).octets();
    Ipv4Addr::new(a, b, c, d)
}
