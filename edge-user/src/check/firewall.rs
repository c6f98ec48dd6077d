//! Other tables' chains that refuse what edge lets through, as Docker's FORWARD does.
//!
//! `nft -j` also shows what iptables wrote, but for the old kernel interface (`iptables-legacy`).

use std::{fs, process::Command, slice};

use serde_json::Value;

use super::{Finding, Subject};
use crate::host::{
    links::{LinkError, Links},
    sysctl,
};

/// A base chain that refuses what none of its rules accept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Closed {
    family: String,
    table: String,
    chain: String,
    hook: Hook,
    /// Docker's chain for rules of the operator's own is in the same table.
    has_docker_user: bool,
    /// Those of edge's interfaces for which it makes no exception.
    to: Vec<Own>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Forward,
    Input,
}

/// Interfaces of edge's own between which and the others packets are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Own {
    /// Containers' host-side veths, whose names begin so.
    Veths(String),
    /// WireGuard between hosts and gateways.
    WireGuard(String),
}

impl Own {
    /// Containers may come at any time; WireGuard is there where a region has proxies.
    async fn of(links: &Links, subject: &Subject) -> Result<Vec<Self>, LinkError> {
        let Subject { veth_prefix, wireguard_prefix, .. } = subject;
        let mut own = vec![Self::Veths(veth_prefix.clone())];
        if links.list().await?.iter().any(|link| link.name.starts_with(wireguard_prefix)) {
            own.push(Self::WireGuard(wireguard_prefix.clone()));
        }
        Ok(own)
    }

    fn prefix(&self) -> &str {
        let (Self::Veths(prefix) | Self::WireGuard(prefix)) = self;
        prefix
    }
}

/// Looks at every table but edge's own.
pub(super) async fn look(links: &Links, subject: &Subject) -> Result<Vec<Finding>, LinkError> {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let ruleset = match output {
        Ok(output) if output.status.success() => {
            serde_json::from_slice::<Value>(&output.stdout).ok()
        }
        _ => None,
    };
    let Some(ruleset) = ruleset else {
        return Ok(vec![Finding::slower(
            "forward-filter",
            "nft does not list the rules",
            "nobody knows whether another firewall refuses containers' packets",
            "run `edge check` as root, with the nftables package installed",
        )]);
    };
    let own = Own::of(links, subject).await?;
    let mut closed = closed(&ruleset, &own);
    closed.extend(["ip", "ip6"].into_iter().filter_map(|family| legacy_closed(family, &own)));
    if !sysctl::read("net/ipv6/conf/all/forwarding").is_ok_and(|forwards| forwards == "1") {
        // Edge sets it where a proxy has IPv6 beside an address; until then there is none to refuse.
        closed.retain(|one| one.family != "ip6");
    }
    let mut findings: Vec<_> = closed.iter().map(judge).collect();
    for (name, hook, meaning) in [
        ("forward-filter", Hook::Forward, "no other firewall refuses containers' way out"),
        ("input-filter", Hook::Input, "no other firewall refuses clients by default"),
    ] {
        if !closed.iter().any(|one| one.hook == hook) {
            findings.push(Finding::ok(name, "nothing is refused by default", meaning));
        }
    }
    Ok(findings)
}

fn judge(closed: &Closed) -> Finding {
    let Closed { family, table, chain, to, .. } = closed;
    let found = format!("table {family} {table}, chain {chain} drops by default");
    if closed.hook == Hook::Input {
        return Finding::slower(
            "input-filter",
            found,
            "clients reach only what its rules let in: edge's TLS and HTTP ports, and raw ports \
             of IPv6 clients, must be among it; raw ports that the kernel steers pass before it",
            "accept those ports there, as `ufw allow 443/tcp` or firewall-cmd do",
        );
    }
    let name = "forward-filter";
    let remedy: Vec<_> = to.iter().map(|own| closed.remedy(own.prefix())).collect();
    let remedy = remedy.join("; ");
    if family == "ip6" {
        let meaning = "IPv6 under the addresses beside those of proxies is closed; tunnels and \
                       packets between containers pass before it";
        Finding::slower(name, found, meaning, remedy)
    } else if to.iter().any(|own| matches!(own, Own::Veths(_))) {
        let meaning = "containers' way out to the internet is closed; tunnels and packets between \
                       containers pass before it";
        Finding::broken(name, found, meaning, remedy)
    } else {
        let meaning = "what goes by proxies between a host and a gateway is closed";
        Finding::slower(name, found, meaning, remedy)
    }
}

impl Closed {
    /// What lets the packets of interfaces pass, whose names begin so.
    fn remedy(&self, prefix: &str) -> String {
        let Self { family, table, chain, has_docker_user, .. } = self;
        let by_iptables = |command: &str, chain: &str| {
            format!(
                "{command} -I {chain} -i {prefix}+ -j ACCEPT; {command} -I {chain} -o {prefix}+ \
                 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            )
        };
        if *has_docker_user {
            by_iptables(iptables(family), "DOCKER-USER")
        } else if chain.ends_with(LEGACY) {
            by_iptables(&format!("{}-legacy", iptables(family)), "FORWARD")
        } else {
            format!(
                "nft 'insert rule {family} {table} {chain} iifname \"{prefix}*\" accept; insert \
                 rule {family} {table} {chain} oifname \"{prefix}*\" ct state \
                 established,related accept'"
            )
        }
    }
}

/// The base chains of input, and of forward, that drop by default and make no exception for edge's
/// own interfaces. Of IPv6 only what is forwarded: input mostly has the same rules for both.
fn closed(ruleset: &Value, own: &[Own]) -> Vec<Closed> {
    let entries = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| entries.iter().filter_map(move |entry| entry.get(kind));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for chain in of_kind("chain") {
        let (family, table) = (text(chain, "family"), text(chain, "table"));
        let hook = match (chain["hook"].as_str(), family.as_str()) {
            (Some("forward"), "ip" | "ip6" | "inet") => Hook::Forward,
            (Some("input"), "ip" | "inet") => Hook::Input,
            _ => continue,
        };
        if table.starts_with("edge_") {
            continue;
        }
        let is_here = |part: &&Value| part["family"] == *family && part["table"] == *table;
        let rules: Vec<_> = of_kind("rule").filter(is_here).collect();
        let name = text(chain, "name");
        let last = rules.iter().rfind(|rule| rule["chain"] == *name);
        if chain["policy"] != "drop" && !last.is_some_and(|rule| refuses_all(rule)) {
            continue;
        }
        let to = without_exception(own, ["iifname", "oifname"], |key, prefix| {
            rules.iter().any(|rule| accepts(rule, key, prefix))
        });
        if hook == Hook::Forward && to.is_empty() {
            continue;
        }
        let has_docker_user =
            of_kind("chain").filter(is_here).any(|chain| chain["name"] == "DOCKER-USER");
        found.push(Closed { family, table, chain: name, hook, has_docker_user, to });
    }
    found
}

/// Those of edge's interfaces that are not accepted as what packets come in by and as what they
/// leave by, in the firewall's words.
fn without_exception(
    own: &[Own],
    words: [&str; 2],
    accepts: impl Fn(&str, &str) -> bool,
) -> Vec<Own> {
    let passes = |own: &Own| words.iter().all(|word| accepts(word, own.prefix()));
    own.iter().filter(|own| !passes(own)).cloned().collect()
}

/// Whether a rule ends a chain for every packet that comes so far.
fn refuses_all(rule: &Value) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has =
        |statement: &Value, names: &[&str]| names.iter().any(|name| statement.get(name).is_some());
    statements.iter().any(|statement| has(statement, &["drop", "reject"]))
        && statements.iter().all(|one| has(one, &["drop", "reject", "counter", "log"]))
}

/// Whether a rule accepts packets by interfaces whose names begin so.
fn accepts(rule: &Value, key: &str, prefix: &str) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names_them = |statement: &Value| {
        let matched = &statement["match"];
        let right = &matched["right"];
        let mut names =
            right["set"].as_array().map_or(slice::from_ref(right), Vec::as_slice).iter();
        matched["op"] == "=="
            && matched["left"]["meta"]["key"] == key
            && names.any(|name| is_of(prefix, name.as_str().unwrap_or_default(), '*'))
    };
    statements.iter().any(names_them) && statements.iter().any(|one| one.get("accept").is_some())
}

/// Whether a name that ends in a wildcard is of all whose names begin so.
fn is_of(prefix: &str, name: &str, wildcard: char) -> bool {
    name.strip_suffix(wildcard).is_some_and(|begins| prefix.starts_with(begins))
}

/// What the name of a chain of the old kernel interface ends with.
const LEGACY: &str = "(iptables-legacy)";

/// Rules of the old kernel interface, which nft does not show.
fn legacy_closed(family: &str, own: &[Own]) -> Option<Closed> {
    let tables = fs::read_to_string(format!("/proc/net/{family}_tables_names")).ok()?;
    tables.lines().find(|table| *table == "filter")?;
    let command = format!("{}-legacy", iptables(family));
    let output = Command::new(command).args(["-S", "FORWARD"]).output().ok()?;
    let to = refused_by(&String::from_utf8_lossy(&output.stdout), own);
    (!to.is_empty()).then(|| Closed {
        family: family.to_owned(),
        table: "filter".into(),
        chain: format!("FORWARD {LEGACY}"),
        hook: Hook::Forward,
        has_docker_user: false,
        to,
    })
}

/// The program for a family's tables.
fn iptables(family: &str) -> &'static str {
    if family == "ip6" { "ip6tables" } else { "iptables" }
}

/// For whose interfaces `iptables -S FORWARD` tells of no exception.
fn refused_by(rules: &str, own: &[Own]) -> Vec<Own> {
    if !rules.lines().any(|line| line == "-P FORWARD DROP") {
        return Vec::new();
    }
    without_exception(own, ["-i", "-o"], |option, prefix| {
        rules.lines().filter(|line| line.ends_with("-j ACCEPT")).any(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != option);
            words.nth(1).is_some_and(|name| is_of(prefix, name, '+'))
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::State, *};

    fn chain(table: &str, name: &str, hook: &str, policy: &str) -> Value {
        json!({ "chain": { "family": "ip", "table": table, "name": name, "type": "filter",
                           "hook": hook, "prio": 0, "policy": policy } })
    }

    fn rule(table: &str, chain: &str, expr: &Value) -> Value {
        json!({ "rule": { "family": "ip", "table": table, "chain": chain, "expr": expr } })
    }

    fn find(entries: &[Value]) -> Vec<Closed> {
        let own = [Own::Veths("ed12ab-".into()), Own::WireGuard("ew12ab-".into())];
        closed(&json!({ "nftables": entries }), &own)
    }

    fn by(key: &str, name: &str) -> Value {
        json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": name } })
    }

    #[test]
    fn a_chain_that_drops_by_policy_or_by_its_last_rule_is_found() {
        let docker = [
            chain("filter", "FORWARD", "forward", "drop"),
            json!({ "chain": { "family": "ip", "table": "filter", "name": "DOCKER-USER" } }),
        ];
        let found = find(&docker);
        assert_eq!(found.len(), 1);
        let finding = judge(&found[0]);
        assert_eq!(finding.found, "table ip filter, chain FORWARD drops by default");
        assert!(finding.remedy.unwrap().contains("-I DOCKER-USER -i ed12ab-+ -j ACCEPT"));

        let open = chain("fw", "f", "forward", "accept");
        let last = rule("fw", "f", &json!([{ "counter": {} }, { "reject": {} }]));
        let found = find(&[open.clone(), last.clone()]);
        let remedy = judge(&found[0]).remedy.unwrap();
        assert!(remedy.starts_with("nft 'insert rule ip fw f iifname \"ed12ab-*\""), "{remedy}");

        let some = rule("fw", "f", &json!([by("iifname", "eth0"), { "drop": null }]));
        assert_eq!(find(&[open.clone(), some]), []);
        assert_eq!(find(&[open.clone(), last, rule("fw", "f", &json!([{ "accept": null }]))]), []);
        assert_eq!(find(&[chain("edge_demo", "forward", "forward", "drop")]), []);
        assert_eq!(find(&[chain("t", "output", "output", "drop")]), []);
    }

    #[test]
    fn the_remedy_mends_it() {
        let closed = chain("filter", "FORWARD", "forward", "drop");
        let accept = |key, name| rule("filter", "X", &json!([by(key, name), { "accept": null }]));
        let veths = [accept("iifname", "ed12ab-*"), accept("oifname", "ed*")];
        let wireguard = [accept("iifname", "ew12ab-*"), accept("oifname", "ew12ab-*")];
        let with = |rules: &[&[Value]]| find(&[slice::from_ref(&closed), &rules.concat()].concat());
        assert_eq!(with(&[&veths[..1]])[0].to.len(), 2, "answers do not come back");
        assert_eq!(with(&[&veths[..1], &[accept("oifname", "docker*")]])[0].to.len(), 2);
        let rest = with(&[&veths]);
        assert_eq!(rest[0].to, [Own::WireGuard("ew12ab-".into())]);
        let finding = judge(&rest[0]);
        assert_eq!(finding.state, State::Slower);
        assert!(!finding.remedy.unwrap().contains("ed12ab-"), "that is open");
        assert_eq!(with(&[&veths, &wireguard]), []);
        let sets = ["iifname", "oifname"].map(|key| {
            let mut names = by(key, "");
            names["match"]["right"] = json!({ "set": ["ed12ab-*", "ew12ab-*"] });
            rule("filter", "X", &json!([names, { "accept": null }]))
        });
        assert_eq!(with(&[&sets]), []);
    }

    #[test]
    fn the_old_interfaces_remedy_mends_it() {
        let own = [Own::Veths("ed12ab-".into()), Own::WireGuard("ew12ab-".into())];
        let policy = "-P FORWARD DROP\n";
        assert_eq!(refused_by("-P FORWARD ACCEPT\n", &own), []);
        let mended = "-A FORWARD -o ed12ab-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                      -A FORWARD -i ed12ab-+ -j ACCEPT\n";
        assert_eq!(refused_by(policy, &own), own);
        assert_eq!(refused_by(&format!("{policy}{mended}"), &own), own[1..]);
    }

    #[test]
    fn what_drops_ipv6_alone_is_a_hint() {
        let of_v6 = |mut chain: Value| {
            chain["chain"]["family"] = json!("ip6");
            chain
        };
        let found = find(&[
            of_v6(chain("filter", "FORWARD", "forward", "drop")),
            of_v6(chain("filter", "INPUT", "input", "drop")),
            json!({ "chain": { "family": "ip6", "table": "filter", "name": "DOCKER-USER" } }),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        let finding = judge(&found[0]);
        assert_eq!(finding.state, State::Slower);
        let remedy = finding.remedy.unwrap();
        for prefix in ["ed12ab-", "ew12ab-"] {
            let accept = format!("ip6tables -I DOCKER-USER -i {prefix}+ -j ACCEPT");
            assert!(remedy.contains(&accept), "{remedy}");
        }
    }

    #[test]
    fn an_input_chain_is_a_hint() {
        let found = find(&[chain("filter", "INPUT", "input", "drop")]);
        let finding = judge(&found[0]);
        assert_eq!((finding.name.as_str(), finding.state), ("input-filter", State::Slower));
    }
}
