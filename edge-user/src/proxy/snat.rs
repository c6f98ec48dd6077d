//! Source NAT to proxies' addresses, in an nftables table of its own: a map from containers to
//! addresses, one to pools of them, and whatever of a proxied container is in neither is dropped.
//!
//! NAT's own memory of connections is the kernel's: changes of the map concern new connections
//! only, and a daemon's restart none. So are the counters: those of an address live for as long as
//! this machine serves it, those of what is dropped as long as the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use super::counts::{COUNTED, Counts, DROPPED, Dropped, is_stale};
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
    /// By IPv4.
    pub v4: Family<Ipv4Addr>,
    /// By IPv6, under the addresses beside those.
    pub v6: Family<Ipv6Addr>,
}

/// What it shall do with addresses of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family<A> {
    /// The proxied containers of this machine.
    pub proxied: BTreeSet<A>,
    /// The addresses of containers, of this machine and of others.
    pub addresses: BTreeMap<A, A>,
    /// The pools of those whose connections are spread over several.
    pub spread: BTreeMap<A, String>,
    /// The addresses of pools.
    pub pools: BTreeMap<String, BTreeSet<A>>,
    /// Containers of which something may still go on here, if nothing begins.
    pub drained: BTreeSet<A>,
    /// The addresses that this machine serves, and as which one's each counts: those that go still
    /// carry what has begun.
    pub held: BTreeMap<A, Ipv4Addr>,
    /// Those of them that edge itself has put on the uplink: nobody but NAT listens there.
    pub own: BTreeSet<A>,
}

/// A family of addresses, as nftables has it.
pub trait Kind: Ord + Copy + Display {
    /// The type of a set's elements.
    const TYPE: &'static str;
    /// Its protocol.
    const IP: &'static str;
    /// Its protocol of errors.
    const ICMP: &'static str;
    /// What the names of its sets, maps and chains end with.
    const SUFFIX: &'static str;
    /// What the names of its pools' chains begin with.
    const POOL: &'static str;
}

impl Kind for Ipv4Addr {
    const TYPE: &'static str = "ipv4_addr";
    const IP: &'static str = "ip";
    const ICMP: &'static str = "icmp";
    const SUFFIX: &'static str = "";
    const POOL: &'static str = "pool-";
}

impl Kind for Ipv6Addr {
    const TYPE: &'static str = "ipv6_addr";
    const IP: &'static str = "ip6";
    const ICMP: &'static str = "ipv6-icmp";
    const SUFFIX: &'static str = "6";
    const POOL: &'static str = "pool6-";
}

impl Nat {
    /// Edge itself has put these on the uplink.
    pub fn guard(&mut self, put: impl IntoIterator<Item = IpAddr>) {
        for ip in put {
            match ip {
                IpAddr::V4(ip) if self.v4.held.contains_key(&ip) => self.v4.own.insert(ip),
                IpAddr::V6(ip) if self.v6.held.contains_key(&ip) => self.v6.own.insert(ip),
                _ => false,
            };
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self {
            proxied: BTreeSet::new(),
            addresses: BTreeMap::new(),
            spread: BTreeMap::new(),
            pools: BTreeMap::new(),
            drained: BTreeSet::new(),
            held: BTreeMap::new(),
            own: BTreeSet::new(),
        }
    }
}

impl<A: Kind> Family<A> {
    fn is_empty(&self) -> bool {
        self.proxied.is_empty() && self.mapped().is_empty() && self.held.is_empty()
    }

    /// Containers that may send by this machine.
    fn mapped(&self) -> BTreeSet<A> {
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
        let chains = [self.stale_pools(&nat.v4)?, self.stale_pools(&nat.v6)?].concat();
        Ok(counters.collect::<String>() + &chains)
    }

    fn stale_pools<A: Kind>(&self, nat: &Family<A>) -> Result<String, NftError> {
        let name = &self.name;
        let chains = nft::chains(name, A::POOL)?.into_iter();
        let chains = chains.filter(|chain| !nat.pools.contains_key(&chain[A::POOL.len()..]));
        Ok(chains.map(|chain| format!("delete chain inet {name} {chain}\n")).collect())
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
        let counter = |name: String| format!("    counter {name} {{ }}\n");
        let reasons: String =
            Dropped::ALL.map(|drop| counter(format!("{DROPPED}{}", drop.label()))).concat();
        let (v4, v6) = (self.rules::<Ipv4Addr>(), self.rules::<Ipv6Addr>());
        let both = |of: fn(&Rules) -> &String| [of(&v4).as_str(), of(&v6)].concat();
        let [sets, called, forward, translation, leaving] = [
            both(|rules| &rules.sets),
            both(|rules| &rules.called),
            both(|rules| &rules.forward),
            both(|rules| &rules.translation),
            both(|rules| &rules.leaving),
        ];
        let Self { name, wireguard: Interfaces { gateway, ways }, .. } = self;
        let (hosts, ways) = (format!("\"{gateway}\""), format!("\"{ways}*\""));
        let [unsolicited, to_machine, stray] =
            [Dropped::Unsolicited, Dropped::ToMachine, Dropped::Stray].map(Dropped::statement);
        format!(
            "table inet {name} {{
{reasons}{sets}    chain untracked {{
        type filter hook prerouting priority raw; policy accept;
        iifname {ways} notrack
    }}
    chain input {{
        type filter hook input priority filter - 15; policy accept;
        iifname {{ {hosts}, {ways} }} {to_machine}
{called}    }}
    chain forward {{
        type filter hook forward priority filter - 15; policy accept;
        oifname {ways} {stray}
        oifname {hosts} ct state != {{ established, related }} {unsolicited}
        oifname {hosts} tcp flags syn tcp option maxseg size set rt mtu
{forward}    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat - 5; policy accept;
{translation}    }}
    chain leaving {{
        type filter hook postrouting priority srcnat + 5; policy accept;
{leaving}    }}
}}
"
        )
    }

    /// What the table has of a family.
    fn rules<A: Kind>(&self) -> Rules {
        let Self { veth_prefix, wireguard: Interfaces { gateway, ways }, ports, .. } = self;
        let (first, last) = (ports.start(), ports.end());
        let (veth, hosts, ways) =
            (format!("\"{veth_prefix}*\""), format!("\"{gateway}\""), format!("\"{ways}*\""));
        let (ip, icmp, of, element) = (A::IP, A::ICMP, A::SUFFIX, A::TYPE);
        let sets = ["proxied", "mapped", "own"];
        let sets = sets.map(|set| format!("    set {set}{of} {{ type {element}; }}\n")).concat();
        let counted =
            COUNTED.map(|map| format!("    map {map}{of} {{ type {element} : counter; }}\n"));
        let [no_address, not_translated, gone, not_proxied, unsolicited] = [
            Dropped::NoAddress,
            Dropped::NotTranslated,
            Dropped::AddressGone,
            Dropped::NotProxied,
            Dropped::Unsolicited,
        ]
        .map(Dropped::statement);
        let chains = format!(
            "    chain uncalled{of} {{
        counter name {ip} daddr map @unsolicited{of}
        {unsolicited}
    }}
    chain returned{of} {{
        counter name ct reply {ip} daddr map @received{of}
    }}
    chain translated{of} {{
        ct status ! confirmed counter name {ip} saddr map @opened{of}
        counter name {ip} saddr map @sent{of} accept
        {gone}
    }}
"
        );
        Rules {
            sets: format!(
                "{sets}    map address{of} {{ type {element} : {element}; }}
    map pool{of} {{ type {element} : verdict; }}
{}{chains}",
                counted.concat()
            ),
            called: format!(
                "        {ip} daddr @own{of} meta l4proto != {icmp} ct state new goto uncalled{of}\n"
            ),
            forward: format!(
                "        iifname {veth} {ip} saddr @proxied{of} {ip} saddr != @mapped{of} {no_address}
        iifname {hosts} {ip} saddr != @mapped{of} {no_address}
        iifname {ways} {ip} daddr != @proxied{of} {not_proxied}
        oifname {{ {veth}, {hosts} }} ct direction reply {ip} daddr @mapped{of} goto returned{of}
"
            ),
            translation: format!(
                "        {ip} saddr vmap @pool{of}
        meta l4proto {{ tcp, udp }} snat {ip} to {ip} saddr map @address{of}:{first}-{last}
        snat {ip} to {ip} saddr map @address{of}
"
            ),
            leaving: format!(
                "        {ip} saddr @proxied{of} {not_translated}
        {ip} saddr @mapped{of} {not_translated}
        ct direction original ct original {ip} saddr @proxied{of} goto translated{of}
        ct direction original ct original {ip} saddr @mapped{of} goto translated{of}
"
            ),
        }
    }

    /// Takes all elements away.
    fn emptied(&self) -> String {
        let name = &self.name;
        let of = |suffix: &'static str| {
            let sets = ["proxied", "mapped", "own"].into_iter().map(|set| ("set", set));
            let maps = ["address", "pool"].into_iter().chain(COUNTED).map(|map| ("map", map));
            let all = sets.chain(maps);
            all.map(|(kind, of)| format!("flush {kind} inet {name} {of}{suffix}\n")).collect()
        };
        let both: [String; 2] = [Ipv4Addr::SUFFIX, Ipv6Addr::SUFFIX].map(of);
        both.concat()
    }

    /// One transaction. An element must go before it comes with another value, and a counter be
    /// there for as long as an element has it.
    fn difference(&self, before: &Nat, next: &Nat) -> String {
        let name = &self.name;
        let counters = |verb: &str, of: &Nat, but: &Nat| -> String {
            let ips = of.v4.held.keys().filter(|ip| !but.v4.held.contains_key(*ip));
            let all = ips.flat_map(|ip| COUNTED.map(|counted| format!("{counted}-{ip}")));
            all.map(|counter| format!("{verb} counter inet {name} {counter}\n")).collect()
        };
        let [v4, v6] =
            [self.difference_of(&before.v4, &next.v4), self.difference_of(&before.v6, &next.v6)];
        counters("add", next, before) + &v4 + &v6 + &counters("delete", before, next)
    }

    fn difference_of<A: Kind>(&self, before: &Family<A>, next: &Family<A>) -> String {
        let (mut script, name, of, pool) = (String::new(), &self.name, A::SUFFIX, A::POOL);
        for (id, ips) in &next.pools {
            if before.pools.get(id) != Some(ips) {
                script += &self.pool(id, ips);
            }
        }
        let mut say = |verb: &str, set: &str, elements: Vec<String>| {
            if !elements.is_empty() {
                let elements = elements.join(", ");
                script += &format!("{verb} element inet {name} {set}{of} {{ {elements} }}\n");
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
        let (gone, new) = pairs(&before.spread, &next.spread, |id| format!("goto {pool}{id}"));
        say("delete", "pool", gone);
        say("add", "pool", new);
        for counted in COUNTED {
            let with = |as_of: &Ipv4Addr| format!("\"{counted}-{as_of}\"");
            let (gone, new) = pairs(&before.held, &next.held, with);
            say("delete", counted, gone);
            say("add", counted, new);
        }
        for id in before.pools.keys().filter(|id| !next.pools.contains_key(*id)) {
            script += &format!("delete chain inet {name} {pool}{id}\n");
        }
        script
    }

    /// Gives a pool these addresses: one connection each in turn.
    fn pool<A: Kind>(&self, id: &str, ips: &BTreeSet<A>) -> String {
        let (Self { name, ports, .. }, ip, pool) = (self, A::IP, A::POOL);
        let chain = format!("chain inet {name} {pool}{id}\n");
        let begin = format!("add {chain}flush {chain}");
        if ips.is_empty() {
            return begin;
        }
        let places: Vec<_> =
            ips.iter().enumerate().map(|(place, ip)| format!("{place} : {ip}")).collect();
        let turn = format!("numgen inc mod {} map {{ {} }}", ips.len(), places.join(", "));
        let rule = format!("add rule inet {name} {pool}{id}");
        let (first, last) = (ports.start(), ports.end());
        let with_ports = format!("meta l4proto {{ tcp, udp }} snat {ip} to {turn}:{first}-{last}");
        format!("{begin}{rule} {with_ports}\n{rule} snat {ip} to {turn}\n")
    }
}

/// Parts of the table, for a family of addresses.
struct Rules {
    /// Sets, maps, and chains that are only gone to.
    sets: String,
    /// Of the chain for what is for the machine itself.
    called: String,
    forward: String,
    translation: String,
    leaving: String,
}

/// What the elements of a map are to lose, and to get.
fn pairs<A: Kind, V: PartialEq>(
    before: &BTreeMap<A, V>,
    next: &BTreeMap<A, V>,
    value: impl Fn(&V) -> String,
) -> (Vec<String>, Vec<String>) {
    let gone = before.iter().filter(|(key, value)| next.get(*key) != Some(*value));
    let new = next.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let pair = |(key, of): (&A, &V)| format!("{key} : {}", value(of));
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

    fn v4(v4: Family<Ipv4Addr>) -> Nat {
        Nat { v4, ..Nat::default() }
    }

    #[test]
    fn ipv6_has_sets_of_its_own_and_counts_as_the_address_that_it_is_beside() {
        let [container, address] =
            ["fdaa:0:1:5:1::2", "2001:db8::65"].map(|ip| ip.parse().expect("an address"));
        let v6 = Family {
            addresses: [(container, address)].into(),
            held: [(address, A[0])].into(),
            ..Family::default()
        };
        let next = Nat { v6, ..Nat::default() };
        assert_eq!(
            snat().difference(&Nat::default(), &next),
            "add element inet edge_t_proxy mapped6 { fdaa:0:1:5:1::2 }
add element inet edge_t_proxy address6 { fdaa:0:1:5:1::2 : 2001:db8::65 }
add element inet edge_t_proxy sent6 { 2001:db8::65 : \"sent-192.0.2.1\" }
add element inet edge_t_proxy received6 { 2001:db8::65 : \"received-192.0.2.1\" }
add element inet edge_t_proxy opened6 { 2001:db8::65 : \"opened-192.0.2.1\" }
add element inet edge_t_proxy unsolicited6 { 2001:db8::65 : \"unsolicited-192.0.2.1\" }
"
        );
    }

    #[test]
    fn only_what_changes_is_said() {
        let family = Family {
            proxied: C.into(),
            addresses: [(C[0], A[0]), (C[1], A[0])].into(),
            held: [(A[0], A[0])].into(),
            ..Family::default()
        };
        let before = v4(family.clone());
        assert_eq!(snat().difference(&before, &before), "");
        let next = v4(Family { addresses: [(C[0], A[1])].into(), ..family });
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
        let with = |ips: &[Ipv4Addr]| {
            v4(Family {
                spread: [(C[0], "pr-1".to_owned())].into(),
                pools: [("pr-1".to_owned(), ips.iter().copied().collect())].into(),
                ..Family::default()
            })
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
        let drained = v4(Family { drained: [C[0]].into(), ..Family::default() });
        assert_eq!(
            snat().difference(&Nat::default(), &drained),
            "add element inet edge_t_proxy mapped { 100.64.0.2 }\n"
        );
    }

    #[test]
    fn an_addresss_counters_come_before_their_elements_and_go_after_them() {
        let at = |ip| v4(Family { held: [(ip, ip)].into(), ..Family::default() });
        let script = snat().difference(&at(A[0]), &at(A[1]));
        let place = |line: &str| script.find(line).unwrap_or_else(|| panic!("{line}: {script}"));
        let added =
            place("add element inet edge_t_proxy opened { 192.0.2.2 : \"opened-192.0.2.2\" }");
        assert!(place("add counter inet edge_t_proxy opened-192.0.2.2") < added);
        let gone = place("delete element inet edge_t_proxy opened { 192.0.2.1 }");
        assert!(gone < place("delete counter inet edge_t_proxy opened-192.0.2.1"));
    }
}
