//! What the table of source NAT counts, by the names of its counters: four for each address, and one
//! for each reason to drop a packet.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::snat::Nat;
use crate::{host::nft::Counter, region::proxy::Traffic};

/// What the table has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// What went under the addresses that this machine serves.
    pub traffic: BTreeMap<Ipv4Addr, Traffic>,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<Dropped, u64>,
}

/// Why the table drops a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// A container that has no address at this gateway.
    NoAddress,
    /// It left, but under no address: NAT has not changed it.
    NotTranslated,
    /// A connection under an address that is no longer served here.
    AddressGone,
    /// From a gateway, for none of this machine's proxied containers.
    NotProxied,
    /// Something that begins on the internet: nobody is meant to come by an address.
    Unsolicited,
    /// By WireGuard for the machine itself.
    ToMachine,
    /// Into WireGuard by another way than edge's programs.
    Stray,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NoAddress,
        Self::NotTranslated,
        Self::AddressGone,
        Self::NotProxied,
        Self::Unsolicited,
        Self::ToMachine,
        Self::Stray,
    ];

    /// As metrics and the table call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAddress => "no_address",
            Self::NotTranslated => "not_translated",
            Self::AddressGone => "address_gone",
            Self::NotProxied => "not_proxied",
            Self::Unsolicited => "unsolicited",
            Self::ToMachine => "to_machine",
            Self::Stray => "stray",
        }
    }

    /// Counts a packet and drops it.
    pub(super) fn statement(self) -> String {
        format!("counter name \"{DROPPED}{}\" drop", self.label())
    }
}

/// What the names of the reasons' counters begin with.
pub(super) const DROPPED: &str = "dropped-";
/// What is counted for each address: the names of the maps, and of the counters in them.
pub(super) const COUNTED: [&str; 4] = ["sent", "received", "opened", "unsolicited"];

impl Counts {
    /// What the table's counters say.
    pub(super) fn read(counters: &[(String, Counter)]) -> Self {
        let mut counts = Self::default();
        for (name, counter) in counters {
            if let Some((counted, ip)) = counted(name) {
                let row = counts.traffic.entry(ip).or_default();
                match counted {
                    "sent" => (row.packets_out, row.bytes_out) = (counter.packets, counter.bytes),
                    "received" => (row.packets_in, row.bytes_in) = (counter.packets, counter.bytes),
                    "opened" => row.connections = counter.packets,
                    _ => row.unsolicited = counter.packets,
                }
            } else if let Some(drop) =
                Dropped::ALL.iter().find(|drop| name.strip_prefix(DROPPED) == Some(drop.label()))
            {
                counts.dropped.insert(*drop, counter.packets);
            }
        }
        counts
    }
}

/// The address whose counter has a name, and what it counts.
fn counted(counter: &str) -> Option<(&str, Ipv4Addr)> {
    let (counted, ip) = counter.split_once('-')?;
    Some((counted, ip.parse().ok()?))
}

/// Whether a counter is of an address that this machine is not to serve.
pub(super) fn is_stale(counter: &str, nat: &Nat) -> bool {
    counted(counter).is_some_and(|(_, ip)| !nat.v4.held.contains_key(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::snat::Family;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    #[test]
    fn counters_are_told_apart_by_their_names() {
        let counter = |packets, bytes| Counter { packets, bytes };
        let listed = [
            ("sent-192.0.2.1", counter(3, 180)),
            ("received-192.0.2.1", counter(2, 120)),
            ("opened-192.0.2.1", counter(1, 60)),
            ("unsolicited-192.0.2.1", counter(9, 540)),
            ("dropped-address_gone", counter(7, 420)),
            ("of somebody else", counter(1, 1)),
        ];
        let counts = Counts::read(&listed.map(|(name, counter)| (name.to_owned(), counter)));
        let traffic = Traffic {
            packets_out: 3,
            bytes_out: 180,
            packets_in: 2,
            bytes_in: 120,
            connections: 1,
            unsolicited: 9,
        };
        let dropped = [(Dropped::AddressGone, 7)].into();
        assert_eq!(counts, Counts { traffic: [(A, traffic)].into(), dropped });
        let v4 = Family { held: [(B, B)].into(), ..Family::default() };
        let nat = Nat { v4, ..Nat::default() };
        assert!(is_stale("sent-192.0.2.1", &nat) && !is_stale("sent-192.0.2.2", &nat));
        assert!(!is_stale("dropped-stray", &nat));
    }
}
