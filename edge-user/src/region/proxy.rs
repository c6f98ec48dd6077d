//! Proxies: named sets of static outbound addresses, and the rules of them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What the keys of proxies begin with.
pub const PROXIES: &str = "region/proxy/";
/// What the keys of those who serve an address begin with.
pub const HOLDERS: &str = "region/proxy-holder/";
/// Most addresses of a proxy.
pub const MOST: usize = 5;

/// A proxy. Addresses that go are of it until their connections have had time to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// `pr-` and 12 characters.
    pub id: String,
    /// Unique in its workspace.
    pub name: String,
    /// The tenant's name.
    pub workspace: String,
    /// Milliseconds since 1970.
    pub created: u64,
    /// In the order in which they were given.
    pub addresses: Vec<ProxyAddress>,
    /// What is spread over them.
    #[serde(default)]
    pub spread: Spread,
}

/// What is spread over the addresses of a proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Containers: each keeps one for its life
    #[default]
    Container,
    /// Connections: each container has all of them
    Flow,
}

impl Spread {
    /// As people, `--json` and the wire call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Flow => "flow",
        }
    }
}

/// Nothing is spread so.
#[derive(Debug, thiserror::Error)]
#[error("spread {0:?}: a proxy spreads containers or connections; give \"container\" or \"flow\"")]
pub struct UnknownSpread(String);

impl FromStr for Spread {
    type Err = UnknownSpread;

    /// From its label; nothing is the default.
    fn from_str(label: &str) -> Result<Self, UnknownSpread> {
        match label {
            "" | "container" => Ok(Self::Container),
            "flow" => Ok(Self::Flow),
            _ => Err(UnknownSpread(label.to_owned())),
        }
    }
}

/// An address as it is asked for: an IPv4 address, and perhaps an IPv6 address beside it, which the
/// same gateway serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// What it is known by.
    pub ip: Ipv4Addr,
    /// What IPv6 leaves under.
    pub beside: Option<Ipv6Addr>,
}

/// It is no such address.
#[derive(Debug, thiserror::Error)]
#[error(
    "address {0:?}: it is neither an IPv4 address nor one with an IPv6 address beside it; give one as 192.0.2.1 or 192.0.2.1,2001:db8::1"
)]
pub struct NoPair(String);

impl Pair {
    /// Both, or the one that there is.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.ip.into()).chain(self.beside.map(IpAddr::V6))
    }
}

impl From<Ipv4Addr> for Pair {
    fn from(ip: Ipv4Addr) -> Self {
        Self { ip, beside: None }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.beside {
            Some(beside) => write!(to, "{},{beside}", self.ip),
            None => self.ip.fmt(to),
        }
    }
}

impl FromStr for Pair {
    type Err = NoPair;

    fn from_str(text: &str) -> Result<Self, NoPair> {
        let no_pair = || NoPair(text.to_owned());
        let (ip, beside) = match text.split_once(',') {
            Some((ip, beside)) => (ip, Some(beside.parse().map_err(|_unreadable| no_pair())?)),
            None => (text, None),
        };
        Ok(Self { ip: ip.parse().map_err(|_unreadable| no_pair())?, beside })
    }
}

/// One of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyAddress {
    /// What the internet sees.
    pub ip: Ipv4Addr,
    /// What it sees of IPv6.
    #[serde(default)]
    pub beside: Option<Ipv6Addr>,
    /// Milliseconds since 1970.
    pub created: u64,
    /// Whether a gateway has ever served it.
    pub served: bool,
    /// When it goes, in milliseconds since 1970, if it does: nothing new begins with it.
    pub leaves: Option<u64>,
}

/// A proxy, and which gateway serves which of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// As it was asked for.
    pub record: ProxyRecord,
    /// The number of the gateway, by address.
    pub holders: BTreeMap<Ipv4Addr, u16>,
}

/// What went under an address, as the gateway that serves it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets to the internet.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets from there.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Connections, in the wide sense of NAT: UDP and ICMP have some, too.
    pub connections: u64,
    /// Packets from the internet that were dropped: they answered nothing.
    pub unsolicited: u64,
}

/// All that are known, by workspace, a slash, and name.
pub type Known = BTreeMap<String, Arc<Proxy>>;

/// What a container is to its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The proxy's name, in the container's workspace.
    pub name: String,
    /// The address that the container was given when it began; it keeps it for as long as that is
    /// of the proxy.
    pub ip: Option<Ipv4Addr>,
}

/// What an address is at the moment, in Modal's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No gateway has served it yet.
    Creating,
    /// A gateway serves it.
    Online,
    /// It goes; connections that are there may end.
    Terminated,
    /// The gateway that served it does so no more, and no other does.
    Unhealthy,
}

impl Status {
    /// As people, metrics and `--json` call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Online => "ONLINE",
            Self::Terminated => "TERMINATED",
            Self::Unhealthy => "UNHEALTHY",
        }
    }
}

/// The key of its record.
pub fn record_key(workspace: &str, name: &str) -> String {
    format!("{PROXIES}{}", key(workspace, name))
}

/// The key under which a proxy is known.
pub fn key(workspace: &str, name: &str) -> String {
    format!("{workspace}/{name}")
}

impl Proxy {
    /// What one of its addresses is.
    pub fn status(&self, address: &ProxyAddress) -> Status {
        if address.leaves.is_some() {
            Status::Terminated
        } else if self.holders.contains_key(&address.ip) {
            Status::Online
        } else if address.served {
            Status::Unhealthy
        } else {
            Status::Creating
        }
    }

    /// The addresses that a container's connections begin with, and of each the gateway that serves
    /// it if one does. Everybody who asks comes to the same answer.
    pub fn addresses_of(
        &self,
        container: &str,
        given: Option<Ipv4Addr>,
    ) -> Vec<(Ipv4Addr, Option<u16>)> {
        let ips: Vec<_> = match self.record.spread {
            Spread::Container => self.address_of(container, given).into_iter().collect(),
            Spread::Flow => self.record.staying().collect(),
        };
        ips.into_iter().map(|ip| (ip, self.holders.get(&ip).copied())).collect()
    }

    /// The addresses that go, and are still served: what has begun with them goes on.
    pub fn going(&self) -> impl Iterator<Item = (Ipv4Addr, Option<u16>)> {
        let going = self.record.addresses.iter().filter(|one| one.leaves.is_some());
        going.map(|one| (one.ip, self.holders.get(&one.ip).copied()))
    }

    fn address_of(&self, container: &str, given: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let staying = || self.record.staying();
        given
            .filter(|given| staying().any(|ip| ip == *given))
            .or_else(|| staying().max_by_key(|ip| weight(container, *ip)))
    }
}

impl ProxyAddress {
    /// As it was asked for.
    pub const fn pair(&self) -> Pair {
        Pair { ip: self.ip, beside: self.beside }
    }
}

impl ProxyRecord {
    /// The IPv6 address beside one of its addresses.
    pub fn beside(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        self.addresses.iter().find(|one| one.ip == ip)?.beside
    }

    /// All addresses, of both families.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().flat_map(|one| one.pair().all())
    }

    /// The addresses that do not go.
    pub fn staying(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter(|one| one.leaves.is_none()).map(|one| one.ip)
    }

    /// The address that a new container is given: the one that the fewest have.
    pub fn least_used(&self, users: impl Fn(Ipv4Addr) -> usize) -> Option<Ipv4Addr> {
        self.staying().min_by_key(|ip| users(*ip))
    }
}

/// Rendezvous hashing (Thaler and Ravishankar): who had an address that went is spread over those
/// that stay, and nobody else moves.
fn weight(container: &str, ip: Ipv4Addr) -> u64 {
    // FNV-1a, and a finish that spreads its last bytes: the same on all machines.
    let bytes = container.bytes().chain(ip.octets());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(ips: &[[u8; 4]]) -> Proxy {
        let address = |ip: &[u8; 4]| ProxyAddress {
            ip: (*ip).into(),
            beside: None,
            created: 0,
            served: false,
            leaves: None,
        };
        let record = ProxyRecord {
            id: "pr-1".into(),
            name: "p".into(),
            workspace: "main".into(),
            created: 0,
            addresses: ips.iter().map(address).collect(),
            spread: Spread::Container,
        };
        Proxy { record, holders: BTreeMap::new() }
    }

    #[test]
    fn a_status_is_what_the_gateways_make_of_it() {
        let mut one = proxy(&[[192, 0, 2, 1]]);
        let status = |one: &Proxy| one.status(&one.record.addresses[0]);
        assert_eq!(status(&one), Status::Creating);
        one.holders.insert([192, 0, 2, 1].into(), 3);
        assert_eq!(status(&one), Status::Online);
        one.record.addresses[0].served = true;
        one.holders.clear();
        assert_eq!(status(&one), Status::Unhealthy);
        one.record.addresses[0].leaves = Some(7);
        assert_eq!(status(&one), Status::Terminated);
    }

    #[test]
    fn a_container_keeps_its_address_and_moves_only_if_that_goes() {
        let ips = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]];
        let mut one = proxy(&ips[..2]);
        let given = Ipv4Addr::from([192, 0, 2, 2]);
        let at = |one: &Proxy, container: &str| one.address_of(container, Some(given)).unwrap();
        assert_eq!(at(&one, "co-a"), given);
        one.record.addresses = proxy(&ips).record.addresses;
        assert_eq!(at(&one, "co-a"), given);
        one.record.addresses[1].leaves = Some(1);
        let moved: Vec<_> = (0..1000).map(|one_of| at(&one, &format!("co-{one_of}"))).collect();
        let first = moved.iter().filter(|ip| **ip == Ipv4Addr::from(ips[0])).count();
        assert!((400..600).contains(&first), "{first} of 1000");
        assert!(!moved.contains(&given));
        one.record.addresses.clear();
        assert_eq!(one.address_of("co-a", Some(given)), None);
    }

    #[test]
    fn connections_spread_over_all_that_stay() {
        let mut one = proxy(&[[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3]]);
        one.record.spread = Spread::Flow;
        one.record.addresses[1].leaves = Some(1);
        one.holders.insert([192, 0, 2, 2].into(), 4);
        one.holders.insert([192, 0, 2, 3].into(), 3);
        let given = Some([192, 0, 2, 1].into());
        let expected = [([192, 0, 2, 1].into(), None), ([192, 0, 2, 3].into(), Some(3))];
        assert_eq!(one.addresses_of("co-a", given), expected);
        assert_eq!(one.going().collect::<Vec<_>>(), [([192, 0, 2, 2].into(), Some(4))]);
    }

    #[test]
    fn pairs_are_read_as_they_are_written() {
        for text in ["192.0.2.1", "192.0.2.1,2001:db8::1"] {
            assert_eq!(text.parse::<Pair>().unwrap().to_string(), text);
        }
        for text in ["", "2001:db8::1", "192.0.2.1,", "192.0.2.1,192.0.2.2", "192.0.2.1, 2001::1"] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_container_gets_the_address_that_the_fewest_have() {
        let record = proxy(&[[192, 0, 2, 1], [192, 0, 2, 2]]).record;
        let second = Ipv4Addr::from([192, 0, 2, 2]);
        assert_eq!(record.least_used(|ip| usize::from(ip != second)), Some(second));
        assert_eq!(proxy(&[]).record.least_used(|_| 0), None);
    }
}
