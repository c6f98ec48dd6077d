//! What people type and should not have: each mistake is named, has its exit code, and leaves
//! nothing half-made. And what programs read: the names of JSON fields stay.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use serde_json::Value;
use tests::{
    edge::{self, Edge},
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    netns::NetNs,
    process::{Output, Start as _, wait_for},
    tenant::Tenant,
};

/// Exit codes, as the README promises them.
const USAGE: i32 = 64;
const REFUSED: i32 = 69;
const FAILURE: i32 = 70;
const TIMED_OUT: i32 = 124;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

#[track_caller]
fn ends(output: &Output, code: i32, says: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output}");
    for part in says {
        assert!(output.stderr.contains(part), "{part:?} is not said: {output}");
    }
    assert!(output.stdout.is_empty(), "errors go to stderr: {output}");
    if code != USAGE {
        assert!(output.stderr.starts_with("edge: "), "{output}");
        assert!(output.stderr.contains("; "), "there is no remedy: {output}");
    }
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    let netns = NetNs::new("usage");
    let long = "x".repeat(33);
    for (words, says) in [
        (&["fly"][..], "fly"),
        (&[], "Usage"),
        (&["tunnels", "extra"], "extra"),
        (&["--instance", "A/b", "tunnels"], "a name has 1 to 32 characters"),
        (&["run", "sh"], "sh"),
        (&["run", "--name", "Web", "--", "true"], "a name has 1 to 32 characters"),
        (&["run", "--name", &long, "--", "true"], "a name has 1 to 32 characters"),
        (&["run", "--workspace", "x-", "--", "true"], "--workspace"),
        (&["run", "--encrypted-port", "0", "--", "true"], "--encrypted-port"),
        (&["run", "--unencrypted-port", "65536", "--", "true"], "--unencrypted-port"),
        (&["run", "--h2-port", "http", "--", "true"], "--h2-port"),
        (&["run", "--timeout", "soon", "--", "true"], "--timeout"),
        (&["attach"], "--netns"),
        (&["attach", "--netns", "/x", "--name", ""], "--name"),
        (&["forward"], "<PORT>"),
        (&["forward", "0"], "0"),
        (&["forward", "--h2", "--unencrypted", "80"], "--unencrypted"),
    ] {
        ends(&netns.command(edge::program()).args(words).output_of(), USAGE, &[says]);
    }
}

#[test]
fn without_a_daemon_commands_say_how_to_start_one() {
    let lab = Lab::stopped(&[]);
    let here = lab.machine.path();
    let attach = ["attach", "--netns", here.to_str().unwrap()];
    let commands: [&[&str]; 5] = [&["tunnels"], &["containers"], &["ca"], &["run"], &attach];
    let instance = lab.edge.instance().to_owned();
    let start = format!("start it with `edge --instance {instance} up`");
    let mut lab = lab;
    // Where there never was one, and where one was killed.
    for _ in 0..2 {
        for words in commands {
            ends(&lab.edge.cli(words), FAILURE, &["edge: daemon: none answers at", &start]);
        }
        lab.edge.start();
        lab.edge.kill9();
    }
}

#[test]
fn what_the_daemon_refuses_is_named_and_leaves_nothing() {
    let lab = Lab::new(&[]);
    let options = ["--workspace", "shop", "--unencrypted-port", "8000"];
    let tenant = Tenant::new(&lab.edge, "web", &options);
    let spare = NetNs::new("spare");
    let spare = spare.path().display().to_string();
    let taken = tenant.netns.path().display().to_string();
    let own = lab.machine.path().display().to_string();
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    let many: Vec<String> = (1..=65).map(|port| format!("--encrypted-port={port}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let shop = ["--workspace", "shop", "--name", "web"];
    let attach = |netns: &'_ str, options: &[&str]| {
        lab.edge.cli(&[&["attach", "--netns", netns], options].concat())
    };
    let run = |options: &[&str]| lab.edge.cli(&[&["run"], options, &["--", "true"]].concat());

    let name_taken = ["\"web\"", "workspace \"shop\"", "choose another name"];
    ends(&attach(&spare, &shop), REFUSED, &name_taken);
    ends(&run(&shop), REFUSED, &name_taken);
    ends(&attach(&taken, &[]), REFUSED, &["container \"web\" already", "end that one first"]);
    ends(&attach(&own, &[]), REFUSED, &["the daemon's own", "ip netns add"]);
    ends(&attach("/etc/hostname", &[]), REFUSED, &["/etc/hostname", "not a network namespace"]);
    ends(&attach("/proc/self/ns/mnt", &[]), REFUSED, &["/ns/mnt", "network namespace"]);
    ends(&attach("/run/netns/none", &[]), FAILURE, &["/run/netns/none", "No such file"]);
    for twice in [
        ["--encrypted-port", "80", "--unencrypted-port", "80"],
        ["--h2-port", "80", "--h2-port", "80"],
    ] {
        ends(&attach(&spare, &twice), REFUSED, &["port 80", "given twice"]);
        ends(&run(&twice), REFUSED, &["port 80", "given twice"]);
    }
    ends(&attach(&spare, &many), REFUSED, &["tunnel", "64"]);
    ends(&run(&many), REFUSED, &["tunnel", "64"]);

    // A refused container is undone in the moment after the refusal.
    let names = || lab.edge.containers().into_iter().map(|one| one.name).collect::<Vec<_>>();
    wait_for("only the first container to be there", PATIENCE, || {
        (names() == ["web"]).then_some(())
    });
    assert_eq!(lab.edge.tunnels().len(), 1);
    before.assert_unchanged();
    // The same name in another workspace is another container.
    lab.edge.cli(&["run", "--workspace", "other", "--name", "web", "--", "true"]).ok();
}

#[test]
fn forward_outside_a_container_says_where_it_works() {
    let lab = Lab::new(&[]);
    let forward =
        |from: &NetNs| from.command(edge::program()).args(["forward", "8000"]).output_of();
    let elsewhere = NetNs::new("elsewhere");
    let says = ["edge run", "inside a container"];
    for from in [&elsewhere, &lab.machine] {
        let output = forward(from).refused();
        assert_eq!(output.status.code(), Some(FAILURE), "{output}");
        assert!(output.stderr.starts_with("edge: "), "{output}");
        assert!(says.iter().any(|says| output.stderr.contains(says)), "{output}");
    }
    assert!(lab.edge.tunnels().is_empty());
}

#[test]
fn the_exit_code_of_run_is_its_programs() {
    let lab = Lab::new(&[]);
    let script = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(script.path(), "not a program").expect("written");
    let path = script.path().to_str().expect("a path");
    let run = |program: &[&str]| lab.edge.cli(&[&["run", "--"], program].concat());
    ends(&run(&["/nonexistent/program"]), NOT_FOUND, &["/nonexistent/program"]);
    ends(&run(&["no-such-program-anywhere"]), NOT_FOUND, &["no-such-program-anywhere"]);
    ends(&run(&[path]), NOT_EXECUTABLE, &[path]);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("executable");
    ends(&run(&[path]), NOT_EXECUTABLE, &[path, "format"]);
    for code in [0, 1, 64, 69, 255] {
        let output = run(&["sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code), "{output}");
        assert!(output.stderr.is_empty(), "{output}");
    }
    let killed = run(&["sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.status.code(), Some(128 + 9), "{killed}");
    let late = lab.edge.cli(&["run", "--timeout", "1s", "--", "sleep", "1000"]);
    ends(&late, TIMED_OUT, &["sleep", "1s", "--timeout"]);
    wait_for("all of them to be gone", PATIENCE, || lab.edge.containers().is_empty().then_some(()));
}

#[test]
fn json_has_exactly_the_names_that_programs_rely_on() {
    let lab = Lab::new(&[]);
    let options = ["--encrypted-port", "80", "--unencrypted-port", "81"];
    let _tenant = Tenant::new(&lab.edge, "web", &options);
    let container = [
        "id",
        "name",
        "workspace",
        "host",
        "pid",
        "netns",
        "ipv4",
        "i6pn",
        "proxy",
        "proxy_ip",
        "proxy_problem",
        "egress",
        "private",
        "cluster",
    ];
    let tunnel = [
        "id",
        "workspace",
        "container",
        "port",
        "url",
        "tls",
        "tcp",
        "h2",
        "path",
        "connections",
        "bytes_in",
        "bytes_out",
        "last_error",
        "proxy_protocol",
        "allow",
        "bounds",
    ];
    assert_eq!(fields(&lab.edge, "containers"), (1, container.map(str::to_owned).into()));
    assert_eq!(fields(&lab.edge, "tunnels"), (2, tunnel.map(str::to_owned).into()));
    let check = ["name", "state", "found", "meaning", "remedy"];
    let (findings, names) = fields(&lab.edge, "check");
    assert!(findings > 0);
    assert_eq!(names, check.map(str::to_owned).into());
}

#[test]
fn empty_lists_are_lists_for_programs_and_sentences_for_people() {
    let lab = Lab::new(&[]);
    for (what, sentence) in [("containers", "no containers;"), ("tunnels", "no tunnels;")] {
        assert_eq!(lab.edge.cli(&[what, "--json"]).ok().stdout_str(), "[]");
        assert!(lab.edge.cli(&[what]).ok().stdout.starts_with(sentence));
    }
}

/// How many objects a listing has, and the names of their fields, the same in each.
#[track_caller]
fn fields(edge: &Edge, what: &str) -> (usize, BTreeSet<String>) {
    let output = edge.cli(&[what, "--json"]);
    let list: Vec<serde_json::Map<String, Value>> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"));
    let names = |one: &serde_json::Map<String, Value>| one.keys().cloned().collect();
    let sets: BTreeSet<BTreeSet<String>> = list.iter().map(names).collect();
    assert_eq!(sets.len(), 1, "not the same names in all: {sets:#?}");
    (list.len(), sets.into_iter().next().expect("one"))
}
