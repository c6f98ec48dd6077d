//! Other tables' chains that refuse what edge lets through, as Docker's FORWARD does.
//!
//! `nft -j` also shows what iptables wrote, but for the old kernel interface (`iptables-legacy`).

use std::{fs, process::Command};

use serde_json::Value;

use super::Finding;

/// A base chain that refuses what none of its rules accept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Closed {
    family: String,
    table: String,
    chain: String,
    hook: Hook,
    /// Docker's chain for rules of the operator's own is in the same table.
    has_docker_user: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Forward,
    Input,
}

/// Looks at every table but edge's own.
pub(super) fn look(veth_prefix: &str) -> Vec<Finding> {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let ruleset = match output {
        Ok(output) if output.status.success() => {
            serde_json::from_slice::<Value>(&output.stdout).ok()
        }
        _ => None,
    };
    let Some(ruleset) = ruleset else {
        return vec![Finding::slower(
            "forward-filter",
            "nft does not list the rules",
            "nobody knows whether another firewall refuses containers' packets",
            "run `edge check` as root, with the nftables package installed",
        )];
    };
    let mut closed = closed(&ruleset, veth_prefix);
    if legacy_forward_drops() {
        closed.push(Closed {
            family: "ip".into(),
            table: "filter".into(),
            chain: "FORWARD (iptables-legacy)".into(),
            hook: Hook::Forward,
            has_docker_user: false,
        });
    }
    let mut findings: Vec<_> = closed.iter().map(|one| judge(one, veth_prefix)).collect();
    for (name, hook, meaning) in [
        ("forward-filter", Hook::Forward, "no other firewall refuses containers' way out"),
        ("input-filter", Hook::Input, "no other firewall refuses clients by default"),
    ] {
        if !closed.iter().any(|one| one.hook == hook) {
            findings.push(Finding::ok(name, "nothing is refused by default", meaning));
        }
    }
    findings
}

fn judge(closed: &Closed, veth_prefix: &str) -> Finding {
    let Closed { family, table, chain, has_docker_user, .. } = closed;
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
    let remedy = if *has_docker_user || chain.ends_with("(iptables-legacy)") {
        let command = if *has_docker_user { "iptables" } else { "iptables-legacy" };
        let user = if *has_docker_user { "DOCKER-USER" } else { "FORWARD" };
        format!(
            "{command} -I {user} -i {veth_prefix}+ -j ACCEPT; {command} -I {user} \
             -o {veth_prefix}+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        )
    } else {
        format!(
            "nft 'insert rule {family} {table} {chain} iifname \"{veth_prefix}*\" accept; insert \
             rule {family} {table} {chain} oifname \"{veth_prefix}*\" ct state \
             established,related accept'"
        )
    };
    Finding::broken(
        "forward-filter",
        found,
        "containers' way out to the internet is closed; tunnels and packets between containers \
         pass before it",
        remedy,
    )
}

/// The base chains of input and forward that drop IPv4 by default and make no exception for
/// edge's veths.
fn closed(ruleset: &Value, veth_prefix: &str) -> Vec<Closed> {
    let entries = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &'static str| entries.iter().filter_map(move |entry| entry.get(kind));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for chain in of_kind("chain") {
        let (family, table) = (text(chain, "family"), text(chain, "table"));
        let hook = match chain["hook"].as_str() {
            Some("forward") => Hook::Forward,
            Some("input") => Hook::Input,
            _ => continue,
        };
        if !matches!(family.as_str(), "ip" | "inet") || table.starts_with("edge_") {
            continue;
        }
        let is_here = |part: &&Value| part["family"] == *family && part["table"] == *table;
        let rules: Vec<_> = of_kind("rule").filter(is_here).collect();
        let name = text(chain, "name");
        let last = rules.iter().rfind(|rule| rule["chain"] == *name);
        if chain["policy"] != "drop" && !last.is_some_and(|rule| refuses_all(rule)) {
            continue;
        }
        let accepts = |key| rules.iter().any(|rule| accepts(rule, key, veth_prefix));
        if hook == Hook::Forward && accepts("iifname") && accepts("oifname") {
            continue;
        }
        let has_docker_user =
            of_kind("chain").filter(is_here).any(|chain| chain["name"] == "DOCKER-USER");
        found.push(Closed { family, table, chain: name, hook, has_docker_user });
    }
    found
}

/// Whether a rule ends a chain for every packet that comes so far.
fn refuses_all(rule: &Value) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has =
        |statement: &Value, names: &[&str]| names.iter().any(|name| statement.get(name).is_some());
    statements.iter().any(|statement| has(statement, &["drop", "reject"]))
        && statements.iter().all(|one| has(one, &["drop", "reject", "counter", "log"]))
}

/// Whether a rule accepts packets by edge's veths.
fn accepts(rule: &Value, key: &str, veth_prefix: &str) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names_veths = |statement: &Value| {
        let matched = &statement["match"];
        matched["op"] == "=="
            && matched["left"]["meta"]["key"] == key
            && matched["right"]
                .as_str()
                .and_then(|right| right.strip_suffix('*'))
                .is_some_and(|right| veth_prefix.starts_with(right))
    };
    statements.iter().any(names_veths) && statements.iter().any(|one| one.get("accept").is_some())
}

/// Rules of the old kernel interface, which nft does not show.
fn legacy_forward_drops() -> bool {
    let tables = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    if !tables.lines().any(|table| table == "filter") {
        return false;
    }
    let output = Command::new("iptables-legacy").args(["-S", "FORWARD"]).output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "-P FORWARD DROP")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(table: &str, name: &str, hook: &str, policy: &str) -> Value {
        json!({ "chain": { "family": "ip", "table": table, "name": name, "type": "filter",
                           "hook": hook, "prio": 0, "policy": policy } })
    }

    fn rule(table: &str, chain: &str, expr: &Value) -> Value {
        json!({ "rule": { "family": "ip", "table": table, "chain": chain, "expr": expr } })
    }

    fn find(entries: &[Value]) -> Vec<Closed> {
        closed(&json!({ "nftables": entries }), "ed12ab-")
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
        let finding = judge(&found[0], "ed12ab-");
        assert_eq!(finding.found, "table ip filter, chain FORWARD drops by default");
        assert!(finding.remedy.unwrap().contains("-I DOCKER-USER -i ed12ab-+ -j ACCEPT"));

        let open = chain("fw", "f", "forward", "accept");
        let last = rule("fw", "f", &json!([{ "counter": {} }, { "reject": {} }]));
        let found = find(&[open.clone(), last.clone()]);
        let remedy = judge(&found[0], "ed12ab-").remedy.unwrap();
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
        let out = accept("iifname", "ed12ab-*");
        let back = accept("oifname", "ed*");
        assert_eq!(find(&[closed.clone(), out.clone()]).len(), 1, "answers do not come back");
        assert_eq!(find(&[closed.clone(), out.clone(), back.clone()]), []);
        let other = accept("oifname", "docker*");
        assert_eq!(find(&[closed, out, other]).len(), 1);
    }

    #[test]
    fn an_input_chain_is_a_hint() {
        let found = find(&[chain("filter", "INPUT", "input", "drop")]);
        let finding = judge(&found[0], "ed12ab-");
        assert_eq!(
            (finding.name.as_str(), finding.state),
            ("input-filter", super::super::State::Slower)
        );
    }
}
