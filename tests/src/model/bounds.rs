//! Who may send to a tunnel, and how often connections to it open: what was let in is counted, and
//! time stands still. So it holds where no bucket gains a token within a test.

use std::{collections::HashMap, net::IpAddr};

use edge_common::{
    admit::{Pace, PaceRow},
    verdict::Verdict,
};
use ipnet::IpNet;

use super::{
    host::Tunnel,
    read::{Body, Packet},
};

/// What a tunnel's slot allows.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    pub(super) networks: Vec<IpNet>,
    /// Connections that may open at once, of one source and of all.
    pub(super) of_source: Option<u64>,
    pub(super) of_all: Option<u64>,
}

/// What connections were let in.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    sources: HashMap<(u32, IpAddr), u64>,
    tunnels: HashMap<u32, u64>,
}

impl Bounds {
    pub(super) fn set_pace(&mut self, row: &PaceRow) {
        let burst = |pace: &Pace| {
            (pace.interval != 0).then(|| pace.slack.div_euclid(pace.interval.max(1)) + 1)
        };
        (self.of_source, self.of_all) = (burst(&row.source), burst(&row.tunnel));
    }
}

impl Ledger {
    /// Why a packet is not let in, if it is not; and whether that depends on those before it.
    pub(super) fn refusal(
        &mut self,
        tunnel: &Tunnel,
        bounds: &Bounds,
        packet: &Packet,
    ) -> (Option<Verdict>, bool) {
        let is_on_list = || bounds.networks.iter().any(|one| one.contains(&packet.source));
        if tunnel.is_listed && !is_on_list() {
            return (Some(Verdict::NotAllowed), false);
        }
        let opens = matches!(packet.body, Body::Tcp { syn: true, ack: false, .. });
        if !tunnel.is_paced || !opens {
            return (None, false);
        }
        let source = self.sources.entry((tunnel.slot, neighbourhood(packet.source))).or_default();
        if !takes(source, bounds.of_source) {
            return (Some(Verdict::SourceRate), true);
        }
        // A source has spent its token even if all of them together are too many.
        let all = self.tunnels.entry(tunnel.slot).or_default();
        if !takes(all, bounds.of_all) {
            return (Some(Verdict::TunnelRate), true);
        }
        (None, true)
    }
}

fn takes(taken: &mut u64, most: Option<u64>) -> bool {
    let is_free = most.is_none_or(|most| *taken < most);
    *taken += u64::from(is_free);
    is_free
}

/// Who counts as one: an IPv4 address, or the network of 64 bits that an IPv6 host is given.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(network.into())
        }
    }
}
