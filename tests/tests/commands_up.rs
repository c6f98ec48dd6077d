//! `edge up` with options that do not fit the machine: it says which, why and what to do, and
//! leaves the machine as it found it.

use std::net::TcpListener;

use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    netns::NetNs,
    process::{Start as _, wait_for},
    wire::Wire,
};

/// Starts the daemon with further options; it must end by itself, with this code, and its last
/// words must hold all of this.
#[track_caller]
fn fails(edge: &Edge, options: &[&str], code: i32, says: &[&str]) {
    let mut command = edge.command();
    command.arg("up");
    if !options.contains(&"--state-dir") {
        command.arg("--state-dir").arg(edge.folder().join("state"));
    }
    let mut daemon = command.args(options).running();
    let status = daemon.wait(PATIENCE);
    let printed = daemon.printed();
    assert_eq!(status.code(), Some(code), "{options:?}: {printed}");
    let last = printed.lines().rfind(|line| line.starts_with("edge: "));
    let last = if code == 64 { printed.as_str() } else { last.unwrap_or_default() };
    for part in says {
        assert!(last.contains(part), "{options:?}: {part:?} is not said: {printed}");
    }
    assert!(!printed.contains("panicked"), "{printed}");
}

#[test]
fn options_that_make_no_sense_are_usage_errors() {
    let lab = Lab::stopped(&[]);
    for (options, says) in [
        (&["--cert", "a.pem"][..], "--key"),
        (&["--key", "a.pem"], "--cert"),
        (&["--raw-ports", "30000-20000"], "FIRST-LAST"),
        (&["--raw-ports", "80-90"], "1024 <= FIRST"),
        (&["--raw-ports", "20000"], "FIRST-LAST"),
        (&["--ipv4-pool", "10.0.0.1/16"], "write 10.0.0.0/16"),
        (&["--ipv4-pool", "10.0.0.0/30"], "8 to 26"),
        (&["--ipv4-pool", "fd00::/8"], "ADDRESS/LENGTH"),
        (&["--tls-port", "0"], "--tls-port"),
        (&["--http-port", "65536"], "--http-port"),
        (&["--uplink", "a/b"], "ip link"),
        (&["--public-address", "example.com"], "--public-address"),
        (&["--idle-half-closed", "soon"], "--idle-half-closed"),
        (&["--datapath", "fast"], "possible values"),
        (&["--admin", "localhost"], "--admin"),
        (&["--domain", ""], "--domain"),
        (&["--domain", "no spaces.example"], "--domain"),
        (&["--domain", "*.example.com"], "--domain"),
        (&["extra"], "extra"),
    ] {
        fails(&lab.edge, options, 64, &[says]);
    }
}

#[test]
fn a_machine_that_does_not_fit_is_left_as_it_was() {
    let lab = Lab::stopped(&[]);
    let far = NetNs::new("far");
    let _bare = Wire::new(&lab.machine, "bare0", &[], &far, "eth0", &[]);
    let _taken = lab.machine.enter(|| TcpListener::bind("127.0.0.1:7777").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, "this is no certificate\n").unwrap();
    let garbage = garbage.to_str().unwrap();
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    for (options, says) in [
        (&["--uplink", "none0"][..], &["uplink none0", "no such interface", "ip link"][..]),
        (&["--uplink", "bare0"], &["uplink bare0", "no address", "ip address add"]),
        (&["--uplink", "up0", "--uplink", "none0"], &["uplink none0"]),
        (
            &["--uplink", "up0", "--ipv4-pool", "192.0.0.0/16"],
            &["uplink up0", Lab::PUBLIC, "192.0.0.0/16", "--ipv4-pool"],
        ),
        (&["--tls-port", "7777"], &["TLS port 7777", "in use", "--tls-port"]),
        (&["--http-port", "7777"], &["HTTP port 7777", "in use", "--http-port"]),
        (&["--tls-port", "9000", "--http-port", "9000"], &["HTTP port 9000", "--http-port"]),
        (&["--admin", "127.0.0.1:7777"], &["metrics address 127.0.0.1:7777", "--admin"]),
        (&["--admin", "192.0.2.99:1"], &["metrics address 192.0.2.99:1", "--admin"]),
        (&["--cert", "/none/a.pem", "--key", "/none/b.pem"], &["/none/", "No such file"]),
        (&["--cert", garbage, "--key", garbage], &["garbage.pem"]),
        (&["--group", "no-such-group"], &["no-such-group", "groupadd"]),
        (&["--state-dir", "/proc/nothing"], &["/proc/nothing", "state directory"]),
    ] {
        fails(&lab.edge, options, 70, says);
        before.assert_unchanged();
    }
    lab.machine.ip(&["-4", "route", "del", "default"]);
    lab.machine.ip(&["-6", "route", "del", "default"]);
    fails(&lab.edge, &["--uplink", "auto"], 70, &["no default route", "--uplink eth0"]);
}

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    let lab = Lab::new(&[]);
    let other = Edge::stopped(&NetNs::new("other"), &[]);
    let state = lab.edge.folder().to_str().unwrap();
    fails(
        &other,
        &["--state-dir", state],
        70,
        &["region.redb", "another edge daemon", "--instance"],
    );
    wait_for("the first to answer", PATIENCE, || {
        lab.edge.cli(&["ca"]).status.success().then_some(())
    });
}
