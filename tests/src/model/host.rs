//! The tables, as maps that anybody can read.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use edge_common::{
    address::{Address, Endpoint},
    native::Rows,
    tables::{AddressRow, ForwardRow, LAYOUT, TunnelRow},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{bounds::Bounds, region::Region};

/// What one host knows.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) is_configured: bool,
    pub(super) largest_segment_v4: u16,
    pub(super) largest_segment_v6: u16,
    pub(super) service: IpAddr,
    pub(super) owners: HashMap<IpAddr, Owner>,
    pub(super) tunnels: HashMap<(IpAddr, u16), Tunnel>,
    pub(super) forwards: HashMap<(IpAddr, u16), Reply>,
    /// In which account a forwarded port counts.
    pub(super) accounts: HashMap<(IpAddr, u16), u32>,
    pub(super) listeners: HashSet<(IpAddr, u16)>,
    /// Which cluster a container is of.
    clusters: HashMap<IpAddr, u64>,
    pub(super) bounds: HashMap<u32, Bounds>,
    /// Whether senders are told why they are refused.
    pub(super) complains: bool,
    /// Interfaces to gateways of proxies, by container: index and largest packet; none if it is
    /// this machine.
    pub(super) proxies: HashMap<IpAddr, Option<(u32, usize)>>,
    /// The other hosts, if there are any.
    pub(super) region: Option<Region>,
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
    pub(super) has_i6pn: bool,
    pub(super) is_proxied: bool,
    pub(super) workspace: u32,
    pub(super) account: u32,
}

/// Where a public endpoint leads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tunnel {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Where the container is, if not here.
    pub(super) host: Option<u32>,
    pub(super) veth: u32,
    pub(super) mac: [u8; 6],
    pub(super) slot: u32,
    pub(super) account: u32,
    pub(super) is_listed: bool,
    pub(super) is_paced: bool,
}

/// How a forwarded port answers clients outside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// Not at all: only userspace serves it.
    Never,
    /// From here, under the public address.
    Here { address: IpAddr, port: u16, uplink: u32, slot: u32 },
    /// By a gateway, as it is.
    By { gateway: u32, slot: u32 },
}

impl Host {
    /// With a network on the list of a slot's tunnel. The rows hold them in a form of the
    /// kernel's own.
    #[must_use]
    pub fn with_listed(mut self, slot: u32, network: IpNet) -> Self {
        self.bounds.entry(slot).or_default().networks.push(network);
        self
    }

    /// Whether two containers are of one cluster.
    pub(super) fn are_fellows(&self, one: IpAddr, other: IpAddr) -> bool {
        let cluster = |address| self.clusters.get(&address);
        cluster(one).is_some() && cluster(one) == cluster(other)
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
            let reply = match *row {
                ForwardRow { uplink: 0, gateway: 0, .. } => Reply::Never,
                ForwardRow { uplink: 0, gateway, slot, .. } => Reply::By { gateway, slot },
                ForwardRow { uplink, slot, .. } => {
                    let (address, port) = end(&row.public);
                    Reply::Here { address, port, uplink, slot }
                }
            };
            (end(inner), reply)
        });
        let tunnels = rows.tunnels.iter().map(|(public, row)| {
            let (address, port) = end(&row.container);
            let tunnel = Tunnel {
                address,
                port,
                host: (row.host != 0).then_some(row.host),
                veth: row.ifindex,
                mac: mac(row.mac),
                slot: row.slot,
                account: row.account,
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
                has_i6pn: row.flags & AddressRow::I6PN != 0,
                is_proxied: row.flags & AddressRow::PROXIED != 0,
                workspace: row.workspace,
                account: row.account,
            };
            (IpAddr::from(*address), owner)
        });
        // Nothing has begun before, so a row by which nothing begins is none.
        let begins = rows.proxies.iter().filter(|(_, row)| row.fresh != 0);
        let proxies = begins.map(|(container, row)| {
            // All of a row's ways are the same one here.
            let [way, ..] = row.ways;
            let way = (way != 0).then_some((way, row.mtu as usize));
            (IpAddr::from(*container), way)
        });
        Self {
            is_configured: settings.layout == LAYOUT,
            largest_segment_v4: settings.mss_v4 as u16,
            largest_segment_v6: settings.mss_v6 as u16,
            service: settings.service.into(),
            owners: owners.collect(),
            tunnels: tunnels.collect(),
            forwards: forwards.collect(),
            accounts: rows.forwards.iter().map(|(inner, row)| (end(inner), row.account)).collect(),
            bounds: bounds.collect(),
            complains: settings.complaints.interval != 0,
            proxies: proxies.collect(),
            region: Region::of(rows),
            listeners: rows.listeners.keys().map(end).collect(),
            clusters: rows.members.iter().map(|(at, row)| (v4(*at), row.mark)).collect(),
            pool: Ipv4Net::with_netmask(last_four(settings.pool), last_four(settings.pool_mask))
                .expect("a mask of ones and then zeros"),
            private: Ipv6Net::with_netmask(all(settings.private), all(settings.private_mask))
                .expect("a mask of ones and then zeros"),
        }
    }
}

/// An address as it lies in a header.
fn v4(word: u32) -> IpAddr {
    Ipv4Addr::from(word.to_ne_bytes()).into()
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

pub(super) fn all(address: Address) -> Ipv6Addr {
    match IpAddr::from(address) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn last_four(address: Address) -> Ipv4Addr {
    let [.., a, b, c, d] = all(address).octets();
    Ipv4Addr::new(a, b, c, d)
}
