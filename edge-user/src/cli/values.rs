//! Values that are checked where they are typed.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use clap::builder::RangedI64ValueParser;
use ipnet::Ipv4Net;

/// A name that is also a DNS label: `a`–`z`, `0`–`9` and inner hyphens, at most 32 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(String);

/// An interface towards the underlay or the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// The interfaces of the default routes.
    Auto,
    /// This interface.
    Interface(String),
}

/// The public ports that raw TCP tunnels are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest of them.
    pub first: u16,
    /// The highest of them.
    pub last: u16,
}

/// Why a typed value is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    /// Not a name.
    #[error(
        "a name has 1 to 32 characters of a-z, 0-9 and -, and neither begins nor ends with a -"
    )]
    Name,
    /// Not a domain.
    #[error("a domain is a DNS name without wildcard, as r5.example.com")]
    Domain,
    /// Not an interface.
    #[error(
        "an interface is named by 1 to 15 characters without / and spaces; `ip link` lists them"
    )]
    Interface,
    /// Not a port range.
    #[error("a port range is written FIRST-LAST with 1024 <= FIRST <= LAST <= 65535")]
    PortRange,
    /// Not a pool of IPv4 addresses.
    #[error("a pool is written ADDRESS/LENGTH, as 100.64.0.0/10")]
    Pool,
    /// An address with host bits set.
    #[error("{0} has bits set beyond its length; write {1}")]
    HostBits(Ipv4Net, Ipv4Net),
    /// A pool that is useless or absurd.
    #[error("a pool of length {0} does not do: hosts take blocks of 64 addresses, so 8 to 26 do")]
    PoolLength(u8),
}

/// Parses one TCP port; 0 is none.
pub(super) fn port() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// Bytes of the longest name that still leaves room for a tunnel's label before it (RFC 1035,
/// section 2.3.4).
const LONGEST_DOMAIN: usize = 253 - 64;

/// Parses the domain that tunnels' names end with: lower case, without a final dot, as it is
/// compared with what clients ask for.
pub(super) fn domain(text: &str) -> Result<String, ValueError> {
    let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= LONGEST_DOMAIN && domain.split('.').all(is_label) {
        Ok(domain)
    } else {
        Err(ValueError::Domain)
    }
}

/// The pool of a region that says nothing else (RFC 6598).
pub const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(100, 64, 0, 0), 10);

/// Parses the pool that containers' IPv4 addresses come from.
pub(super) fn ipv4_pool(text: &str) -> Result<Ipv4Net, ValueError> {
    // The parser's own message says less than ours.
    let Ok(net) = Ipv4Net::from_str(text) else { return Err(ValueError::Pool) };
    if net != net.trunc() {
        return Err(ValueError::HostBits(net, net.trunc()));
    }
    match net.prefix_len() {
        8..=26 => Ok(net),
        length => Err(ValueError::PoolLength(length)),
    }
}

impl Name {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let well_formed = (1..=32).contains(&text.len())
            && text.bytes().all(known)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if well_formed { Ok(Self(text.to_owned())) } else { Err(ValueError::Name) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parses an interface's name.
pub(super) fn interface(text: &str) -> Result<String, ValueError> {
    match text.parse()? {
        Uplink::Interface(name) => Ok(name),
        Uplink::Auto => Err(ValueError::Interface),
    }
}

impl FromStr for Uplink {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // What the kernel takes for an interface's name.
        let well_formed = (1..=15).contains(&text.len())
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
            && text != "."
            && text != "..";
        match text {
            "auto" => Ok(Self::Auto),
            _ if well_formed => Ok(Self::Interface(text.to_owned())),
            _ => Err(ValueError::Interface),
        }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

impl PortRange {
    /// Every port of the range.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether the range has this port.
    pub fn contains(self, port: u16) -> bool {
        self.ports().contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parsed = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match parsed {
            Some((first, last)) if (1024..=last).contains(&first) => Ok(Self { first, last }),
            _ => Err(ValueError::PortRange),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "r1", "my-app", "0", &"x".repeat(32)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-", "a-", "-a", "A", "a.b", "a/b", "ä", &"x".repeat(33)] {
            assert_eq!(bad.parse::<Name>(), Err(ValueError::Name), "{bad:?}");
        }
    }

    #[test]
    fn domains() {
        assert_eq!(domain("R5.Example.com."), Ok("r5.example.com".to_owned()));
        assert_eq!(domain("localhost"), Ok("localhost".to_owned()));
        let long = ["x".repeat(63), "y".repeat(63), "z".repeat(63)].join(".");
        for bad in ["", ".", "a..b", "a b", "*.example.com", "-a.b", "a_b.c", "ä.b", &long] {
            assert_eq!(domain(bad), Err(ValueError::Domain), "{bad:?}");
        }
    }

    #[test]
    fn port_ranges() {
        let range: PortRange = "20000-29999".parse().unwrap();
        assert_eq!((range.first, range.last), (20000, 29999));
        assert!(range.contains(20000) && range.contains(29999) && !range.contains(30000));
        assert_eq!(range.to_string(), "20000-29999");
        for bad in ["", "20000", "2-1", "80-90", "20000-70000", "-1-5", "a-b"] {
            assert_eq!(bad.parse::<PortRange>(), Err(ValueError::PortRange), "{bad:?}");
        }
    }

    #[test]
    fn pools() {
        assert!(ipv4_pool("100.64.0.0/10").is_ok());
        assert_eq!(ipv4_pool("10.0.0.0"), Err(ValueError::Pool));
        assert_eq!(ipv4_pool("10.0.0.0/27"), Err(ValueError::PoolLength(27)));
        assert!(matches!(ipv4_pool("10.0.0.1/16"), Err(ValueError::HostBits(..))));
    }

    #[test]
    fn uplinks() {
        assert_eq!("auto".parse(), Ok(Uplink::Auto));
        assert_eq!("enp1s0".parse(), Ok(Uplink::Interface("enp1s0".into())));
        for bad in ["", "a b", "a/b", "..", "interface-too-long"] {
            assert_eq!(bad.parse::<Uplink>(), Err(ValueError::Interface), "{bad:?}");
        }
    }
}
