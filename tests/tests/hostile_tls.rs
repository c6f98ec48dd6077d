//! Strangers who do to the public ports what they should not: a bystander is served all the while,
//! and afterwards the daemon holds what it held before.

use std::{
    io::{self, Read as _, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use rustls::{ClientConnection, pki_types::ServerName};
use tests::{
    bystander::{Bystander, ask, echo},
    edge,
    floor::Floor,
    lab::Lab,
    process::wait_for,
    strangers::{Strangers, is_over, long_hello},
    tls::{TlsStream, host},
};

/// For what a machine does while it is kept busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// KiB that an allocator may keep after an attack.
const KEPT: u64 = 48 * 1024;

fn tls() -> SocketAddr {
    SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), 443)
}

fn http() -> SocketAddr {
    SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), 80)
}

/// What a client says first.
fn hello(lab: &Lab, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = ClientConnection::new(lab.tls().config(), name).expect("a client");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a greeting");
    bytes
}

fn denied(lab: &Lab, reason: &str) -> f64 {
    lab.edge.metrics().value(&format!("edge_clients_denied_total{{reason=\"{reason}\"}}"))
}

fn handshakes(lab: &Lab, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    lab.edge.metrics().sum("edge_tls_handshakes_total", &[&label])
}

fn over(streams: &mut [TcpStream]) -> usize {
    streams.iter_mut().map(is_over).filter(|over| *over).count()
}

/// All that was begun is over, and nothing of it is left.
#[track_caller]
fn back_to(floor: &Floor, lab: &Lab, bystander: &mut Bystander) {
    bystander.is_served();
    bystander.stop();
    wait_for("all handshakes to be over", PATIENCE, || {
        (lab.edge.metrics().value("edge_handshakes_unfinished") == 0.0).then_some(())
    });
    floor.returns(KEPT, PATIENCE);
}

#[test]
fn half_hellos_by_the_hundreds_displace_each_other_only() {
    const ROOM: usize = 64;
    let mut lab =
        Lab::new(&["--unfinished-handshakes", &ROOM.to_string(), "--handshake-deadline", "10m"]);
    let mut bystander = Bystander::of(&lab);
    let floor = Floor::of(&mut lab.edge);
    let half = hello(&lab, "nobody.r1.localhost");
    let half = &half[..half.len() / 2];
    let mut held = Vec::new();
    // One source has half of the room, three have all of it.
    for (last, reason) in [(101, "source_handshakes"), (102, "handshakes"), (103, "handshakes")] {
        let before = denied(&lab, reason);
        let opened = Strangers::new(&lab, last).each(200, tls(), |mut stream| {
            stream.write_all(half).expect("a fresh connection takes some bytes");
            stream
        });
        held.extend(opened.expect("connections"));
        bystander.is_served();
        wait_for(&format!("somebody to be refused for {reason}"), PATIENCE, || {
            (denied(&lab, reason) > before).then_some(())
        });
    }
    wait_for("the oldest to be gone", PATIENCE, || (over(&mut held) >= 600 - ROOM).then_some(()));
    let files = floor.now().files;
    assert!(files <= floor.files + ROOM + 20, "{files} files, {} before", floor.files);
    drop(held);
    back_to(&floor, &lab, &mut bystander);
}

#[test]
fn slow_greetings_meet_their_deadline_and_patient_ones_do_not() {
    const EACH: usize = 100;
    let mut lab = Lab::new(&["--handshake-deadline", "3s"]);
    let mut bystander = Bystander::of(&lab);
    let floor = Floor::of(&mut lab.edge);
    let strangers = Strangers::new(&lab, 101);
    let greeting = hello(&lab, "nobody.r1.localhost");
    let request = b"GET / HTTP/1.1\r\nHost: nobody.r1.localhost\r\nX: ".as_slice();
    let mut slow = strangers.each(EACH, tls(), |stream| stream).expect("connections");
    slow.extend(strangers.each(EACH, http(), |stream| stream).expect("connections"));
    let mut bytes = greeting.iter().zip(request.iter().cycle());
    wait_for("all slow ones to be cut off", PATIENCE, || {
        let (of_hello, of_request) = bytes.next().expect("a greeting longer than its deadline");
        for (number, stream) in slow.iter_mut().enumerate() {
            // Those that are cut off cannot send.
            stream.write_all(&[if number < EACH { *of_hello } else { *of_request }]).ok();
        }
        thread::sleep(Duration::from_millis(40));
        (over(&mut slow) == slow.len()).then_some(())
    });
    assert_eq!(handshakes(&lab, "timeout"), EACH as f64);
    bystander.is_served();

    // Byte by byte within the deadline is slow, too, and nobody's fault.
    let (_program, tunnel) = echo(&lab, &["--name", "echo"], 8000);
    let name = ServerName::try_from(host(&tunnel.url).to_owned()).expect("a name");
    let mut client = ClientConnection::new(lab.tls().config(), name).expect("a client");
    let mut tcp = lab.tls().tcp().expect("a connection");
    while client.is_handshaking() {
        while client.wants_write() {
            client.write_tls(&mut OneByte(&mut tcp)).expect("the gateway reads on");
        }
        if client.is_handshaking() {
            client.read_tls(&mut tcp).expect("the gateway answers");
            client.process_new_packets().expect("a good answer");
        }
    }
    ask(&mut TlsStream::new(client, tcp)).expect("the echo");
    drop((slow, _program));
    back_to(&floor, &lab, &mut bystander);
}

/// Sends a byte at a time, each in a segment of its own.
struct OneByte<'a>(&'a mut TcpStream);

impl Write for OneByte<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn names_of_64_kib_and_garbage_are_refused_and_cost_nothing() {
    const TIMES: usize = 200;
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let floor = Floor::of(&mut lab.edge);
    let strangers = Strangers::new(&lab, 101);
    let refused = |lab: &Lab| {
        ["malformed", "too_long", "closed", "unknown_name"]
            .map(|how| handshakes(lab, how))
            .iter()
            .sum::<f64>()
    };
    let long = long_hello();
    let garbage: Vec<u8> =
        (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let before = refused(&lab);
    for (port, bytes) in [(tls(), &long), (tls(), &garbage), (http(), &garbage), (http(), &long)] {
        let answers = strangers.each(TIMES, port, |mut stream| {
            // It may be over before all is sent.
            stream.write_all(bytes).ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            answer
        });
        for answer in answers.expect("connections") {
            // An alert of TLS, a page that says no, or a reset that overtook both.
            let alert = answer.len() == 7 && answer[0] == 0x15;
            let page = answer.starts_with(b"HTTP/1.1 4");
            assert!(alert || page || answer.is_empty(), "{answer:?}");
        }
        bystander.is_served();
    }
    wait_for("all to be counted", PATIENCE, || {
        (refused(&lab) - before >= 2.0 * TIMES as f64).then_some(())
    });
    back_to(&floor, &lab, &mut bystander);
}

#[test]
fn a_crowd_of_idle_connections_is_carried_and_leaves_nothing() {
    let crowd = if edge::long() { 8_000 } else { 800 };
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let unbounded = [
        "--max-connections",
        "none",
        "--max-connections-per-source",
        "none",
        "--new-connections-per-source",
        "none",
    ];
    let (program, tunnel) = echo(&lab, &unbounded, 8000);
    let floor = Floor::of(&mut lab.edge);
    let strangers = [101, 102, 103, 104].map(|last| Strangers::new(&lab, last));
    let name = ServerName::try_from(host(&tunnel.url).to_owned()).expect("a name");
    let config = lab.tls().config();
    let mut idle: Vec<TlsStream> = thread::scope(|scope| {
        let threads = strangers.each_ref().map(|strangers| {
            let (name, config) = (&name, &config);
            scope.spawn(move || {
                let opened = strangers.each(crowd / 4, tls(), |tcp| {
                    let client = ClientConnection::new(config.clone(), name.clone());
                    let mut stream = TlsStream::new(client.expect("a client"), tcp);
                    ask(&mut stream).map(|()| stream)
                });
                opened.expect("connections").into_iter().collect::<io::Result<Vec<_>>>()
            })
        });
        let opened = threads.map(|thread| thread.join().expect("no panic").expect("an echo"));
        opened.into_iter().flatten().collect()
    });
    bystander.is_served();
    let each = (floor.now().memory.saturating_sub(floor.memory)) / crowd as u64;
    assert!(each <= 128, "{each} KiB for each of {crowd} idle connections");
    // Idle is not gone.
    for stream in idle.iter_mut().step_by(crowd / 50) {
        ask(stream).expect("the echo");
    }
    drop((idle, program));
    wait_for("the tunnel's end", PATIENCE, || (lab.edge.tunnels().len() == 1).then_some(()));
    // The crowd's own programs, sessions and tickets: a tenth of what each had.
    bystander.is_served();
    bystander.stop();
    floor.returns(KEPT + 8 * crowd as u64, PATIENCE);
}

#[test]
fn clients_that_stop_reading_make_the_gateway_hold_little() {
    const CLIENTS: usize = 20;
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let (_program, tunnel) = echo(&lab, &[], 8000);
    let name = host(&tunnel.url);
    let floor = Floor::of(&mut lab.edge);
    let connect = |_| {
        let mut stream = lab.tls().connect(name);
        ask(&mut stream).expect("the echo");
        stream.sock.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket");
        stream
    };
    let mut stalled: Vec<_> = (0..CLIENTS).map(connect).collect();
    thread::scope(|scope| {
        for stream in &mut stalled {
            // Until nothing moves any more: the echo comes back to nobody.
            scope.spawn(|| while stream.write_all(&[7; 1 << 16]).is_ok() {});
        }
    });
    let each = floor.now().memory.saturating_sub(floor.memory) / CLIENTS as u64;
    assert!(each <= 512, "{each} KiB for each client that does not read");
    bystander.is_served();
    drop(stalled);
    back_to(&floor, &lab, &mut bystander);
}

#[test]
fn with_all_connections_in_use_new_ones_are_refused_by_name_and_old_ones_live() {
    const ALL: usize = 40;
    let bounds = ["--total-connections", &ALL.to_string(), "--unfinished-handshakes", "1000"];
    let lab = Lab::new(&bounds);
    let (_program, tunnel) = echo(&lab, &[], 8000);
    let name = host(&tunnel.url);
    let mut first = lab.tls().connect(name);
    ask(&mut first).expect("the echo");
    let strangers = Strangers::new(&lab, 101);
    let mut crowd = strangers.tries(2 * ALL, tls());
    let reset_at_once = 2 * ALL - crowd.len();
    wait_for("those beyond the bound to be reset", PATIENCE, || {
        (reset_at_once + over(&mut crowd) == ALL + 1).then_some(())
    });
    assert_eq!(denied(&lab, "open_files"), (ALL + 1) as f64);
    ask(&mut first).expect("the connection that was there before");
    let refused = lab.tls().try_connect(name).expect_err("there is no room");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset, "{refused}");
    drop(crowd);
    wait_for("room for another", PATIENCE, || lab.tls().try_connect(name).ok());
}

#[test]
fn a_tunnels_list_and_bounds_hold_for_tls() {
    let lab = Lab::new(&[]);
    let allowed = format!("{}/32", Lab::CLIENT);
    let options = ["--allow", &allowed, "--max-connections-per-source", "3"];
    let (_program, tunnel) = echo(&lab, &options, 8000);
    let name = host(&tunnel.url);
    let last_error = || lab.edge.tunnels()[0].last_error.clone().unwrap_or_default();
    let mut held: Vec<_> = (0..3).map(|_| lab.tls().connect(name)).collect();
    held.iter_mut().for_each(|stream| ask(stream).expect("the echo"));

    let stranger = lab.tls().to(Lab::PUBLIC_V6);
    assert_eq!(stranger.refusal(name), rustls::AlertDescription::AccessDenied);
    let reason = format!("{} is not on the tunnel's list", Lab::CLIENT_V6);
    assert!(last_error().contains(&reason), "{}", last_error());

    assert_eq!(lab.tls().refusal(name), rustls::AlertDescription::InternalError);
    let reason = format!("{} has 3 connections, all that one source may have", Lab::CLIENT);
    assert!(last_error().contains(&reason), "{}", last_error());
    assert_eq!((denied(&lab, "not_allowed"), denied(&lab, "source_connections")), (1.0, 1.0));
    held.iter_mut().for_each(|stream| ask(stream).expect("the echo"));
    held.pop();
    wait_for("the free place", PATIENCE, || lab.tls().try_connect(name).ok());
}
