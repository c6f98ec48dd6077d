//! Which way the egress of proxied containers goes, and under which address it leaves: a pure
//! function of what the region knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use edge_common::tables::ProxyRow;

use super::snat::Nat;
use crate::region::proxy::{Known, Membership, key};

/// A proxied container, of this machine or of another.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// The tenant's name.
    pub workspace: String,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// What it is to its proxy.
    pub proxy: Membership,
    /// Whether it is of this machine.
    pub here: bool,
}

/// A WireGuard interface to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Its index.
    pub ifindex: u32,
    /// Bytes of the largest IP packet on it.
    pub mtu: u32,
}

/// All of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The kernel's rows, by container.
    pub rows: BTreeMap<Ipv4Addr, ProxyRow>,
    /// What source NAT does.
    pub nat: Nat,
    /// How each container of this machine stands to its proxy, by id.
    pub standings: BTreeMap<String, Standing>,
}

/// How a container stands to its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its egress leaves under this address.
    Through(Ipv4Addr),
    /// There is no such proxy.
    Unknown,
    /// All of its addresses go.
    NoAddress,
    /// No gateway serves the container's address.
    NotServed(Ipv4Addr),
    /// The gateway that does has no WireGuard interface here.
    NoWay(Ipv4Addr, u16),
}

impl Standing {
    /// The address of the container.
    pub const fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::Through(ip) | Self::NotServed(ip) | Self::NoWay(ip, _) => Some(ip),
            Self::Unknown | Self::NoAddress => None,
        }
    }

    /// Why its egress is refused, if it is.
    pub fn problem(self) -> Option<String> {
        (!matches!(self, Self::Through(_))).then(|| self.to_string())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Through(ip) => write!(to, "leaves under {ip}"),
            Self::Unknown => write!(
                to,
                "no egress: the workspace has no proxy of this name; `edge proxy create` makes it"
            ),
            Self::NoAddress => {
                write!(to, "no egress: the proxy has no address; `edge proxy add-ip` adds one")
            }
            Self::NotServed(ip) => {
                write!(to, "no egress: no gateway serves {ip}; `edge proxy show` tells more")
            }
            Self::NoWay(ip, gateway) => {
                write!(to, "no egress: no way yet to gateway {gateway}, which serves {ip}")
            }
        }
    }
}

/// What this machine, with its number, shall do.
pub fn plan(own: u16, known: &Known, clients: &[Client], ways: &BTreeMap<u16, Way>) -> Plan {
    let mut plan = Plan::default();
    let all = known.values().flat_map(|proxy| &proxy.holders);
    plan.nat.held =
        all.filter(|(_, holder)| **holder == own).map(|(ip, _)| *ip).collect::<BTreeSet<_>>();
    for Client { id, workspace, ipv4, proxy, here } in clients {
        let found = known.get(&key(workspace, &proxy.name));
        let standing = match found.map(|one| one.address_of(id, proxy.ip)) {
            None => Standing::Unknown,
            Some(None) => Standing::NoAddress,
            Some(Some((ip, None))) => Standing::NotServed(ip),
            Some(Some((ip, Some(gateway)))) if gateway == own => {
                plan.nat.addresses.insert(*ipv4, ip);
                if *here {
                    plan.rows.insert(*ipv4, ProxyRow::default());
                }
                Standing::Through(ip)
            }
            Some(Some((ip, Some(gateway)))) => match ways.get(&gateway) {
                None => Standing::NoWay(ip, gateway),
                Some(way) => {
                    if *here {
                        let row = ProxyRow { ifindex: way.ifindex, mtu: way.mtu };
                        plan.rows.insert(*ipv4, row);
                    }
                    Standing::Through(ip)
                }
            },
        };
        if *here {
            plan.nat.proxied.insert(*ipv4);
            plan.standings.insert(id.clone(), standing);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::region::proxy::{Proxy, ProxyAddress, ProxyRecord};

    const A: [Ipv4Addr; 3] =
        [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)];

    fn known() -> Known {
        let address = |ip| ProxyAddress { ip, created: 0, served: true, leaves: None };
        let record = ProxyRecord {
            id: "pr-1".into(),
            name: "db".into(),
            workspace: "main".into(),
            created: 0,
            addresses: A.map(address).into(),
        };
        // The first here, the second by gateway 7, the third by nobody.
        let proxy = Proxy { record, holders: [(A[0], 1), (A[1], 7)].into() };
        [(key("main", "db"), Arc::new(proxy))].into()
    }

    fn client(last: u8, workspace: &str, ip: Ipv4Addr, here: bool) -> Client {
        Client {
            id: format!("co-{last}"),
            workspace: workspace.into(),
            ipv4: [100, 64, 0, last].into(),
            proxy: Membership { name: "db".into(), ip: Some(ip) },
            here,
        }
    }

    #[test]
    fn egress_goes_where_its_address_is_or_nowhere() {
        let clients = [
            client(2, "main", A[0], true),
            client(3, "main", A[1], true),
            client(4, "main", A[2], true),
            client(5, "other", A[0], true),
            client(6, "main", A[0], false),
            client(7, "main", A[1], false),
        ];
        let way = Way { ifindex: 9, mtu: 1420 };
        let at = |last: u8| Ipv4Addr::new(100, 64, 0, last);
        let done = plan(1, &known(), &clients, &[(7, way)].into());
        let through = ProxyRow { ifindex: 9, mtu: 1420 };
        assert_eq!(done.rows, [(at(2), ProxyRow::default()), (at(3), through)].into());
        assert_eq!(done.nat.addresses, [(at(2), A[0]), (at(6), A[0])].into());
        assert_eq!(done.nat.proxied, [at(2), at(3), at(4), at(5)].into());
        assert_eq!(done.nat.held, [A[0]].into());
        assert_eq!(done.standings["co-4"], Standing::NotServed(A[2]));
        assert_eq!(done.standings["co-5"], Standing::Unknown, "another workspace's");
        assert!(!done.standings.contains_key("co-6"));

        let done = plan(1, &known(), &clients[1..2], &BTreeMap::new());
        assert_eq!(done.standings["co-3"], Standing::NoWay(A[1], 7));
        assert!(done.rows.is_empty() && done.nat.addresses.is_empty());
    }
}
