//! `edge trace`: where a packet went and why, and what it leaves behind: nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::sys::{
    signal::Signal,
    socket::{setsockopt, sockopt},
};
use tests::{
    echo::{Echo, round_trip},
    edge::Tunnel,
    i6pn,
    lab::{Lab, PATIENCE},
    process::wait_for,
    tenant::Tenant,
    trace::{Trace, attached, is_traced, wait_off},
};

const ONE: [&str; 3] = ["--i6pn", "--workspace", "one"];
const TWO: [&str; 3] = ["--i6pn", "--workspace", "two"];

/// Between two datagrams.
const BEAT: Duration = Duration::from_millis(1);
/// Bytes of a receive buffer.
const ROOM: usize = 32 << 20;
/// In the place of a datagram's number.
const LAST: u64 = u64::MAX;

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
fn a_program_that_nobody_listens_to_has_nothing_of_it() {
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    let _web = Tenant::new(&lab.edge, "web", &ONE);
    let tells = || {
        let programs = attached(&lab.edge);
        assert!(programs.len() >= 3, "{programs:?}");
        let of_trace = |name: &String| name.starts_with("TRACE_");
        let tells = programs.values().filter(|one| one.tables(&lab.edge).iter().any(of_trace));
        (tells.count(), programs.len())
    };
    assert_eq!(tells().0, 0);
    let trace = Trace::start(&lab.edge, &[]);
    let (told, all) = tells();
    assert_eq!(told, all);
    drop(trace);
    wait_off(&lab.edge);
    assert_eq!(tells().0, 0);
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
    let to = SocketAddr::from((db.i6pn(), 7000));
    let inbox = db.netns.enter(|| UdpSocket::bind(to)).expect("a UDP socket");
    inbox.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // On a busy machine the reader may be late by seconds.
    setsockopt(&inbox, sockopt::RcvBufForce, &ROOM).expect("room for datagrams");
    let outbox = web.netns.enter(|| UdpSocket::bind((web.i6pn(), 0))).expect("a UDP socket");
    let (stop, stopped) = mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        let mut number = 0_u64;
        while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            outbox.send_to(&number.to_ne_bytes(), to).expect("a datagram is sent");
            number += 1;
        }
        outbox.send_to(&LAST.to_ne_bytes(), to).expect("the last datagram is sent");
        number
    });
    let reader = thread::spawn(move || {
        let mut buffer = [0; 8];
        for next in 0.. {
            inbox.recv(&mut buffer).expect("one more datagram");
            match u64::from_ne_bytes(buffer) {
                LAST => return next,
                number => assert_eq!(number, next, "datagrams are missing"),
            }
        }
        unreachable!("the last datagram ends it");
    });
    for _round in 0..5 {
        let trace = Trace::start(&lab.edge, &["--sample", "3"]);
        trace.wait_line(&["one/web:", "one/db:7000", "i6pn"]);
        drop(trace);
        wait_off(&lab.edge);
    }
    drop(stop);
    let sent = writer.join().expect("the writer");
    assert_eq!(reader.join().expect("the reader"), sent);
    assert_eq!(attached(&lab.edge), before, "the very programs of before");
}

#[test]
fn it_ends_with_whatever_ends() {
    let mut lab = Lab::new(&[]);
    let (web, _echo, tunnel) = web(&lab);
    let public = SocketAddr::new(Lab::PUBLIC.parse().unwrap(), tunnel.raw_port());
    let plain = attached(&lab.edge);

    let mut trace = Trace::start(&lab.edge, &[]);
    assert!(is_traced(&lab.edge));
    trace.0.kill();
    wait_off(&lab.edge);
    assert_eq!(attached(&lab.edge), plain);
    round_trip(&lab.internet, public, 1000);

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
    wait_off(&lab.edge);
    drop(web);
}
