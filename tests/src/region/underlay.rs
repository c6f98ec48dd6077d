//! What is between the machines of a region.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    str::FromStr,
    sync::OnceLock,
};

use super::plan::{Plan, underlay_interface};
use crate::{netns::NetNs, wire::Wire};

/// The kinds that edge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// One link that all share, and nothing around packets.
    Direct,
    /// A router between any two machines, IPv4 only.
    V4,
    /// The same, IPv6 only.
    V6,
}

/// The namespace that machines are wired to: a switch for each link, or one router.
#[derive(Debug)]
pub(super) struct Fabric {
    underlay: Underlay,
    netns: NetNs,
    links: u8,
    mtu: u32,
    wired: bool,
    /// The first machine, if they are wired to each other.
    first: OnceLock<u8>,
}

impl Underlay {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Direct, Self::V4, Self::V6];

    /// The value of `--carriage`.
    pub fn carriage(self) -> &'static str {
        if self == Self::Direct { "direct" } else { "geneve" }
    }

    /// A machine's address on a link.
    pub fn address(self, link: u8, machine: u8) -> IpAddr {
        self.side(link, machine, 2)
    }

    /// The router's address on a machine's link, or the machine's own on a shared one.
    fn side(self, link: u8, machine: u8, side: u8) -> IpAddr {
        let [link6, machine6, side6] = [link, machine, side].map(u16::from);
        match self {
            Self::Direct => Ipv6Addr::new(0xfd00, 0xed, link6, 0, 0, 0, 0, machine6).into(),
            Self::V4 => Ipv4Addr::new(10, 80 + link, machine, side).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0xed, link6, machine6, 0, 0, 0, side6).into(),
        }
    }

    fn prefix(self) -> u8 {
        if self == Self::V4 { 24 } else { 64 }
    }

    /// Where the other machines of a link are.
    fn network(self, link: u8) -> String {
        match self {
            Self::Direct => format!("fd00:ed:{link:x}::/64"),
            Self::V4 => format!("10.{}.0.0/16", 80 + link),
            Self::V6 => format!("fd00:ed:{link:x}::/48"),
        }
    }
}

impl Fabric {
    #[track_caller]
    pub(super) fn new(&Plan { underlay, links, mtu, wired, .. }: &Plan) -> Self {
        let netns = NetNs::new("underlay");
        match underlay {
            Underlay::Direct => {
                // Its ports are no ends of anything.
                netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
                for link in 0..links {
                    bridge(&netns, &switch(link));
                }
            }
            Underlay::V4 => netns.sysctl("net/ipv4/ip_forward", "1"),
            Underlay::V6 => {
                netns.sysctl("net/ipv6/conf/all/forwarding", "1");
                // A wire that is cut and mended has its address again.
                netns.sysctl("net/ipv6/conf/default/keep_addr_on_down", "1");
            }
        }
        Self { underlay, netns, links, mtu, wired, first: OnceLock::new() }
    }

    pub(super) fn addresses(&self, machine: u8) -> Vec<IpAddr> {
        (0..self.links).map(|link| self.underlay.address(link, machine)).collect()
    }

    /// Wires a machine to every link; the first end of each wire is the underlay's.
    #[track_caller]
    pub(super) fn wire(&self, netns: &NetNs, machine: u8) -> Vec<Wire> {
        if self.wired {
            return self.wire_to_each_other(netns, machine).into_iter().collect();
        }
        (0..self.links).map(|link| self.wire_link(netns, machine, link)).collect()
    }

    #[track_caller]
    fn wire_link(&self, netns: &NetNs, machine: u8, link: u8) -> Wire {
        let (port, own) = (port(link, machine), underlay_interface(link));
        let underlay = self.underlay;
        let with_prefix =
            |side| format!("{}/{}", underlay.side(link, machine, side), underlay.prefix());
        let (router, address) = (with_prefix(1), with_prefix(2));
        if underlay == Underlay::Direct {
            let wire = Wire::new(&self.netns, &port, &[], netns, &own, &[&address]).mtu(self.mtu);
            self.netns.ip(&["link", "set", &port, "master", &switch(link)]);
            return wire;
        }
        let wire = Wire::new(&self.netns, &port, &[&router], netns, &own, &[&address]);
        let via = underlay.side(link, machine, 1).to_string();
        netns.ip(&["route", "add", &underlay.network(link), "via", &via, "dev", &own]);
        wire.mtu(self.mtu)
    }

    /// The second machine gets the other end of the first one's wire.
    #[track_caller]
    fn wire_to_each_other(&self, netns: &NetNs, machine: u8) -> Option<Wire> {
        let first = *self.first.get_or_init(|| machine);
        let (port, own) = (port(0, first), underlay_interface(0));
        let prefix = match self.underlay {
            Underlay::Direct => 64,
            Underlay::V4 => 16,
            Underlay::V6 => 48,
        };
        let address = format!("{}/{prefix}", self.underlay.address(0, machine));
        if first == machine {
            let wire = Wire::new(&self.netns, &port, &[], netns, &own, &[&address]);
            return Some(wire.mtu(self.mtu));
        }
        self.netns.ip(&["link", "set", &port, "netns", netns.name(), "name", &own]);
        let at_once: &[_] = if address.contains(':') { &["nodad"] } else { &[] };
        netns.ip(&[&["address", "add", &address, "dev", &own], at_once].concat());
        netns.ip(&["link", "set", &own, "up"]);
        None
    }

    /// Lets the router say "too big" of packets to a machine that are larger.
    #[track_caller]
    pub(super) fn narrow(&self, machine: u8, mtu: u32) {
        assert_ne!(self.underlay, Underlay::Direct, "a switch says nothing to anybody");
        for link in 0..self.links {
            let to = self.underlay.address(link, machine).to_string();
            let (port, mtu) = (port(link, machine), mtu.to_string());
            // Without the lock a router looks at the interface only.
            self.netns.ip(&["route", "replace", &to, "dev", &port, "mtu", "lock", &mtu]);
        }
    }

    /// The switch or router.
    pub(super) fn netns(&self) -> &NetNs {
        &self.netns
    }
}

/// A switch whose ports forward at once, and which is no firewall.
#[track_caller]
pub(super) fn bridge(netns: &NetNs, name: &str) {
    for tables in ["iptables", "ip6tables", "arptables"] {
        let setting = format!("net/bridge/bridge-nf-call-{tables}");
        // Where there is such a thing.
        if Path::new("/proc/sys").join(&setting).exists() {
            netns.sysctl(&setting, "0");
        }
    }
    netns.ip(&["link", "add", name, "type", "bridge", "mcast_snooping", "0"]);
    netns.ip(&["link", "set", name, "up"]);
}

fn switch(link: u8) -> String {
    format!("switch{link}")
}

fn port(link: u8, machine: u8) -> String {
    format!("port{link}-{machine}")
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

impl FromStr for Underlay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.to_string() == text);
        found.ok_or_else(|| format!("{text} is no underlay; there are direct, v4 and v6"))
    }
}
