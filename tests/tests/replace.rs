//! `edge up --replace`: one daemon takes over from another, and nobody outside can tell.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
};

use nix::sys::signal::Signal;
use tests::{
    crowd::Crowd,
    download::Counting,
    echo::{self, Echo},
    edge,
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    netns::NetNs,
    process::{Running, Start as _, wait_for},
    tenant::Tenant,
};

/// Successors in a row.
const GENERATIONS: usize = 4;
/// Clients at a time.
const CLIENTS: usize = 8;

#[test]
fn no_client_is_refused_and_no_download_breaks() {
    let mut lab = Lab::new(&["--drain", "10m"]);
    let counting = Counting::serve(&lab, &[]);
    let before = lab.edge.tunnels();
    let crowd = Crowd::asks(&lab.tls(), counting.name(), CLIENTS);
    let mut draining: Vec<(Running, _)> = Vec::new();
    for _ in 0..GENERATIONS {
        let download = counting.download(&lab);
        download.wait_more();
        crowd.wait_served(50);
        draining.push((lab.edge.replace(&[]), download));
        crowd.wait_served(50);
        reclaimed(&counting.owner, draining.len());
    }
    let after = lab.edge.tunnels();
    assert_eq!((&after[0].id, &after[0].url), (&before[0].id, &before[0].url));
    for (predecessor, download) in &mut draining {
        download.wait_more();
        assert!(predecessor.ended().is_none(), "it drains");
    }
    counting.finish();
    for (mut predecessor, download) in draining {
        assert_eq!(download.end(), Ok(()));
        let status = predecessor.wait(PATIENCE);
        assert!(status.success(), "{status}\n{}", predecessor.printed());
    }
    let (served, failures) = crowd.stop();
    assert!(failures.is_empty(), "of {served} some were not served: {failures:#?}");
}

#[test]
fn raw_flows_and_their_owner_go_on() {
    let mut lab = Lab::new(&[]);
    let tenant = Tenant::new(&lab.edge, "web", &["--unencrypted-port", "9000"]);
    let _echo = Echo::serve(&tenant.netns, 9000);
    let tunnel = lab.edge.tunnels().remove(0);
    let to = SocketAddr::new(Lab::PUBLIC.parse().unwrap(), tunnel.raw_port());
    let by_kernel = echo::dial(&lab.internet, to).unwrap();
    let by_listener = echo::dial(&lab.machine, to).unwrap();
    for flow in [&by_kernel, &by_listener] {
        (&mut &*flow).write_all(b"before, ").unwrap();
    }
    let mut predecessor = lab.edge.replace(&[]);
    reclaimed(tenant.attach(), 1);
    echo::round_trip(&lab.internet, to, 100_000);
    echo::round_trip(&lab.machine, to, 100_000);
    for mut flow in [by_kernel, by_listener] {
        flow.write_all(b"after").unwrap();
        flow.shutdown(Shutdown::Write).unwrap();
        let mut back = String::new();
        flow.read_to_string(&mut back).unwrap();
        assert_eq!(back, "before, after");
    }
    assert!(predecessor.wait(PATIENCE).success(), "{}", predecessor.printed());
    let after = lab.edge.tunnels().remove(0);
    assert_eq!((after.id, after.tcp), (tunnel.id, tunnel.tcp));
    tenant.detach();
    wait_for("the container to end", PATIENCE, || lab.edge.containers().is_empty().then_some(()));
}

#[test]
fn a_forwarding_of_the_modal_package_outlives_its_daemon() {
    let mut lab = Lab::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let stop = folder.path().join("stop");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("modal/until.py");
    let python = edge::venv().join("bin/python");
    let words = [&python, Path::new("-u"), &script, &stop].map(|word| word.to_str().unwrap());
    let mut program = lab.edge.run(&[&["--"], &words[..]].concat());
    program.wait_line("open ", 2 * PATIENCE);
    let before = lab.edge.tunnels();
    let mut predecessor = lab.edge.replace(&[]);
    assert!(predecessor.wait(PATIENCE).success(), "{}", predecessor.printed());
    reclaimed(&program, 1);
    assert_eq!(lab.edge.tunnels()[0].url, before[0].url);
    std::fs::write(&stop, "").unwrap();
    program.wait_line("closed", PATIENCE);
    assert!(lab.edge.tunnels().is_empty(), "{:?}", lab.edge.tunnels());
    assert_eq!(lab.edge.containers().len(), 1);
}

#[test]
fn a_successor_that_fails_or_dies_leaves_the_daemon_as_it_was() {
    let mut lab = Lab::new(&[]);
    let counting = Counting::serve(&lab, &["--unencrypted-port", "9000"]);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    let download = counting.download(&lab);
    let crowd = Crowd::asks(&lab.tls(), counting.name(), 2);
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, "this is no certificate\n").unwrap();
    let garbage = garbage.to_str().unwrap();
    // Nobody ever writes into it: who opens it waits.
    let endless = folder.path().join("endless.pem");
    let endless = endless.to_str().unwrap();
    Command::new("mkfifo").arg(endless).output_of().ok();

    let mut successor = lab.edge.successor(&["--cert", garbage, "--key", garbage]);
    assert_eq!(successor.wait(PATIENCE).code(), Some(70), "{}", successor.printed());
    assert!(successor.printed().contains("garbage.pem"), "{}", successor.printed());
    works(&mut lab, "after-garbage");

    let mut successor = lab.edge.successor(&["--ipv4-pool", "10.99.0.0/16"]);
    assert_eq!(successor.wait(PATIENCE).code(), Some(69), "{}", successor.printed());
    assert!(successor.printed().contains("edge: --ipv4-pool 10.99"), "{}", successor.printed());
    works(&mut lab, "after-refusal");

    // One that is half-way: it has changed the machine already.
    let options = ["--raw-ports", "21000-21099", "--cert", endless, "--key", endless];
    let mut successor = lab.edge.successor(&options);
    wait_for("the successor to have begun", PATIENCE, || {
        let now = Snapshot::of(&lab.machine, lab.edge.instance());
        now.has("ip_local_reserved_ports = 21000-21099").then_some(())
    });
    crowd.wait_served(20);
    download.wait_more();
    // What is asked for now waits for whoever has the region in the end.
    let mut late = lab.edge.run(&["--name", "late", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    successor.signal(Signal::SIGKILL);
    assert!(!successor.wait(PATIENCE).success());
    late.wait_line("up", PATIENCE);
    drop(late);
    works(&mut lab, "after-death");

    assert_eq!(counting.owner.printed().matches("it is gone").count(), 0);
    before.assert_unchanged();
    crowd.wait_served(20);
    counting.finish();
    assert_eq!(download.end(), Ok(()));
    let (served, failures) = crowd.stop();
    assert!(failures.is_empty(), "of {served} some were not served: {failures:#?}");
    // And it can still hand over.
    let mut predecessor = lab.edge.replace(&[]);
    reclaimed(&counting.owner, 1);
    assert!(predecessor.wait(PATIENCE).success(), "{}", predecessor.printed());
    works(&mut lab, "after-all");
}

#[test]
fn without_a_daemon_it_just_starts_and_a_plain_start_beside_one_is_refused() {
    let mut lab = Lab::stopped(&[]);
    let mut first = lab.edge.successor(&[]);
    first.wait_line("ready", PATIENCE);
    let output = lab.edge.cli(&["up", "--uplink", "up0"]).refused();
    assert_eq!(output.status.code(), Some(69), "{output}");
    assert!(output.stderr.contains("--replace"), "{output}");
    first.signal(Signal::SIGINT);
    assert!(first.wait(PATIENCE).success(), "{}", first.printed());
    lab.edge.start();
}

#[test]
fn the_end_of_the_successor_ends_what_drains() {
    let mut lab = Lab::stopped(&["--drain", "1h"]);
    let untouched = Snapshot::of(&lab.machine, lab.edge.instance());
    lab.edge.start();
    let counting = Counting::serve(&lab, &[]);
    let mut draining = Vec::new();
    for round in 1..=2 {
        let download = counting.download(&lab);
        download.wait_more();
        draining.push((lab.edge.replace(&[]), download));
        reclaimed(&counting.owner, round);
    }
    lab.edge.cli(&["down"]).ok();
    for (mut predecessor, download) in draining {
        assert!(predecessor.wait(PATIENCE).success(), "{}", predecessor.printed());
        assert!(download.end().is_err());
    }
    assert!(lab.edge.daemon().wait(PATIENCE).success());
    untouched.assert_unchanged();
    // Nobody holds the daemon's name any more.
    lab.edge.forget();
    lab.edge.start();
}

#[test]
fn a_successor_elsewhere_is_refused() {
    let mut lab = Lab::new(&[]);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    let elsewhere = NetNs::new("elsewhere");
    let mut successor = lab.edge.successor_in(&elsewhere, &[]);
    assert_eq!(successor.wait(PATIENCE).code(), Some(69), "{}", successor.printed());
    assert!(successor.printed().contains("another network"), "{}", successor.printed());
    before.assert_unchanged();
    works(&mut lab, "after-elsewhere");
}

#[test]
fn a_service_manager_learns_who_the_main_process_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut packet = [0; 256];
        let length = socket.recv(&mut packet).expect("a notification");
        String::from_utf8_lossy(&packet[..length]).trim_end().to_owned()
    };
    let mut lab = Lab::stopped(&[]);
    lab.edge.set("NOTIFY_SOCKET", &path);
    lab.edge.start();
    let first = lab.edge.daemon().pid();
    assert_eq!(told(), format!("READY=1\nMAINPID={first}"));
    let mut predecessor = lab.edge.replace(&[]);
    let second = lab.edge.daemon().pid();
    assert_eq!(told(), format!("READY=1\nMAINPID={second}"));
    assert!(predecessor.wait(PATIENCE).success());
    lab.edge.stop();
    assert_eq!(told(), "STOPPING=1");
}

/// Waits until an owner has found so many successors.
#[track_caller]
fn reclaimed(owner: &Running, successors: usize) {
    wait_for("the owner to claim its container", PATIENCE, || {
        (owner.printed().matches("daemon: it is back").count() >= successors).then_some(())
    });
}

/// Containers and tunnels can be started and ended.
#[track_caller]
fn works(lab: &mut Lab, name: &str) {
    let tenant = Tenant::new(&lab.edge, name, &["--unencrypted-port", "7000"]);
    let _echo = Echo::serve(&tenant.netns, 7000);
    let tunnels = lab.edge.tunnels();
    let tunnel = tunnels.iter().find(|tunnel| tunnel.container == name).expect("its tunnel");
    let to = SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), tunnel.raw_port());
    echo::round_trip(&lab.internet, to, 1000);
    tenant.detach();
    wait_for("the container to end", PATIENCE, || {
        lab.edge.containers().iter().all(|one| one.name != name).then_some(())
    });
}
