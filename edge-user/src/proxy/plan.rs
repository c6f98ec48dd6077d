//! Which way the egress of proxied containers goes, and under which address it leaves: a pure
//! function of what the region knows.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use edge_common::{packet::LEAST_MTU_V6, tables::ProxyRow};

use super::snat::{Family, Kind, Nat};
use crate::region::proxy::{Known, Membership, Proxy, ProxyRecord, Spread, key};

/// A proxied container, of this machine or of another.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// The tenant's name.
    pub workspace: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub i6pn: Ipv6Addr,
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
    /// Whether the gateway has answered lately.
    pub answers: bool,
}

/// Why nothing leaves this machine under an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No gateway serves it.
    NotServed,
    /// The gateway that does has no WireGuard interface here.
    NoWay(u16),
    /// The gateway that does has not answered for seconds.
    Silent(u16),
}

impl Problem {
    /// The labels of all kinds.
    pub const LABELS: [&'static str; 3] = ["not_served", "no_way", "silent"];

    /// As metrics call it.
    pub const fn label(self) -> &'static str {
        let [not_served, no_way, silent] = Self::LABELS;
        match self {
            Self::NotServed => not_served,
            Self::NoWay(_) => no_way,
            Self::Silent(_) => silent,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed => {
                write!(
                    to,
                    "no gateway serves it; one must have it and what is beside it, or \
                     --proxy-addresses that hold them"
                )
            }
            Self::NoWay(gateway) => {
                write!(to, "no way yet to gateway {gateway}, which serves it")
            }
            Self::Silent(gateway) => write!(
                to,
                "gateway {gateway}, which serves it, does not answer by WireGuard; see whether its \
                 daemon runs, and UDP 51820 on the underlay"
            ),
        }
    }
}

/// By which interface packets reach the gateway that serves an address; none for the machine with
/// this number itself.
///
/// # Errors
/// [`Problem`], if they do not.
pub fn way_to(
    own: u16,
    gateway: Option<u16>,
    ways: &BTreeMap<u16, Way>,
) -> Result<Option<Way>, Problem> {
    let gateway = gateway.ok_or(Problem::NotServed)?;
    if gateway == own {
        return Ok(None);
    }
    match ways.get(&gateway) {
        None => Err(Problem::NoWay(gateway)),
        Some(way) if !way.answers => Err(Problem::Silent(gateway)),
        Some(way) => Ok(Some(*way)),
    }
}

/// All of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The kernel's rows, by the addresses of containers.
    pub rows: BTreeMap<IpAddr, ProxyRow>,
    /// What source NAT does.
    pub nat: Nat,
    /// How each container of this machine stands to its proxy, by id.
    pub standings: BTreeMap<String, Standing>,
    /// How many of them begin their connections with an address.
    pub users: BTreeMap<Ipv4Addr, usize>,
}

impl Plan {
    /// Whether something leaves by IPv6.
    pub fn has_ipv6(&self) -> bool {
        !self.nat.v6.held.is_empty() || self.rows.keys().any(IpAddr::is_ipv6)
    }
}

/// How a container stands to its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its egress leaves under this address.
    Through(Ipv4Addr),
    /// Its connections leave under all of its proxy's addresses that work from here.
    Spread {
        /// How many those are.
        open: usize,
        /// How many it has.
        of: usize,
    },
    /// There is no such proxy.
    Unknown,
    /// All of its addresses go.
    NoAddress,
    /// Nothing leaves under the container's address.
    Closed(Ipv4Addr, Problem),
}

impl Standing {
    /// The address of the container.
    pub const fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::Through(ip) | Self::Closed(ip, _) => Some(ip),
            Self::Unknown | Self::NoAddress | Self::Spread { .. } => None,
        }
    }

    /// Why its egress is refused, if it is.
    pub fn problem(self) -> Option<String> {
        let leaves = matches!(self, Self::Through(_) | Self::Spread { .. });
        (!leaves).then(|| self.to_string())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Through(ip) => write!(to, "leaves under {ip}"),
            Self::Spread { open, of } => write!(to, "leaves under {open} of {of} addresses"),
            Self::Unknown => write!(
                to,
                "no egress: the workspace has no proxy of this name; `edge proxy create` makes it"
            ),
            Self::NoAddress => {
                write!(to, "no egress: the proxy has no address; `edge proxy add-ip` adds one")
            }
            Self::Closed(ip, problem) => write!(to, "no egress: {ip}: {problem}"),
        }
    }
}

/// What this machine, with its number, shall do.
pub fn plan(own: u16, known: &Known, clients: &[Client], ways: &BTreeMap<u16, Way>) -> Plan {
    let mut plan = Plan::default();
    for proxy in known.values() {
        for (ip, _) in proxy.holders.iter().filter(|(_, holder)| **holder == own) {
            plan.nat.v4.held.insert(*ip, *ip);
            plan.nat.v6.held.extend(proxy.record.beside(*ip).map(|beside| (beside, *ip)));
        }
    }
    for Client { id, workspace, ipv4, i6pn, proxy, here } in clients {
        let found = known.get(&key(workspace, &proxy.name));
        let standing = match found {
            None => Standing::Unknown,
            Some(one) => {
                let exits = Exits::of(one, id, proxy.ip, |gateway| way_to(own, gateway, ways));
                let beside = exits.beside(&one.record);
                exits.translate(*ipv4, &one.record, &mut plan.nat.v4);
                beside.translate(*i6pn, &one.record, &mut plan.nat.v6);
                if *here {
                    plan.rows.extend(exits.row().map(|row| (IpAddr::V4(*ipv4), row)));
                    plan.rows.extend(beside.row().map(|row| (IpAddr::V6(*i6pn), row)));
                    for (ip, _) in &exits.fresh {
                        *plan.users.entry(*ip).or_default() += 1;
                    }
                }
                exits.standing(one.record.spread)
            }
        };
        if *here {
            plan.nat.v4.proxied.insert(*ipv4);
            plan.nat.v6.proxied.insert(*i6pn);
            plan.standings.insert(id.clone(), standing);
        }
    }
    plan
}

/// How what a container sends gets out, by addresses of a family: by no way for this machine itself.
struct Exits<A> {
    /// The addresses that connections begin with.
    fresh: Vec<(A, Result<Option<Way>, Problem>)>,
    /// Those that only carry on what has begun with them, as far as they do.
    going: Vec<(A, Option<Way>)>,
}

impl Exits<Ipv4Addr> {
    fn of(
        proxy: &Proxy,
        container: &str,
        given: Option<Ipv4Addr>,
        way: impl Fn(Option<u16>) -> Result<Option<Way>, Problem>,
    ) -> Self {
        let fresh = proxy.addresses_of(container, given).into_iter();
        let fresh = fresh.map(|(ip, gateway)| (ip, way(gateway))).collect();
        let going = proxy.going().filter_map(|(ip, gateway)| Some((ip, way(gateway).ok()?)));
        Self { fresh, going: going.collect() }
    }

    /// The same by IPv6, as far as there are such addresses beside these and ways that are wide
    /// enough.
    fn beside(&self, proxy: &ProxyRecord) -> Exits<Ipv6Addr> {
        let fits = |way: &Option<Way>| way.is_none_or(|way| way.mtu >= LEAST_MTU_V6);
        let fresh = self.fresh.iter().filter(|(_, way)| way.as_ref().is_ok_and(fits));
        let going = self.going.iter().filter(|(_, way)| fits(way));
        Exits {
            fresh: fresh.filter_map(|(ip, way)| Some((proxy.beside(*ip)?, *way))).collect(),
            going: going.filter_map(|(ip, way)| Some((proxy.beside(*ip)?, *way))).collect(),
        }
    }

    fn standing(&self, spread: Spread) -> Standing {
        let open = self.fresh.iter().filter(|(_, way)| way.is_ok()).count();
        match (self.fresh.first(), spread) {
            (None, _) => Standing::NoAddress,
            (Some((ip, Err(problem))), _) if open == 0 => Standing::Closed(*ip, *problem),
            (Some((ip, _)), Spread::Container) => Standing::Through(*ip),
            (Some(_), Spread::Flow) => Standing::Spread { open, of: self.fresh.len() },
        }
    }
}

impl<A: Kind> Exits<A> {
    /// What of a container leaves by this machine.
    fn translate(&self, container: A, proxy: &ProxyRecord, nat: &mut Family<A>) {
        let here = self.fresh.iter().filter(|(_, way)| *way == Ok(None)).map(|(ip, _)| *ip);
        match proxy.spread {
            Spread::Container => nat.addresses.extend(here.map(|ip| (container, ip))),
            Spread::Flow => {
                for ip in here {
                    nat.spread.entry(container).or_insert_with(|| proxy.id.clone());
                    nat.pools.entry(proxy.id.clone()).or_default().insert(ip);
                }
            }
        }
        if self.going.iter().any(|(_, way)| way.is_none()) {
            nat.drained.insert(container);
        }
    }

    /// The kernel's row; none without a way out, not even for what has begun.
    fn row(&self) -> Option<ProxyRow> {
        let mut fresh: Vec<_> = self.fresh.iter().filter_map(|(_, way)| way.ok()).collect();
        // Where all is one way, there is nothing to choose.
        if fresh.iter().all(|way| *way == fresh[0]) {
            fresh.truncate(1);
        }
        let mut all = fresh.clone();
        for (_, way) in &self.going {
            if !all.contains(way) {
                all.push(*way);
            }
        }
        all.truncate(ProxyRow::WAYS);
        if all.is_empty() {
            return None;
        }
        let mut row = ProxyRow::HERE;
        for (place, way) in row.ways.iter_mut().zip(&all) {
            *place = way.map_or(0, |way| way.ifindex);
        }
        row.mtu = all.iter().flatten().map(|way| way.mtu).min().unwrap_or_default();
        let count = |of: &[Option<Way>]| u32::try_from(of.len()).unwrap_or(1);
        (row.fresh, row.count) = (count(&fresh), count(&all));
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::region::proxy::ProxyAddress;

    const A: [Ipv4Addr; 3] =
        [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)];

    const BESIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x65);

    fn known() -> Known {
        let address =
            |ip| ProxyAddress { ip, beside: None, created: 0, served: true, leaves: None };
        let record = ProxyRecord {
            id: "pr-1".into(),
            name: "db".into(),
            workspace: "main".into(),
            created: 0,
            addresses: A.map(address).into(),
            spread: Spread::Container,
        };
        // The first here, the second by gateway 7, the third by nobody.
        let proxy = Proxy { record, holders: [(A[0], 1), (A[1], 7)].into() };
        [(key("main", "db"), Arc::new(proxy))].into()
    }

    fn i6pn(last: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfdaa, 0, 1, 5, 1, 0, 0, last.into())
    }

    fn client(last: u8, workspace: &str, ip: Ipv4Addr, here: bool) -> Client {
        Client {
            id: format!("co-{last}"),
            workspace: workspace.into(),
            ipv4: [100, 64, 0, last].into(),
            i6pn: i6pn(last),
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
        let way = Way { ifindex: 9, mtu: 1420, answers: true };
        let at = |last: u8| Ipv4Addr::new(100, 64, 0, last);
        let done = plan(1, &known(), &clients, &[(7, way)].into());
        let mut through = ProxyRow { mtu: 1420, ..ProxyRow::HERE };
        through.ways[0] = 9;
        assert_eq!(
            done.rows,
            [(IpAddr::V4(at(2)), ProxyRow::HERE), (IpAddr::V4(at(3)), through)].into()
        );
        assert_eq!(done.nat.v4.addresses, [(at(2), A[0]), (at(6), A[0])].into());
        assert_eq!(done.nat.v4.proxied, [at(2), at(3), at(4), at(5)].into());
        assert_eq!(done.nat.v4.held, [(A[0], A[0])].into());
        assert_eq!(done.users, A.map(|ip| (ip, 1)).into(), "of those here");
        assert_eq!(done.standings["co-4"], Standing::Closed(A[2], Problem::NotServed));
        assert_eq!(done.standings["co-5"], Standing::Unknown, "another workspace's");
        assert!(!done.standings.contains_key("co-6"));

        let silent = [(7, Way { answers: false, ..way })].into();
        for (ways, problem) in [(BTreeMap::new(), Problem::NoWay(7)), (silent, Problem::Silent(7))]
        {
            let done = plan(1, &known(), &clients[1..2], &ways);
            assert_eq!(done.standings["co-3"], Standing::Closed(A[1], problem));
            assert!(done.rows.is_empty() && done.nat.v4.addresses.is_empty());
        }
    }

    fn change(known: &mut Known, change: impl FnOnce(&mut Proxy)) {
        let proxy = known.get_mut("main/db").expect("the proxy");
        change(Arc::get_mut(proxy).expect("nobody else's"));
    }

    #[test]
    fn connections_spread_over_the_addresses_that_work() {
        let mut known = known();
        change(&mut known, |proxy| proxy.record.spread = Spread::Flow);
        let clients = [client(2, "main", A[0], true), client(3, "main", A[0], false)];
        let way = Way { ifindex: 9, mtu: 1420, answers: true };
        let at = |last: u8| Ipv4Addr::new(100, 64, 0, last);
        let done = plan(1, &known, &clients, &[(7, way)].into());
        assert_eq!(done.standings["co-2"], Standing::Spread { open: 2, of: 3 });
        let mut both = ProxyRow { fresh: 2, count: 2, mtu: 1420, ..ProxyRow::HERE };
        both.ways[1] = 9;
        assert_eq!(done.rows, [(IpAddr::V4(at(2)), both)].into());
        let pool = || "pr-1".to_owned();
        assert_eq!(done.nat.v4.spread, [(at(2), pool()), (at(3), pool())].into());
        assert_eq!(done.nat.v4.pools, [(pool(), [A[0]].into())].into());
        assert!(done.nat.v4.addresses.is_empty() && done.nat.v4.drained.is_empty());
        assert_eq!(done.users, A.map(|ip| (ip, 1)).into(), "all of them");

        // Several addresses by one way are no choice.
        change(&mut known, |proxy| proxy.holders = [(A[1], 7), (A[2], 7)].into());
        let done = plan(1, &known, &clients, &[(7, way)].into());
        let mut one = ProxyRow { mtu: 1420, ..ProxyRow::HERE };
        one.ways[0] = 9;
        assert_eq!(done.rows, [(IpAddr::V4(at(2)), one)].into());
        let done = plan(1, &known, &clients, &BTreeMap::new());
        assert_eq!(done.standings["co-2"], Standing::Closed(A[0], Problem::NotServed));
        assert!(done.rows.is_empty() && done.nat.v4.pools.is_empty());
    }

    #[test]
    fn what_has_begun_with_an_address_that_goes_keeps_its_way() {
        let way = Way { ifindex: 9, mtu: 1420, answers: true };
        let at = |last: u8| Ipv4Addr::new(100, 64, 0, last);
        // The first is here and goes; what begins does so by gateway 7.
        let mut known = known();
        change(&mut known, |proxy| proxy.record.addresses[0].leaves = Some(1));
        let clients = [client(2, "main", A[1], true), client(3, "main", A[1], false)];
        let done = plan(1, &known, &clients, &[(7, way)].into());
        let mut row = ProxyRow { count: 2, mtu: 1420, ..ProxyRow::HERE };
        row.ways[0] = 9;
        assert_eq!(done.rows, [(IpAddr::V4(at(2)), row)].into());
        assert_eq!(done.nat.v4.drained, [at(2), at(3)].into());
        assert!(done.nat.v4.addresses.is_empty());

        // While nothing can begin, what has begun goes on all the same.
        let done = plan(1, &known, &clients, &BTreeMap::new());
        assert_eq!(done.standings["co-2"], Standing::Closed(A[1], Problem::NoWay(7)));
        assert_eq!(
            done.rows,
            [(IpAddr::V4(at(2)), ProxyRow { fresh: 0, ..ProxyRow::HERE })].into()
        );
        assert_eq!(done.nat.v4.drained, [at(2), at(3)].into());

        // IPv6 likewise, where only the address that goes has it.
        change(&mut known, |proxy| proxy.record.addresses[0].beside = Some(BESIDE));
        let done = plan(1, &known, &clients, &[(7, way)].into());
        let of_v6 = done.rows[&IpAddr::V6(i6pn(2))];
        assert_eq!((of_v6.ways[0], of_v6.fresh, of_v6.count), (0, 0, 1));
        assert_eq!(done.nat.v6.drained, [i6pn(2), i6pn(3)].into());
    }

    #[test]
    fn ipv6_goes_beside_ipv4_where_it_fits() {
        let mut known = known();
        change(&mut known, |proxy| proxy.record.addresses[0].beside = Some(BESIDE));
        let clients = [client(2, "main", A[0], true), client(3, "main", A[1], true)];
        let way = Way { ifindex: 9, mtu: 1420, answers: true };
        let done = plan(1, &known, &clients, &[(7, way)].into());
        let v6: Vec<_> = done.rows.keys().filter(|ip| ip.is_ipv6()).collect();
        assert_eq!(v6, [&IpAddr::V6(i6pn(2))], "the other's address has none");
        assert_eq!(done.nat.v6.addresses, [(i6pn(2), BESIDE)].into());
        assert_eq!(done.nat.v6.held, [(BESIDE, A[0])].into());
        assert_eq!(done.nat.v6.proxied, [i6pn(2), i6pn(3)].into(), "neither leaves as it is");

        // By another gateway.
        change(&mut known, |proxy| proxy.holders = [(A[0], 7)].into());
        let by = |mtu| plan(1, &known, &clients, &[(7, Way { mtu, ..way })].into());
        let row = by(1280).rows[&IpAddr::V6(i6pn(2))];
        assert_eq!((row.ways[0], row.mtu), (9, 1280));
        let narrow = by(1279);
        assert!(narrow.rows.contains_key(&IpAddr::V4(clients[0].ipv4)));
        assert!(narrow.rows.keys().all(IpAddr::is_ipv4), "no link for IPv6");
    }
}
