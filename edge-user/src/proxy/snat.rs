//! Source NAT to proxies' addresses, in an nftables table of its own: a map from containers to
//! addresses, and whatever of a proxied container is not in it is dropped.
//!
//! NAT's own memory of connections is the kernel's: changes of the map concern new connections
//! only, and a daemon's restart none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::{AddAssign, RangeInclusive},
};

use serde_json::Value;

use crate::host::nft::{self, NftError};

/// What the table is made of.
#[derive(Debug, Clone)]
pub struct Snat {
    /// Its name.
    pub name: String,
    /// What every host-side veth's name begins with.
    pub veth_prefix: String,
    /// The names of this daemon's WireGuard interfaces.
    pub wireguard: Interfaces,
    /// Ports that connections may leave by.
    pub ports: RangeInclusive<u16>,
}

/// Names of WireGuard interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// Of that by which a gateway is reached.
    pub gateway: String,
    /// What those begin with that lead to gateways.
    pub ways: String,
}

/// What it shall do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nat {
    /// The proxied containers of this machine.
    pub proxied: BTreeSet<Ipv4Addr>,
    /// The addresses of containers, of this machine and of others.
    pub addresses: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// The addresses that this machine serves: those that go still carry what has begun.
    pub held: BTreeSet<Ipv4Addr>,
    /// Those of them that edge itself has put on the uplink: nobody but NAT listens there.
    pub own: BTreeSet<Ipv4Addr>,
}

/// What one container sent and received by its proxy, and how many connections it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
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
}

impl Nat {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.proxied.is_empty() && self.addresses.is_empty() && self.held.is_empty()
    }
}

impl AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.connections += other.connections;
    }
}

impl Snat {
    /// Puts the table in place, replacing in one step whatever has its name.
    ///
    /// # Errors
    /// [`NftError`]; then nothing was changed.
    pub fn install(&self, nat: &Nat) -> Result<(), NftError> {
        nft::run(&self.script(nat))
    }

    /// Puts the table in place with nothing in it, unless there is one: then nothing that comes by
    /// the WireGuard interface of a gateway goes on.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn shut(&self) -> Result<(), NftError> {
        if nft::list(&self.name).is_ok() { Ok(()) } else { self.install(&Nat::default()) }
    }

    /// Removes the table wholly; fine if it is not there.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn remove(&self) -> Result<(), NftError> {
        nft::remove(&self.name)
    }

    /// Makes one state of the table the next, in one step.
    ///
    /// # Errors
    /// [`NftError`]; then nothing was changed.
    pub fn change(&self, before: &Nat, next: &Nat) -> Result<(), NftError> {
        let script = self.difference(before, next);
        if script.is_empty() { Ok(()) } else { nft::run(&script) }
    }

    /// What containers sent and received since they were in the map.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn carried(&self) -> Result<BTreeMap<Ipv4Addr, Carried>, NftError> {
        let listed = nft::list(&self.name)?;
        let mut all = BTreeMap::new();
        let objects = listed["nftables"].as_array();
        for object in objects.into_iter().flatten() {
            let set = object.get("set").or_else(|| object.get("map"));
            let Some(set) = set else { continue };
            for element in set["elem"].as_array().into_iter().flatten() {
                let Some((container, packets, bytes)) = counted(element) else { continue };
                let row: &mut Carried = all.entry(container).or_default();
                match set["name"].as_str() {
                    Some("out") => (row.packets_out, row.bytes_out) = (packets, bytes),
                    Some("in") => (row.packets_in, row.bytes_in) = (packets, bytes),
                    Some("address") => row.connections = packets,
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    /// A lookup counts wherever it finds something: of each of the counted sets there is one only
    /// that a packet meets, and a `!=` does not count.
    fn script(&self, nat: &Nat) -> String {
        let Self { name, veth_prefix, wireguard: Interfaces { gateway, ways }, ports } = self;
        let (first, last) = (ports.start(), ports.end());
        let (veth, hosts, ways) =
            (format!("\"{veth_prefix}*\""), format!("\"{gateway}\""), format!("\"{ways}*\""));
        let table = format!(
            "table inet {name}
delete table inet {name}
table inet {name} {{
    set proxied {{ type ipv4_addr; }}
    map address {{ type ipv4_addr : ipv4_addr; counter; }}
    set out {{ type ipv4_addr; counter; }}
    set in {{ type ipv4_addr; counter; }}
    set held {{ type ipv4_addr; }}
    set own {{ type ipv4_addr; }}
    chain untracked {{
        type filter hook prerouting priority raw; policy accept;
        iifname {ways} notrack
    }}
    chain input {{
        type filter hook input priority filter - 15; policy accept;
        iifname {{ {hosts}, {ways} }} drop
        ip daddr @own meta l4proto != icmp ct state new drop
    }}
    chain forward {{
        type filter hook forward priority filter - 15; policy accept;
        iifname {veth} ip saddr @proxied ip saddr != @out drop
        iifname {{ {hosts}, {ways} }} meta nfproto ipv6 drop
        iifname {hosts} ip saddr != @out drop
        iifname {ways} ip daddr != @proxied drop
        oifname {ways} drop
        oifname {hosts} ct state != {{ established, related }} drop
        oifname {hosts} tcp flags syn tcp option maxseg size set rt mtu
        oifname {{ {veth}, {hosts} }} ip daddr @in
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat - 5; policy accept;
        meta l4proto {{ tcp, udp }} snat ip to ip saddr map @address:{first}-{last}
        snat ip to ip saddr map @address
    }}
    chain leaving {{
        type filter hook postrouting priority srcnat + 5; policy accept;
        ip saddr @proxied drop
        ip saddr @out drop
        ct direction original ct original ip saddr @proxied ip saddr != @held drop
        ct direction original ct original ip saddr @out ip saddr != @held drop
    }}
}}
"
        );
        table + &self.difference(&Nat::default(), nat)
    }

    /// One transaction, so that the order is nft's affair only: an element must go before it comes
    /// with another value.
    fn difference(&self, before: &Nat, next: &Nat) -> String {
        let mut script = String::new();
        let name = &self.name;
        let mut say = |verb: &str, set: &str, elements: Vec<String>| {
            if !elements.is_empty() {
                let elements = elements.join(", ");
                script += &format!("{verb} element inet {name} {set} {{ {elements} }}\n");
            }
        };
        let other = |(container, address): &(&Ipv4Addr, &Ipv4Addr)| {
            next.addresses.get(*container) != Some(*address)
        };
        let new = |(container, address): &(&Ipv4Addr, &Ipv4Addr)| {
            before.addresses.get(*container) != Some(*address)
        };
        let container = |(container, _): (&Ipv4Addr, &Ipv4Addr)| container.to_string();
        let pair =
            |(container, address): (&Ipv4Addr, &Ipv4Addr)| format!("{container} : {address}");
        for (set, before, next) in [
            ("proxied", &before.proxied, &next.proxied),
            ("held", &before.held, &next.held),
            ("own", &before.own, &next.own),
        ] {
            say("add", set, next.difference(before).map(ToString::to_string).collect());
            say("delete", set, before.difference(next).map(ToString::to_string).collect());
        }
        // Counters begin anew with another address.
        for set in ["out", "in", "address"] {
            say("delete", set, before.addresses.iter().filter(other).map(container).collect());
        }
        say("add", "address", next.addresses.iter().filter(new).map(pair).collect());
        for set in ["out", "in"] {
            say("add", set, next.addresses.iter().filter(new).map(container).collect());
        }
        script
    }
}

/// An element with a counter, alone or at the head of a pair.
fn counted(element: &Value) -> Option<(Ipv4Addr, u64, u64)> {
    let element = element.as_array().and_then(|pair| pair.first()).unwrap_or(element);
    let element = element.get("elem")?;
    let counter = element.get("counter")?;
    let container = element.get("val")?.as_str()?.parse().ok()?;
    Some((container, counter.get("packets")?.as_u64()?, counter.get("bytes")?.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 64, 0, 2), Ipv4Addr::new(100, 64, 0, 3)];
    const A: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

    fn snat() -> Snat {
        Snat {
            name: "edge_t_proxy".into(),
            veth_prefix: "ed12-".into(),
            wireguard: Interfaces { gateway: "ew12-in".into(), ways: "ew12-g".into() },
            ports: 30000..=65535,
        }
    }

    #[test]
    fn only_what_changes_is_said() {
        let before = Nat {
            proxied: C.into(),
            addresses: [(C[0], A[0]), (C[1], A[0])].into(),
            held: [A[0]].into(),
            own: BTreeSet::new(),
        };
        assert_eq!(snat().difference(&before, &before), "");
        let next = Nat { addresses: [(C[0], A[1])].into(), held: A.into(), ..before.clone() };
        assert_eq!(
            snat().difference(&before, &next),
            "add element inet edge_t_proxy held { 192.0.2.2 }
delete element inet edge_t_proxy out { 100.64.0.2, 100.64.0.3 }
delete element inet edge_t_proxy in { 100.64.0.2, 100.64.0.3 }
delete element inet edge_t_proxy address { 100.64.0.2, 100.64.0.3 }
add element inet edge_t_proxy address { 100.64.0.2 : 192.0.2.2 }
add element inet edge_t_proxy out { 100.64.0.2 }
add element inet edge_t_proxy in { 100.64.0.2 }
"
        );
    }

    #[test]
    fn counters_are_read_from_sets_and_maps() {
        let listed = serde_json::json!([
            {"elem": {"val": "100.64.0.2", "counter": {"packets": 3, "bytes": 180}}},
            [{"elem": {"val": "100.64.0.3", "counter": {"packets": 1, "bytes": 60}}}, "192.0.2.1"],
            "100.64.0.4",
        ]);
        let counted: Vec<_> = listed.as_array().unwrap().iter().map(counted).collect();
        assert_eq!(counted, [Some((C[0], 3, 180)), Some((C[1], 1, 60)), None]);
    }
}
