//! `edge trace`: where a packet went and why, and what it leaves behind: nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use tests::{
    echo::{Echo, round_trip},
    edge::{Edge, Tunnel},
    i6pn,
    lab::{Lab, PATIENCE},
    process::wait_for,
    tenant::Tenant,
    trace::{Trace, attached, is_traced},
};

const ONE: [&str; 3] = ["--i6pn", "--workspace", "one"];
const TWO: [&str; 3] = ["--i6pn", "--workspace", "two"];

/// A container of workspace one with a raw tunnel, and its program.
fn web(lab: &Lab) -> (Tenant, Echo, Tunnel) {
    let options = [&ONE[..], &["--unencrypted-port", "8000"]].concat();
    let web = Tenant::new(&lab.edge, "web", &options);
    let echo = Echo::serve(&web.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    (web, echo, tunnel)
}

#[test]
fn a_line_says_who_to_whom_at_which_hook_and_why() {
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    let (web, _echo, tunnel) = web(&lab);
    let trace = Trace::start(&lab.edge, &[]);
    assert!(is_traced(&lab.edge));
    // One that came later is heard, too.
    let db = Tenant::new(&lab.edge, "db", &ONE);
    let other = Tenant::new(&lab.edge, "other", &TWO);
    assert!(is_traced(&lab.edge));

    let public = SocketAddr::new(Lab::PUBLIC.parse().unwrap(), tunnel.raw_port());
    round_trip(&lab.internet, public, 100);
    i6pn::udp(&web, &db, 100);
    i6pn::ping(&web, &db);
    assert_eq!(i6pn::refusal(&web, other.i6pn()), Some(libc::EACCES));

    let (client, tcp) = (format!(" {}:", Lab::CLIENT), ", tcp, ");
    let to = format!(" → {public} (one/web:8000)");
    let why = ": tunnel (to a raw TCP tunnel: rewritten and delivered to its container)";
    trace.wait_line(&["Z xdp_uplink@up0", &client, &to, tcp, " B", why]);
    trace.wait_line(&["Z tc_uplink@up0", &client, " → one/web:8000", tcp, ": delivered ("]);
    let from = format!(" one/web:8000 ({public}) → {}:", Lab::CLIENT);
    trace.wait_line(&["Z tc_container@ed", &from, tcp, ": reply ("]);
    let why = ": i6pn (between two containers of a workspace)";
    trace.wait_line(&["Z tc_container@ed", " one/web:", " → one/db:", ", udp, ", why]);
    trace.wait_line(&["Z tc_container@ed", " one/web → one/db, icmpv6, ", why]);
    let why = ": other_workspace (refused: containers of two workspaces never exchange a packet)";
    trace.wait_line(&["Z tc_container@ed", " one/web", " → two/other", why]);
}

#[test]
fn filters_are_kept_by_the_kernel() {
    let lab = Lab::new(&[]);
    let [web, db] = ["web", "db"].map(|name| Tenant::new(&lab.edge, name, &ONE));
    let other = Tenant::new(&lab.edge, "other", &TWO);
    let talk = || {
        i6pn::ping(&web, &db);
        assert_eq!(i6pn::refusal(&web, other.i6pn()), Some(libc::EACCES));
    };
    let name = |party: &serde_json::Value| party["container"].as_str().unwrap_or("").to_owned();

    let mut trace = Trace::start(&lab.edge, &["--verdict", "refused", "--json", "--count", "1"]);
    talk();
    assert!(trace.0.wait(PATIENCE).success(), "{}", trace.0.printed());
    let [record] = &trace.records()[..] else { panic!("{}", trace.0.printed()) };
    assert_eq!(record["verdict"], "other_workspace", "{record}");
    assert_eq!(
        (name(&record["source"]), name(&record["destination"])),
        ("web".into(), "other".into())
    );

    let trace = Trace::start(&lab.edge, &["--container", "one/db", "--json"]);
    talk();
    talk();
    wait_for("something about db", PATIENCE, || (trace.records().len() >= 4).then_some(()));
    for record in trace.records() {
        let ends = [name(&record["source"]), name(&record["destination"])];
        assert!(ends.contains(&"db".to_owned()), "{record}");
    }
    let told = lab.edge.cli(&["trace"]).refused();
    assert!(told.stderr.contains("another `edge trace` listens already"), "{told}");
    drop(trace);

    for (options, cause) in [
        (&["--container", "nobody"][..], "there is none of this name"),
        (&["--verdict", "lost"][..], "invalid value"),
    ] {
        let told = lab.edge.cli(&[&["trace"], options].concat()).refused();
        assert!(told.stderr.contains(cause), "{told}");
    }
}

#[test]
fn one_of_so_many_is_told() {
    let lab = Lab::new(&[]);
    let [web, db] = ["web", "db"].map(|name| Tenant::new(&lab.edge, name, &ONE));
    i6pn::ping(&web, &db);
    for options in [&["--sample", "10"][..], &["--sample", "10", "--verdict", "i6pn"][..]] {
        let trace = Trace::start(&lab.edge, options);
        let decided = || lab.edge.metrics().sum("edge_verdict_packets_total", &[]);
        let before = decided();
        i6pn::tcp(&web, &db, 1 << 20);
        wait_for("a sample", PATIENCE, || (!trace.0.stdout().is_empty()).then_some(()));
        let told = trace.0.stdout().len() as f64;
        // Each CPU may have been about to tell when it began.
        let most = (decided() - before) / 10.0 + 64.0;
        assert!(told <= most, "{told} of at most {most}");
    }
}

#[test]
fn not_a_packet_is_lost_when_it_begins_and_ends() {
    let lab = Lab::new(&[]);
    let [web, db] = ["web", "db"].map(|name| Tenant::new(&lab.edge, name, &ONE));
    i6pn::ping(&web, &db);
    let before = attached(&lab.edge);
    let inbox = db.netns.enter(|| UdpSocket::bind((db.i6pn(), 7000))).unwrap();
    inbox.set_read_timeout(Some(PATIENCE)).unwrap();
    let outbox = web.netns.enter(|| UdpSocket::bind((web.i6pn(), 0))).unwrap();
    let (to, last) = (SocketAddr::from((db.i6pn(), 7000)), u64::MAX);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        let mut number = 0_u64;
        while stopped
            .recv_timeout(Duration::from_micros(200))
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            outbox.send_to(&number.to_ne_bytes(), to).unwrap();
            number += 1;
        }
        outbox.send_to(&last.to_ne_bytes(), to).unwrap();
        number
    });
    let reader = thread::spawn(move || {
        let (mut buffer, mut next) = ([0; 8], 0);
        loop {
            inbox.recv(&mut buffer).unwrap();
            match u64::from_ne_bytes(buffer) {
                number if number == last => return next,
                number => assert_eq!(number, next, "datagrams are missing"),
            }
            next += 1;
        }
    });
    for _round in 0..5 {
        let trace = Trace::start(&lab.edge, &["--sample", "3"]);
        trace.wait_line(&["one/web:", "one/db:7000", "i6pn"]);
        drop(trace);
        off(&lab.edge);
    }
    drop(stop);
    let sent = writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), sent);
    assert_eq!(attached(&lab.edge), before, "the very programs of before");
}

/// Waits until nothing is traced any more.
#[track_caller]
fn off(edge: &Edge) {
    wait_for("the plain programs", PATIENCE, || {
        // While they change, some are and some are not.
        let programs = attached(edge);
        programs.values().all(|(name, _)| !name.contains("_tr")).then_some(())
    });
    assert!(!is_traced(edge));
}

#[test]
fn it_ends_with_whatever_ends() {
    let mut lab = Lab::new(&[]);
    let (web, _echo, tunnel) = web(&lab);
    let public = SocketAddr::new(Lab::PUBLIC.parse().unwrap(), tunnel.raw_port());
    let works = || round_trip(&lab.internet, public, 1000);
    let plain = attached(&lab.edge);

    let mut trace = Trace::start(&lab.edge, &[]);
    assert!(is_traced(&lab.edge));
    trace.0.kill();
    off(&lab.edge);
    assert_eq!(attached(&lab.edge), plain);
    works();

    // A successor's programs are its own.
    let mut trace = Trace::start(&lab.edge, &[]);
    let mut predecessor = lab.edge.replace(&[]);
    let status = trace.0.wait(PATIENCE);
    assert!(!status.success(), "{}", trace.0.printed());
    assert!(predecessor.wait(PATIENCE).success(), "{}", predecessor.printed());
    assert!(!is_traced(&lab.edge));
    round_trip(&lab.internet, public, 1000);

    // What a killed daemon left goes on, and the next one takes its place.
    let mut trace = Trace::start(&lab.edge, &[]);
    lab.edge.kill9();
    assert!(!trace.0.wait(PATIENCE).success(), "{}", trace.0.printed());
    assert!(is_traced(&lab.edge));
    round_trip(&lab.internet, public, 1000);
    lab.edge.start();
    assert!(!is_traced(&lab.edge));
    round_trip(&lab.internet, public, 1000);

    // While no daemon runs, nothing is traced.
    let mut trace = Trace::start(&lab.edge, &[]);
    lab.edge.stop_for_restart();
    assert!(!trace.0.wait(PATIENCE).success(), "{}", trace.0.printed());
    assert!(!is_traced(&lab.edge));
    lab.edge.start();

    let trace = Trace::start(&lab.edge, &[]);
    trace.0.signal(Signal::SIGINT);
    off(&lab.edge);
    drop(web);
}
