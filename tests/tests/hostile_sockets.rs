//! Containers and local programs that do to the API, DNS, the commands' socket and the metrics
//! what they should not: others are served all the while, and nothing of it stays.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use tests::{
    bystander::Bystander,
    edge,
    floor::Floor,
    lab::Lab,
    netns::NetNs,
    process::{Start as _, wait_for},
    strangers::{garbage, is_over},
    tenant::Tenant,
};

/// For what a machine does while it is kept busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// KiB that an allocator may keep.
const KEPT: u64 = 32 * 1024;
const SERVICE: [u8; 4] = [169, 254, 20, 10];

/// Connections from inside a namespace; those that were reset at once are not among them.
fn connections(netns: &NetNs, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    netns.enter(|| {
        let connect = |_| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.set_write_timeout(Some(PATIENCE)).ok()?;
            Some(stream)
        };
        (0..count).filter_map(connect).collect()
    })
}

fn open(streams: &mut [TcpStream]) -> usize {
    streams.iter_mut().map(|stream| !is_over(stream)).filter(|open| *open).count()
}

/// Makes a port of the tenant public for as long as it takes to say so.
#[track_caller]
fn forwards(lab: &Lab, tenant: &Tenant) {
    let mut command = tenant.netns.command(edge::program());
    let output = command.args(["forward", "8000", "--", "true"]).output_of().ok();
    drop(output);
    assert!(lab.edge.tunnels().iter().all(|tunnel| tunnel.port != 8000));
}

#[test]
fn an_api_that_is_shouted_at_answers_the_others() {
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let (hostile, honest) =
        (Tenant::new(&lab.edge, "hostile", &[]), Tenant::new(&lab.edge, "honest", &[]));
    forwards(&lab, &honest);
    let floor = Floor::of(&mut lab.edge);
    let api = SocketAddr::from((SERVICE, 80));

    // Of those who begin as they should, so many are served.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut held = connections(&hostile.netns, api, 100);
    let mut served = 0;
    for stream in &mut held {
        // Those beyond the bound are closed.
        stream.write_all(preface).ok();
        served += usize::from(matches!(stream.read(&mut [0]), Ok(1)));
    }
    assert_eq!(served, 64);
    held.retain_mut(|stream| !is_over(stream));
    forwards(&lab, &honest);
    held.clear();

    // Silence, half a preface, and a preface with half a frame behind it.
    for said in [&preface[..0], &preface[..10], &preface[..28]] {
        let mut streams = wait_for("connections", PATIENCE, || {
            let mut streams = connections(&hostile.netns, api, 20);
            (open(&mut streams) == 20).then_some(streams)
        });
        for stream in &mut streams {
            stream.write_all(said).expect("it takes a few bytes");
        }
        held.extend(streams);
    }
    forwards(&lab, &honest);
    let files = floor.now().files;
    assert!(files <= floor.files + 64 + 20, "{files} files, {} before", floor.files);
    wait_for(
        "those who did not say enough to be cut off, and those who answer no ping",
        2 * PATIENCE,
        || (open(&mut held) == 0).then_some(()),
    );

    // And much that is nothing at all.
    for _ in 0..5 {
        for mut stream in connections(&hostile.netns, api, 40) {
            // It may be over before all is sent.
            stream.write_all(&garbage(50_000)).ok();
        }
        let mut streams = connections(&hostile.netns, api, 40);
        for stream in &mut streams {
            stream.write_all(&preface[..24]).and_then(|()| stream.write_all(&garbage(50_000))).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
    }
    forwards(&lab, &honest);
    bystander.is_served();
    bystander.stop();
    floor.returns(KEPT, PATIENCE);
}

#[test]
fn dns_that_is_held_open_answers_the_others() {
    let mut lab = Lab::new(&[]);
    let (hostile, honest) =
        (Tenant::new(&lab.edge, "hostile", &[]), Tenant::new(&lab.edge, "honest", &["--i6pn"]));
    let floor = Floor::of(&mut lab.edge);
    let dns = SocketAddr::from((SERVICE, 53));
    let question = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04i6pn\x05modal\x05local\x00\x00\x1c\x00\x01";
    let length = u16::try_from(question.len()).expect("a short question").to_be_bytes();
    let question = [&length, &question[..]].concat();
    let mut held = connections(&hostile.netns, dns, 200);
    let mut answered = 0;
    for stream in &mut held {
        // Those beyond the bound are closed.
        stream.write_all(&question).ok();
        answered += usize::from(matches!(stream.read(&mut [0]), Ok(1)));
        // A length, and less than that.
        stream.write_all(&[0xff, 0xff, 1]).ok();
    }
    assert_eq!(answered, 16);
    // The same question over TCP, in another's name.
    let mut stream = connections(&honest.netns, dns, 1).pop().expect("a connection");
    stream.write_all(&question).expect("it takes a question");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).expect("an answer");
    let mut answer = vec![0; u16::from_be_bytes(answer).into()];
    stream.read_exact(&mut answer).expect("an answer");
    assert!(answer.ends_with(&honest.i6pn().octets()), "{answer:?}");
    wait_for("all to be cut off", PATIENCE, || (open(&mut held) == 0).then_some(()));
    drop(stream);
    floor.returns(KEPT, PATIENCE);
}

/// Connections to the commands' socket from a namespace.
fn commanders(lab: &Lab, netns: &NetNs, count: usize) -> Vec<UnixStream> {
    let path = lab.edge.folder().join("run/edge.sock");
    netns.enter(|| {
        let connect = |_| UnixStream::connect(&path).expect("a connection");
        (0..count).map(connect).collect()
    })
}

/// Whether the daemon has ended it.
fn ended(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn commands_are_heard_through_garbage_and_silence() {
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let tenant = Tenant::new(&lab.edge, "hostile", &[]);
    let floor = Floor::of(&mut lab.edge);
    let mut held = commanders(&lab, &lab.machine, 300);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (number, stream) in held.iter_mut().enumerate() {
        match number % 3 {
            0 => {}
            1 => stream.write_all(&preface[..12]).expect("it takes a few bytes"),
            // It may hang up before all is sent.
            _ => stream.write_all(&garbage(100_000)).unwrap_or_default(),
        }
    }
    assert_eq!(lab.edge.containers().len(), 2, "the host is heard");
    // Who cannot be served anyway has little room to begin with.
    let mut inside = commanders(&lab, &tenant.netns, 50);
    wait_for("the container's connections to be cut off", PATIENCE, || {
        let left = inside.iter_mut().map(ended).filter(|ended| !ended).count();
        (left <= 4).then_some(())
    });
    wait_for("all who did not say enough to be cut off", PATIENCE, || {
        held.iter_mut().chain(&mut inside).all(ended).then_some(())
    });
    assert_eq!(lab.edge.containers().len(), 2);
    bystander.is_served();
    bystander.stop();
    floor.returns(KEPT, PATIENCE);
}

#[test]
fn slow_readers_of_the_metrics_keep_nobody_from_them() {
    let mut lab = Lab::new(&[]);
    let mut bystander = Bystander::of(&lab);
    let floor = Floor::of(&mut lab.edge);
    let admin = SocketAddr::from(([127, 0, 0, 1], 9464));
    let mut held = connections(&lab.machine, admin, 300);
    let page = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    for (number, stream) in held.iter_mut().enumerate() {
        stream.set_nonblocking(true).expect("a socket");
        let said = match number % 3 {
            0 => b"GET /met".as_slice(),
            1 => page.as_bytes(),
            _ => &garbage(1000),
        };
        // Who is displaced cannot write, and who is not read from cannot either.
        stream.write_all(said).ok();
    }
    // The daemon answers while all of them stay as they are.
    for _ in 0..20 {
        lab.edge.metrics();
    }
    let alive = lab.try_curl(&lab.machine, &["http://127.0.0.1:9464/livez"]).ok();
    assert_eq!(alive.stdout, "alive\n");
    let files = floor.now().files;
    assert!(files <= floor.files + 64 + 20, "{files} files, {} before", floor.files);
    bystander.is_served();
    bystander.stop();
    // Nobody may stay for long, either.
    floor.returns(KEPT, PATIENCE);
    drop(held);
}

#[test]
fn a_container_that_opens_and_closes_tunnels_in_a_loop_leaves_others_their_ports() {
    let mut lab = Lab::new(&["--raw-ports", "20000-20099"]);
    let mut bystander = Bystander::of(&lab);
    let rows = |lab: &Lab| {
        let metrics = lab.edge.metrics();
        ["TUNNELS", "FORWARDS"]
            .map(|table| metrics.value(&format!("edge_table_rows{{table=\"{table}\"}}")))
    };
    let (floor, rows_before) = (Floor::of(&mut lab.edge), rows(&lab));
    let python = edge::venv().join("bin/python").display().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/restless.py");
    let script = script.display().to_string();
    let mut restless = lab.edge.run(&["--name", "restless", "--", &python, "-u", &script, "100"]);
    restless.wait_line("looped", 2 * PATIENCE);
    bystander.is_served();
    let refused = restless.wait_line("refused", 2 * PATIENCE);
    assert!(refused.starts_with("refused 0 "), "{refused}");
    // Two hundred raw tunnels came and went in a range of a hundred ports.
    let tenant = Tenant::new(&lab.edge, "honest", &["--unencrypted-port", "8000"]);
    let tunnels = lab.edge.tunnels();
    let honest = tunnels.iter().find(|tunnel| tunnel.container == "honest").expect("a tunnel");
    assert!((20000..20100).contains(&honest.raw_port()));
    drop((tenant, restless));
    wait_for("all but the bystander to be gone", PATIENCE, || {
        (lab.edge.containers().len() == 1).then_some(())
    });
    assert_eq!(rows(&lab), rows_before);
    bystander.is_served();
    bystander.stop();
    floor.returns(KEPT, PATIENCE);
}
