//! The tunnels that a machine has, and what is known of those at their other ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use edge_common::packet::LEAST_MTU_V6;
use ipnet::{IpNet, Ipv6Net};

use super::{
    device::Tunnel,
    paths::{Path, Toward},
    peers::Spoken,
};
use crate::region::{
    roster::{HostRecord, WireGuard},
    view::View,
};

/// Bits of a container's IPv6 address up to the number of its host, that included.
const HOST_BITS: u8 = 80;

/// What there is.
#[derive(Default)]
pub(super) struct There {
    /// For hosts.
    pub(super) inward: Option<Inward>,
    /// To gateways, by number.
    pub(super) outward: BTreeMap<u16, Outward>,
    /// When the last handshakes were: WireGuard forgets them with their sessions.
    shaken: BTreeMap<(u16, Toward), Instant>,
}

/// The interface by which hosts reach a gateway.
pub(super) struct Inward {
    pub(super) tunnel: Tunnel,
    /// Machines by key.
    pub(super) peers: BTreeMap<[u8; 32], Sender>,
    /// Networks, and how large a packet each takes.
    pub(super) routes: BTreeMap<IpNet, u32>,
}

/// A machine that may send to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) number: u16,
    /// What its containers may send from, and are sent.
    pub(super) networks: BTreeSet<IpNet>,
    /// Bytes of the largest IP packet that both ends take.
    pub(super) mtu: u32,
}

/// An interface to a gateway.
pub(super) struct Outward {
    pub(super) tunnel: Tunnel,
    pub(super) far: Far,
}

/// The far end of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Far {
    pub(super) key: [u8; 32],
    pub(super) endpoint: SocketAddr,
    /// Bytes of the largest IP packet that both ends take.
    pub(super) mtu: u32,
}

impl There {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.outward.is_empty() && self.inward.is_none()
    }

    /// Asks gateways for a sign of life, if it is time to.
    pub(super) fn ask(&self) {
        let now = Instant::now();
        for (number, outward) in &self.outward {
            outward.tunnel.ask(*number, now);
        }
    }

    /// What is known of the way to each machine, and from it.
    pub(super) fn paths(&mut self) -> Vec<Path> {
        let mut paths = Vec::new();
        let before = std::mem::take(&mut self.shaken);
        let path = |machine, toward, spoken: &Spoken| Path {
            machine,
            toward,
            shaken: spoken.shaken.or_else(|| before.get(&(machine, toward)).copied()),
            sent: spoken.sent,
            received: spoken.received,
            round_trip: None,
        };
        for (number, Outward { tunnel, far }) in &self.outward {
            if let Some(spoken) = tunnel.spoken().get(&far.key) {
                let round_trip = tunnel.pulse().round_trip();
                paths.push(Path { round_trip, ..path(*number, Toward::Gateway, spoken) });
            }
        }
        if let Some(inward) = &self.inward {
            for (key, spoken) in inward.tunnel.spoken() {
                if let Some(Sender { number, .. }) = inward.peers.get(&key) {
                    paths.push(path(*number, Toward::Host, &spoken));
                }
            }
        }
        let shaken = |path: &Path| Some(((path.machine, path.toward), path.shaken?));
        self.shaken = paths.iter().filter_map(shaken).collect();
        paths
    }
}

impl Sender {
    /// As it announced itself, with the IPv4 blocks that it has leased, and these networks.
    pub(super) fn of(record: &HostRecord, v6: Option<BTreeSet<IpNet>>, own_mtu: u32) -> Self {
        let mut networks = v6.unwrap_or_default();
        networks.extend(record.blocks.iter().copied().map(IpNet::V4));
        let mtu = record.about.wireguard.as_ref().map_or(own_mtu, |far| least(own_mtu, far));
        Self { number: record.id, networks, mtu }
    }

    /// Where packets for it go, by an interface that has IPv6 or has not.
    pub(super) fn routes(&self, has_ipv6: bool) -> impl Iterator<Item = (IpNet, u32)> {
        let has_ipv6 = has_ipv6 && self.mtu >= LEAST_MTU_V6;
        let networks = self.networks.iter().copied();
        let routed = networks.filter(move |net| has_ipv6 || matches!(net, IpNet::V4(_)));
        routed.map(|net| (net, self.mtu))
    }
}

/// Bytes of the largest IP packet that this machine and another take.
pub(super) fn least(own: u32, far: &WireGuard) -> u32 {
    if far.mtu == 0 { own } else { own.min(far.mtu) }
}

/// What hosts have of IPv6, by their numbers: of each workspace with proxied containers there, the
/// addresses that are this host's; [`crate::region::addresses`] says which bits are whose.
pub(super) fn ipv6_networks(view: &View) -> BTreeMap<u16, BTreeSet<IpNet>> {
    let mut networks = BTreeMap::<_, BTreeSet<_>>::new();
    for one in view.containers.values().filter(|one| one.proxy.is_some()) {
        if let Ok(network) = Ipv6Net::new(one.i6pn, HOST_BITS)
            && one.i6pn.segments()[4] == one.host
        {
            networks.entry(one.host).or_default().insert(network.trunc().into());
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_networks_are_reached_as_wide_as_both_ends_are() {
        let far = |mtu| WireGuard { key: String::new(), port: 0, mtu };
        assert_eq!([0, 1260, 9000].map(|mtu| least(1420, &far(mtu))), [1420, 1260, 1420]);
        let [v4, v6] = ["100.64.1.0/25", "fdaa:0:1:5:1::/80"].map(|net| net.parse().unwrap());
        let of = |mtu| Sender { number: 1, networks: [v4, v6].into(), mtu };
        let routes = |mtu, has_ipv6| of(mtu).routes(has_ipv6).collect::<Vec<_>>();
        assert_eq!(routes(1280, true), [(v4, 1280), (v6, 1280)]);
        assert_eq!(routes(1279, true), [(v4, 1279)], "no link for IPv6");
        assert_eq!(routes(1420, false), [(v4, 1420)]);
    }
}
