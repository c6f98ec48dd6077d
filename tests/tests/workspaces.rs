//! What a daemon counts for each workspace: whose packets, by which path, and for how long.

use tests::{
    i6pn,
    lab::{Lab, PATIENCE},
    metrics::Metrics,
    process::{Start as _, wait_for},
    region::{Plan, Underlay},
    tenant::Tenant,
    traffic::{Mirror, Transfers},
};

/// Packets of a workspace, as far as its series have all of these labels.
fn packets(metrics: &Metrics, workspace: &str, labels: &[&str]) -> f64 {
    sum(metrics, "packets", workspace, labels)
}

fn sum(metrics: &Metrics, what: &str, workspace: &str, labels: &[&str]) -> f64 {
    let workspace = format!("workspace=\"{workspace}\"");
    let labels = [&[&*workspace], labels].concat();
    metrics.sum(&format!("edge_workspace_{what}_total"), &labels)
}

#[test]
fn each_workspace_has_its_own_counters_and_they_outlive_the_daemon() {
    let mut lab = Lab::new(&["--lease", "10m"]);
    let tenant = |name: &str, workspace: &str| {
        let options = ["--i6pn", "--unencrypted-port", "8000", "--workspace", workspace];
        Tenant::new(&lab.edge, name, &options)
    };
    let (a, b, other) = (tenant("a", "one"), tenant("b", "one"), tenant("c", "two"));
    i6pn::ping(&a, &b);
    assert_eq!(i6pn::refusal(&a, other.i6pn()), Some(libc::EACCES));
    let mut out = other.netns.command("ping");
    out.args(["-c", "1", "-W", "5", Lab::CLIENT]).output_of().ok();
    let _mirror = Mirror::serve(&other.netns, 8000);
    let tunnels = lab.edge.tunnels();
    let tunnel = tunnels.iter().find(|tunnel| tunnel.workspace == "two").expect("its tunnel");
    let public = format!("{}:{}", Lab::PUBLIC, tunnel.raw_port()).parse().expect("an address");
    let transfers = Transfers::start(&lab.internet, public, 1);
    transfers.wait_for_more();
    transfers.finish();

    let before = lab.edge.metrics();
    for (workspace, verdict, is_counted) in [
        ("one", "i6pn", true),
        ("two", "i6pn", false),
        ("one", "other_workspace", true),
        ("two", "other_workspace", false),
        ("one", "egress", false),
        ("two", "egress", true),
        ("one", "tunnel", false),
        ("two", "tunnel", true),
        ("one", "reply", false),
        ("two", "reply", true),
    ] {
        let verdict = format!("verdict=\"{verdict}\"");
        let counted = packets(&before, workspace, &[&verdict]);
        assert_eq!(counted > 0.0, is_counted, "{workspace}, {verdict}: {counted}");
        assert_eq!(packets(&before, workspace, &[&verdict, "path=\"local\""]), counted);
    }
    // A workspace's packets are among all; and so are those that are nobody's.
    for verdict in ["i6pn", "tunnel", "reply"] {
        let label = format!("verdict=\"{verdict}\"");
        for what in ["packets", "bytes"] {
            let all = before.sum(&format!("edge_verdict_{what}_total"), &[&label]);
            let theirs = ["one", "two"].map(|one| sum(&before, what, one, &[&label]));
            assert_eq!(theirs.iter().sum::<f64>(), all, "{what}, {verdict}");
        }
    }

    for _ in 0..2 {
        lab.edge.kill9();
        lab.edge.start();
        let after = lab.edge.metrics();
        for workspace in ["one", "two"] {
            let verdicts = ["i6pn", "other_workspace", "tunnel", "reply", "egress"];
            for label in verdicts.map(|verdict| format!("verdict=\"{verdict}\"")) {
                let [was, is] =
                    [&before, &after].map(|metrics| packets(metrics, workspace, &[&label]));
                assert!(is >= was, "{workspace}, {label}: {was}, then {is}");
            }
        }
        assert_eq!(packets(&after, "two", &["verdict=\"i6pn\""]), 0.0);
    }
    // Who comes now does not take up what others had counted.
    let new = Tenant::new(&lab.edge, "d", &["--i6pn", "--workspace", "three"]);
    i6pn::refusal(&new, a.i6pn());
    let after = lab.edge.metrics();
    assert_eq!(packets(&after, "three", &["verdict=\"i6pn\""]), 0.0);
    assert!(packets(&after, "three", &["verdict=\"other_workspace\""]) > 0.0);
}

#[test]
fn packets_between_machines_count_by_their_path_at_both_ends() {
    for (underlay, path) in [(Underlay::Direct, "direct"), (Underlay::V4, "encapsulated")] {
        let region = Plan::over(underlay).hosts(2).up();
        let [first, second] = [&region.hosts[0], &region.hosts[1]];
        let (a, b) = (first.private("a"), second.private("b"));
        i6pn::ping(&a, &b);
        let path = format!("path=\"{path}\"");
        for (machine, hook) in [(first, "tc_container"), (second, "tc_uplink")] {
            let labels = [&*path, &format!("hook=\"{hook}\""), "verdict=\"i6pn\""];
            wait_for(&format!("{labels:?}"), PATIENCE, || {
                (packets(&machine.edge.metrics(), "main", &labels) > 0.0).then_some(())
            });
            let local = packets(&machine.edge.metrics(), "main", &["path=\"local\"", labels[2]]);
            assert_eq!(local, 0.0, "{underlay:?}: {path}");
        }
    }
}
