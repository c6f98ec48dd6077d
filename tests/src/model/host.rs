//! The tables, as maps that anybody can read.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use edge_common::{
    address::{Address, Endpoint},
    native::Rows,
    tables::{AddressRow, LAYOUT},
};
use ipnet::{Ipv4Net, Ipv6Net};

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
            let mac = mac(row.mac);
            (end(public), Tunnel { address, port, veth: row.ifindex, mac, slot: row.slot })
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
