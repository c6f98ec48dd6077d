//! Whatever comes and goes, however it goes, the machine ends as it was.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use nix::sys::signal::Signal;
use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    process::wait_for,
};

const CONTAINERS: usize = 200;
const AT_A_TIME: usize = 20;
const OPTIONS: [&str; 4] = ["--encrypted-port", "8000", "--unencrypted-port", "9000"];
const SERVER: &[&str] = &["python3", "-u", "-m", "http.server", "--bind", "::", "8000"];

#[test]
fn two_hundred_containers_leave_nothing() {
    let mut lab = Lab::new(&[]);
    // The first makes what is made once.
    lab.edge.cli(&[&["run"][..], &OPTIONS, &["--", "true"]].concat()).ok();
    no_containers(&lab.edge);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    let rows = rows(&lab.edge);
    let floor = Held::by(lab.edge.daemon().pid());

    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && number < CONTAINERS
                {
                    come_and_go(&lab.edge, number);
                }
            });
        }
    });

    no_containers(&lab.edge);
    assert!(lab.edge.tunnels().is_empty());
    before.assert_unchanged();
    assert_eq!(self::rows(&lab.edge), rows);
    let pid = lab.edge.daemon().pid();
    // Idle threads of the runtime stay for a while: as many as ever worked at a time, which is
    // far fewer than one for each container.
    wait_for("the daemon's files and threads to be as they were", PATIENCE, || {
        let now = Held::by(pid);
        let few = floor.threads + 2 * AT_A_TIME;
        (now.files <= floor.files + 4 && now.threads <= few).then_some(())
    });
}

fn no_containers(edge: &Edge) {
    wait_for("all containers to be gone", PATIENCE, || edge.containers().is_empty().then_some(()));
}

/// One container of one of the kinds: of three, one ends by itself, one by a signal and one
/// with no chance to say goodbye.
fn come_and_go(edge: &Edge, number: usize) {
    let program: &[&str] = match number % 3 {
        0 => &["--", "sh", "-c", "echo up; exit 7"],
        _ => &["--", "sh", "-c", "echo up; exec sleep 1000"],
    };
    let mut container = edge.run(&[&OPTIONS, program].concat());
    container.wait_line("up", 3 * PATIENCE);
    match number % 3 {
        0 => assert_eq!(container.wait(PATIENCE).code(), Some(7)),
        1 => {
            container.signal(Signal::SIGTERM);
            assert_eq!(container.wait(PATIENCE).code(), Some(128 + 15));
        }
        _ => container.kill(),
    }
}

#[test]
fn a_daemon_that_stops_leaves_the_machine_as_it_was() {
    let mut lab = Lab::stopped(&["--datapath", "xdp"]);
    let machine = lab.machine.clone();
    machine.sysctl("net/ipv4/ip_local_reserved_ports", "1234,25000");
    let before = Snapshot::of(&machine, lab.edge.instance());
    // The second time it finds its own state.
    for _ in 0..2 {
        lab.edge.start();
        let (_container, tunnel) = lab.serve(&OPTIONS, 8000, SERVER);
        lab.curl(&lab.machine, &["--connect-to", "::127.0.0.1:443", &tunnel.url]);
        // With the container still in it.
        lab.edge.stop();
        before.assert_unchanged();
        assert!(!lab.edge.folder().join("run/edge.sock").exists());
    }
}

#[test]
fn a_killed_daemon_is_succeeded_and_its_leftovers_go() {
    let mut lab = Lab::stopped(&["--lease", "1s"]);
    let machine = lab.machine.clone();
    let untouched = Snapshot::of(&machine, lab.edge.instance());
    lab.edge.start();
    let idle = Snapshot::of(&machine, lab.edge.instance());
    let rows_idle = rows(&lab.edge);
    let (mut orphan, old) = lab.serve(&OPTIONS, 8000, SERVER);
    lab.edge.kill9();
    let left = Snapshot::of(&machine, lab.edge.instance());
    assert!(left.has("tcx-"), "links outlive their daemon: {left:?}");

    // An owner that hangs claims nothing in time.
    orphan.signal(Signal::SIGSTOP);
    lab.edge.start();
    no_containers(&lab.edge);
    idle.assert_unchanged();
    assert_eq!(rows(&lab.edge), rows_idle);
    assert!(lab.edge.tunnels().is_empty());
    // The program of the old container runs on, off the wire, and was told so.
    orphan.signal(Signal::SIGCONT);
    let news = "the program runs on without a network";
    wait_for("the news", PATIENCE, || orphan.printed().contains(news).then_some(()));
    assert!(orphan.ended().is_none(), "{}", orphan.printed());

    let (_container, tunnel) = lab.serve(&OPTIONS, 9000, SERVER);
    assert_ne!(tunnel.tcp, old.tcp, "a port rests before it is another's");
    let tunnels = lab.edge.tunnels();
    let tls = tunnels.iter().find(|tunnel| tunnel.port == 8000).expect("a tunnel");
    lab.curl(&lab.machine, &["--connect-to", "::127.0.0.1:443", &tls.url]);
    lab.edge.stop();
    untouched.assert_unchanged();
}

#[test]
fn a_second_daemon_of_the_same_name_is_refused_and_harms_nobody() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(&OPTIONS, 8000, SERVER);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    let state = lab.edge.folder().to_str().expect("a path");
    for admin in [&[][..], &["--admin", "127.0.0.1:9999"]] {
        let words = [&["up", "--uplink", "up0", "--state-dir", state], admin].concat();
        let output = lab.edge.cli(&words).refused();
        assert_eq!(output.status.code(), Some(69), "{output}");
        let sentence = format!("edge: daemon {:?}: another one runs already", lab.edge.instance());
        assert!(output.stderr.contains(&sentence), "{output}");
    }
    before.assert_unchanged();
    lab.curl(&lab.machine, &["--connect-to", "::127.0.0.1:443", &tunnel.url]);
}

/// What a process holds of the kernel.
#[derive(Debug)]
struct Held {
    files: usize,
    threads: usize,
}

impl Held {
    fn by(pid: u32) -> Self {
        let count = |what: &str| {
            let folder = Path::new("/proc").join(pid.to_string()).join(what);
            fs::read_dir(folder).expect("a living process").count()
        };
        Self { files: count("fd"), threads: count("task") }
    }
}

/// Rows in the kernel's tables, by table.
fn rows(edge: &Edge) -> Vec<f64> {
    let metrics = edge.metrics();
    let table = |name| metrics.value(&format!("edge_table_rows{{table=\"{name}\"}}"));
    ["ADDRESSES", "TUNNELS", "FORWARDS", "LISTENERS", "LISTS"].map(table).into()
}
