//! The listings, for people and for programs.

use crate::daemon::{Daemon, Ran};

#[test]
fn json_has_the_promised_fields() {
    let daemon = Daemon::start();
    let json = |command| {
        let ran = Ran::from(daemon.edge(&[command, "--json"]).output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    let tunnels = serde_json::json!([{
        "id": "tu-1", "workspace": "main", "container": "box", "port": 8000,
        "url": "https://abc.r1.localhost", "tls": "abc.r1.localhost:443",
        "tcp": "localhost:20000", "h2": false, "path": "tcx", "connections": 0, "bytes_in": 0,
        "bytes_out": 0, "last_error": null, "proxy_protocol": false, "allow": [],
        "bounds": {
            "connections": null, "source_connections": null, "tunnel_rate": null,
            "source_rate": null, "source_rate_raw": null, "idle_milliseconds": null,
        },
    }]);
    assert_eq!(json("tunnels"), tunnels);
    let containers = serde_json::json!([{
        "id": "co-1", "name": "box", "workspace": "main", "host": "here", "pid": null,
        "netns": "/run/netns/box", "ipv4": "100.64.0.2", "i6pn": "fdaa::2", "proxy": null,
        "proxy_ip": null, "proxy_problem": null,
        "egress": "nat", "private": true, "cluster": null,
    }]);
    assert_eq!(json("containers"), containers);
}

#[test]
fn hosts_are_listed_and_forgotten_and_tokens_made() {
    let daemon = Daemon::start();
    let ran = |arguments: &[&str]| Ran::from(daemon.edge(arguments).output().unwrap());
    let listed: serde_json::Value = serde_json::from_str(&ran(&["hosts", "--json"]).out).unwrap();
    let expected = serde_json::json!([{
        "id": 1, "role": "gateway", "alive": true, "version": "", "underlay": [], "hook": "",
        "mtu": 0, "lag_ms": null, "blocks": [], "containers": 0, "runs_members": 0,
    }]);
    assert_eq!(listed, expected);
    assert!(ran(&["hosts"]).out.starts_with("ID"));
    assert_eq!(ran(&["hosts", "forget", "7"]).code, Some(0));
    let refused = ran(&["hosts", "forget", "8"]);
    assert_eq!(
        (refused.code, refused.err.as_str()),
        (Some(69), "edge: host 8: there is none; list them\n")
    );
    assert_eq!(ran(&["token", "create"]).out, "edge-join-3600000-1");
    let json = ran(&["token", "create", "--ttl", "5m", "--uses", "3", "--json"]).out;
    let token: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(token, serde_json::json!({ "token": "edge-join-300000-3" }));
}

#[test]
fn a_check_says_what_the_daemon_is() {
    let daemon = Daemon::start();
    // Its exit code is the machine's affair.
    let ran = Ran::from(daemon.edge(&["check", "--json"]).output().unwrap());
    let findings: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["name"] == "daemon");
    let found = found.and_then(|finding| finding["found"].as_str()).unwrap();
    assert!(found.contains("https://*.r1.localhost:"), "{ran:?}");
}

#[test]
fn tables_have_headings() {
    let daemon = Daemon::start();
    let table = |command| Ran::from(daemon.edge(&[command]).output().unwrap()).out;
    let tunnels = table("tunnels");
    let mut lines = tunnels.lines();
    assert!(
        lines.next().is_some_and(|line| line.starts_with("WORKSPACE  CONTAINER  PORT")),
        "{tunnels}"
    );
    assert!(
        lines.next().is_some_and(|line| line.starts_with("main       box        8000")),
        "{tunnels}"
    );
    assert!(table("containers").contains("100.64.0.2"));
    assert_eq!(table("ca"), "-----BEGIN CERTIFICATE-----");
}

#[test]
fn an_absent_daemon_is_named() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let ran = Ran::from(daemon.edge(&["tunnels"]).output().unwrap());
    assert_eq!(ran.code, Some(70), "{ran:?}");
    assert!(ran.err.contains("none answers at") && ran.err.contains("`edge up`"), "{ran:?}");
}
