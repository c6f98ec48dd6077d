//! The nftables table under it all: a lost link is a closed door, not an open router.
//!
//! The table is loaded by `nft` itself: its language is what an operator reads in `nft list
//! ruleset`, and one script is one transaction.

use std::{
    io::Write as _,
    ops::RangeInclusive,
    process::{Command, Stdio},
};

use edge_common::tables::{LISTENER_MARK, PROXIED_MARK};
use ipnet::Ipv4Net;
use serde::Deserialize;

/// The port of Geneve (RFC 8926).
const GENEVE: u16 = 6081;

/// What the table is made of.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name, `edge_` and the instance.
    pub name: String,
    /// What every host-side veth's name begins with.
    pub veth_prefix: String,
    /// The containers' IPv4 range.
    pub pool: Ipv4Net,
    /// The raw ports: source NAT must never pick one, or a reply would look like a tunnel's packet.
    pub raw_ports: RangeInclusive<u16>,
    /// The interfaces towards the region's other machines.
    pub underlays: Vec<String>,
    /// What the names of WireGuard interfaces to proxies' gateways begin with: what comes by them
    /// is judged in a table of its own.
    pub ways: String,
}

/// `nft` did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It is not there.
    #[error("nft cannot be run; install the nftables package")]
    Missing(#[source] std::io::Error),
    /// It said no.
    #[error("nft refused edge's table, so nothing was changed: {0}")]
    Refused(String),
}

impl Table {
    /// Puts the table in place, replacing in one step whatever has its name.
    pub fn install(&self) -> Result<(), NftError> {
        run(&self.script())
    }

    fn script(&self) -> String {
        let Self { name, veth_prefix, pool, ways, .. } = self;
        let veth = format!("\"{veth_prefix}*\"");
        let ports = nat_ports(&self.raw_ports);
        let (first, last) = (ports.start(), ports.end());
        let (from_containers, from_here) = self.between_machines();
        format!(
            "table inet {name}
delete table inet {name}
table inet {name} {{
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        iifname {veth} meta mark {LISTENER_MARK:#x} accept
        iifname {veth} ct state established,related accept
        iifname {{ {veth}, \"{ways}*\" }} drop
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        iifname {veth} oifname {veth} drop
        iifname \"{ways}*\" oifname != {veth} drop
{from_containers}        iifname {veth} meta nfproto ipv6 meta mark != {PROXIED_MARK:#x} drop
        iifname {veth} ip saddr != {pool} drop
        iifname != \"{ways}*\" oifname {veth} ct state != {{ established, related }} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname {veth} accept
        ip saddr {pool} meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}
        ip saddr {pool} masquerade
    }}
{from_here}}}
"
        )
    }

    /// Nobody here but the programs, whose packets do not pass this way, speaks for this machine:
    /// neither a container nor an unprivileged program.
    fn between_machines(&self) -> (String, String) {
        if self.underlays.is_empty() {
            return Default::default();
        }
        let names: Vec<_> = self.underlays.iter().map(|name| format!("\"{name}\"")).collect();
        let (veth, names) = (&self.veth_prefix, names.join(", "));
        let forward = format!("        iifname \"{veth}*\" udp dport {GENEVE} drop\n");
        let output = format!(
            "    chain output {{
        type filter hook output priority filter - 10; policy accept;
        oifname {{ {names} }} udp dport {GENEVE} drop
    }}
"
        );
        (forward, output)
    }
}

/// Where source NAT may take its ports from: the larger side of the unprivileged ones that the raw
/// range leaves.
pub fn nat_ports(raw_ports: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let below = raw_ports.start().saturating_sub(1024);
    let above = u16::MAX - raw_ports.end();
    if above >= below {
        raw_ports.end().saturating_add(1)..=u16::MAX
    } else {
        1024..=raw_ports.start() - 1
    }
}

/// Removes a table wholly; fine if it is not there.
pub fn remove(name: &str) -> Result<(), NftError> {
    run(&format!("table inet {name}\ndelete table inet {name}\n"))
}

/// Carries out a script, in one transaction.
pub fn run(script: &str) -> Result<(), NftError> {
    nft(&["-f", "-"], script).map(drop)
}

/// What a named counter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The named counters of a table, and nothing else of it, however much it holds.
pub fn counters(name: &str) -> Result<Vec<(String, Counter)>, NftError> {
    Ok(listed(&["-j", "list", "counters", "table", "inet", name])?
        .into_iter()
        .filter_map(|one| one.counter)
        .map(|one| (one.name, one.counter))
        .collect())
}

/// The chains of a table whose names begin so.
pub fn chains(table: &str, prefix: &str) -> Result<Vec<String>, NftError> {
    let listed = listed(&["-j", "list", "chains", "inet"])?;
    let its = |chain: &Chain| chain.table == table && chain.name.starts_with(prefix);
    let chains = listed.into_iter().filter_map(|one| one.chain);
    Ok(chains.filter(its).map(|chain| chain.name).collect())
}

fn listed(arguments: &[&str]) -> Result<Vec<Object>, NftError> {
    let Listed { nftables } = serde_json::from_slice(&nft(arguments, "")?)
        .map_err(|error| NftError::Refused(format!("its JSON is not understood: {error}")))?;
    Ok(nftables)
}

/// The JSON of libnftables.
#[derive(Deserialize)]
struct Listed {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    counter: Option<Named>,
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    table: String,
    name: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    counter: Counter,
}

fn nft(arguments: &[&str], script: &str) -> Result<Vec<u8>, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(NftError::Missing)?;
    }
    let output = child.wait_with_output().map_err(NftError::Missing)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(raw_ports: RangeInclusive<u16>) -> Table {
        Table {
            name: "edge_t".into(),
            veth_prefix: "ed12-".into(),
            pool: "100.64.0.0/10".parse().unwrap(),
            raw_ports,
            underlays: Vec::new(),
            ways: "ew12-g".into(),
        }
    }

    #[test]
    fn only_a_machine_with_others_keeps_its_own_programs_from_speaking_for_it() {
        let alone = table(20000..=29999);
        assert!(!alone.script().contains("6081"));
        let script = Table { underlays: vec!["eth1".into(), "eth2".into()], ..alone }.script();
        assert!(script.contains("oifname { \"eth1\", \"eth2\" } udp dport 6081 drop"), "{script}");
        assert!(script.contains("iifname \"ed12-*\" udp dport 6081 drop"), "{script}");
    }

    #[test]
    fn counters_are_read_from_among_other_things() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"counter": {"family":
            "inet", "name": "sent-192.0.2.1", "table": "t", "handle": 2, "packets": 6, "bytes": 504}}]}"#;
        let Listed { nftables } = serde_json::from_str(text).unwrap();
        let read: Vec<_> = nftables.into_iter().filter_map(|one| one.counter).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].name.as_str(), read[0].counter.packets), ("sent-192.0.2.1", 6));
    }

    #[test]
    fn source_nat_keeps_off_the_raw_ports() {
        assert_eq!(nat_ports(&(20000..=29999)), 30000..=65535);
        assert_eq!(nat_ports(&(40000..=65535)), 1024..=39999);
    }
}
