//! Source NAT to proxies' addresses, in an nftables table of its own: a map from containers to
//! addresses, one to pools of them, and whatever of a proxied container is in neither is dropped.
//!
//! NAT's own memory of connections is the kernel's: changes of the map concern new connections
//! only, and a daemon's restart none. So are the counters: those of an address live for as long as
//! this machine serves it, those of what is dropped as long as the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use super::counts::{COUNTED, Counts, DROPPED, Dropped, is_stale};
use crate::host::nft::{self, NftError};

/// What the names of pools' chains begin with.
const POOL: &str = "pool-";

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
    /// The pools of those whose connections are spread over several.
    pub spread: BTreeMap<Ipv4Addr, String>,
    /// The addresses of pools.
    pub pools: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Containers of which something may still go on here, if nothing begins.
    pub drained: BTreeSet<Ipv4Addr>,
    /// The addresses that this machine serves: those that go still carry what has begun.
    pub held: BTreeSet<Ipv4Addr>,
    /// Those of them that edge itself has put on the uplink: nobody but NAT listens there.
    pub own: BTreeSet<Ipv4Addr>,
}

impl Nat {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.proxied.is_empty() && self.mapped().is_empty() && self.held.is_empty()
    }

    /// Containers that may send by this machine.
    fn mapped(&self) -> BTreeSet<Ipv4Addr> {
        let begins = self.addresses.keys().chain(self.spread.keys());
        begins.chain(&self.drained).copied().collect()
    }
}

impl Snat {
    /// Puts the table in place, taking up in one step whatever has its name: what was counted
    /// stays. Only a table of another shape is replaced.
    ///
    /// # Errors
    /// [`NftError`]; then nothing was changed.
    pub fn install(&self, nat: &Nat) -> Result<(), NftError> {
        let Self { name, .. } = self;
        let script = self.script();
        let stale = self.stale(nat).unwrap_or_default();
        let taken_up = format!("table inet {name}\nflush table inet {name}\n{script}");
        let elements = self.difference(&Nat::default(), nat);
        let taken_up = format!("{taken_up}{}{stale}{elements}", self.emptied());
        nft::run(&taken_up).or_else(|error| {
            tracing::info!(%error, "the table of proxies is of another shape; it counts from zero");
            nft::run(&format!("table inet {name}\ndelete table inet {name}\n{script}{elements}"))
        })
    }

    /// Removes the counters and chains that an earlier daemon's table has and this one needs not.
    fn stale(&self, nat: &Nat) -> Result<String, NftError> {
        let name = &self.name;
        let counters = nft::counters(name)?.into_iter().map(|(counter, _)| counter);
        let counters = counters.filter(|counter| is_stale(counter, nat));
        let counters = counters.map(|counter| format!("delete counter inet {name} {counter}\n"));
        let chains = nft::chains(name, POOL)?.into_iter();
        let chains = chains.filter(|chain| !nat.pools.contains_key(&chain[POOL.len()..]));
        let chains = chains.map(|chain| format!("delete chain inet {name} {chain}\n"));
        Ok(counters.chain(chains).collect())
    }

    /// Puts the table in place with nothing in it, unless there is one: then nothing that comes by
    /// the WireGuard interface of a gateway goes on.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn shut(&self) -> Result<(), NftError> {
        if nft::counters(&self.name).is_ok() { Ok(()) } else { self.install(&Nat::default()) }
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

    /// What it has counted.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn counts(&self) -> Result<Counts, NftError> {
        nft::counters(&self.name).map(|counters| Counts::read(&counters))
    }

    fn script(&self) -> String {
        let Self { name, veth_prefix, wireguard: Interfaces { gateway, ways }, ports } = self;
        let (first, last) = (ports.start(), ports.end());
        let (veth, hosts, ways) =
            (format!("\"{veth_prefix}*\""), format!("\"{gateway}\""), format!("\"{ways}*\""));
        let counter = |name: String| format!("    counter {name} {{ }}\n");
        let reasons: String =
            Dropped::ALL.map(|drop| counter(format!("{DROPPED}{}", drop.label()))).concat();
        let maps = COUNTED.map(|map| format!("    map {map} {{ type ipv4_addr : counter; }}\n"));
        let maps = maps.concat();
        let [no_address, not_translated, gone, ipv6, not_proxied, unsolicited, to_machine, stray] =
            Dropped::ALL.map(Dropped::statement);
        format!(
            "table inet {name} {{
    set proxied {{ type ipv4_addr; }}
    set mapped {{ type ipv4_addr; }}
    set own {{ type ipv4_addr; }}
    map address {{ type ipv4_addr : ipv4_addr; }}
    map pool {{ type ipv4_addr : verdict; }}
{maps}{reasons}    chain untracked {{
        type filter hook prerouting priority raw; policy accept;
        iifname {ways} notrack
    }}
    chain input {{
        type filter hook input priority filter - 15; policy accept;
        iifname {{ {hosts}, {ways} }} {to_machine}
        ip daddr @own meta l4proto != icmp ct state new goto uncalled
    }}
    chain uncalled {{
        counter name ip daddr map @unsolicited
        {unsolicited}
    }}
    chain forward {{
        type filter hook forward priority filter - 15; policy accept;
        iifname {veth} ip saddr @proxied ip saddr != @mapped {no_address}
        iifname {{ {hosts}, {ways} }} meta nfproto ipv6 {ipv6}
        iifname {hosts} ip saddr != @mapped {no_address}
        iifname {ways} ip daddr != @proxied {not_proxied}
        oifname {ways} {stray}
        oifname {hosts} ct state != {{ established, related }} {unsolicited}
        oifname {hosts} tcp flags syn tcp option maxseg size set rt mtu
        oifname {{ {veth}, {hosts} }} ct direction reply ip daddr @mapped goto returned
    }}
    chain returned {{
        counter name ct reply ip daddr map @received
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat - 5; policy accept;
        ip saddr vmap @pool
        meta l4proto {{ tcp, udp }} snat ip to ip saddr map @address:{first}-{last}
        snat ip to ip saddr map @address
    }}
    chain leaving {{
        type filter hook postrouting priority srcnat + 5; policy accept;
        ip saddr @proxied {not_translated}
        ip saddr @mapped {not_translated}
        ct direction original ct original ip saddr @proxied goto translated
        ct direction original ct original ip saddr @mapped goto translated
    }}
    chain translated {{
        ct status ! confirmed counter name ip saddr map @opened
        counter name ip saddr map @sent accept
        {gone}
    }}
}}
"
        )
    }

    /// Takes all elements away.
    fn emptied(&self) -> String {
        let name = &self.name;
        let sets = ["proxied", "mapped", "own"].map(|set| format!("flush set inet {name} {set}\n"));
        let maps = ["address", "pool"].into_iter().chain(COUNTED);
        sets.concat()
            + &maps.map(|map| format!("flush map inet {name} {map}\n")).collect::<String>()
    }

    /// One transaction. An element must go before it comes with another value, and a counter be
    /// there for as long as an element has it.
    fn difference(&self, before: &Nat, next: &Nat) -> String {
        let mut script = String::new();
        let name = &self.name;
        for ip in next.held.difference(&before.held) {
            for counted in COUNTED {
                script += &format!("add counter inet {name} {counted}-{ip}\n");
            }
        }
        for (id, ips) in &next.pools {
            if before.pools.get(id) != Some(ips) {
                script += &self.pool(id, ips);
            }
        }
        let mut say = |verb: &str, set: &str, elements: Vec<String>| {
            if !elements.is_empty() {
                let elements = elements.join(", ");
                script += &format!("{verb} element inet {name} {set} {{ {elements} }}\n");
            }
        };
        for (set, before, next) in [
            ("proxied", &before.proxied, &next.proxied),
            ("mapped", &before.mapped(), &next.mapped()),
            ("own", &before.own, &next.own),
        ] {
            say("add", set, next.difference(before).map(ToString::to_string).collect());
            say("delete", set, before.difference(next).map(ToString::to_string).collect());
        }
        let (gone, new) = pairs(&before.addresses, &next.addresses, ToString::to_string);
        say("delete", "address", gone);
        say("add", "address", new);
        let (gone, new) = pairs(&before.spread, &next.spread, |id| format!("goto {POOL}{id}"));
        say("delete", "pool", gone);
        say("add", "pool", new);
        for counted in COUNTED {
            let with = |ip: &Ipv4Addr| format!("{ip} : \"{counted}-{ip}\"");
            say("add", counted, next.held.difference(&before.held).map(with).collect());
            let gone = before.held.difference(&next.held);
            say("delete", counted, gone.map(ToString::to_string).collect());
        }
        for ip in before.held.difference(&next.held) {
            for counted in COUNTED {
                script += &format!("delete counter inet {name} {counted}-{ip}\n");
            }
        }
        for id in before.pools.keys().filter(|id| !next.pools.contains_key(*id)) {
            script += &format!("delete chain inet {name} {POOL}{id}\n");
        }
        script
    }

    /// Gives a pool these addresses: one connection each in turn.
    fn pool(&self, id: &str, ips: &BTreeSet<Ipv4Addr>) -> String {
        let Self { name, ports, .. } = self;
        let chain = format!("chain inet {name} {POOL}{id}\n");
        let begin = format!("add {chain}flush {chain}");
        if ips.is_empty() {
            return begin;
        }
        let places: Vec<_> =
            ips.iter().enumerate().map(|(place, ip)| format!("{place} : {ip}")).collect();
        let turn = format!("numgen inc mod {} map {{ {} }}", ips.len(), places.join(", "));
        let rule = format!("add rule inet {name} {POOL}{id}");
        let (first, last) = (ports.start(), ports.end());
        let with_ports = format!("meta l4proto {{ tcp, udp }} snat ip to {turn}:{first}-{last}");
        format!("{begin}{rule} {with_ports}\n{rule} snat ip to {turn}\n")
    }
}

/// What the elements of a map are to lose, and to get.
fn pairs<V: PartialEq>(
    before: &BTreeMap<Ipv4Addr, V>,
    next: &BTreeMap<Ipv4Addr, V>,
    value: impl Fn(&V) -> String,
) -> (Vec<String>, Vec<String>) {
    let gone = before.iter().filter(|(key, value)| next.get(*key) != Some(*value));
    let new = next.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let pair = |(key, of): (&Ipv4Addr, &V)| format!("{key} : {}", value(of));
    (gone.map(|(key, _)| key.to_string()).collect(), new.map(pair).collect())
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
            ..Nat::default()
        };
        assert_eq!(snat().difference(&before, &before), "");
        let next = Nat { addresses: [(C[0], A[1])].into(), ..before.clone() };
        assert_eq!(
            snat().difference(&before, &next),
            "delete element inet edge_t_proxy mapped { 100.64.0.3 }
delete element inet edge_t_proxy address { 100.64.0.2, 100.64.0.3 }
add element inet edge_t_proxy address { 100.64.0.2 : 192.0.2.2 }
"
        );
    }

    #[test]
    fn a_pool_is_there_before_its_containers_and_goes_after_them() {
        let with = |ips: &[Ipv4Addr]| Nat {
            spread: [(C[0], "pr-1".to_owned())].into(),
            pools: [("pr-1".to_owned(), ips.iter().copied().collect())].into(),
            ..Nat::default()
        };
        let pool = "add chain inet edge_t_proxy pool-pr-1
flush chain inet edge_t_proxy pool-pr-1
add rule inet edge_t_proxy pool-pr-1 meta l4proto { tcp, udp } snat ip to numgen inc mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }:30000-65535
add rule inet edge_t_proxy pool-pr-1 snat ip to numgen inc mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }
";
        let elements = "add element inet edge_t_proxy mapped { 100.64.0.2 }
add element inet edge_t_proxy pool { 100.64.0.2 : goto pool-pr-1 }
";
        let nothing = Nat::default();
        assert_eq!(snat().difference(&nothing, &with(&A)), format!("{pool}{elements}"));
        assert_eq!(snat().difference(&with(&A[..1]), &with(&A)), pool);
        let goes = "delete element inet edge_t_proxy mapped { 100.64.0.2 }
delete element inet edge_t_proxy pool { 100.64.0.2 }
delete chain inet edge_t_proxy pool-pr-1
";
        assert_eq!(snat().difference(&with(&A), &nothing), goes);
    }

    #[test]
    fn what_only_goes_on_is_let_through_and_begins_nowhere() {
        let drained = Nat { drained: [C[0]].into(), ..Nat::default() };
        assert_eq!(
            snat().difference(&Nat::default(), &drained),
            "add element inet edge_t_proxy mapped { 100.64.0.2 }\n"
        );
    }

    #[test]
    fn an_addresss_counters_come_before_their_elements_and_go_after_them() {
        let at = |ip| Nat { held: [ip].into(), ..Nat::default() };
        let script = snat().difference(&at(A[0]), &at(A[1]));
        let place = |line: &str| script.find(line).unwrap_or_else(|| panic!("{line}: {script}"));
        let added =
            place("add element inet edge_t_proxy opened { 192.0.2.2 : \"opened-192.0.2.2\" }");
        assert!(place("add counter inet edge_t_proxy opened-192.0.2.2") < added);
        let gone = place("delete element inet edge_t_proxy opened { 192.0.2.1 }");
        assert!(gone < place("delete counter inet edge_t_proxy opened-192.0.2.1"));
    }
}
