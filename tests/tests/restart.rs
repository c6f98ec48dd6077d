//! The daemon goes and comes back; what it made goes on, under the same names and ports.

use std::{fs, path::PathBuf};

use edge_common::tables::LAYOUT;
use redb::{Database, TableDefinition};
use tests::{
    edge::{Edge, Tunnel, long},
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    process::{Running, Start as _, wait_for},
    tenant::Tenant,
    traffic::{Arrivals, Mirror, Transfers},
};

const OPTIONS: [&str; 4] = ["--unencrypted-port", "8000", "--encrypted-port", "9000"];
const SERVER: [&str; 6] = ["python3", "-u", "-m", "http.server", "--bind", "::"];

/// A container with a mirror and a web server, and transfers through its raw tunnel.
struct Scene {
    lab: Lab,
    tenant: Tenant,
    _mirror: Mirror,
    _web: Running,
    transfers: Transfers,
}

impl Scene {
    fn new(arguments: &[&str]) -> Self {
        // Its sender does what a NIC does, for XDP's sake.
        let arguments = [&["--lease", "10m"], arguments].concat();
        let lab = Lab::with_wire(&arguments, |wire| wire.offloads_off());
        let tenant = Tenant::new(&lab.edge, "mirror", &OPTIONS);
        let mirror = Mirror::serve(&tenant.netns, 8000);
        let web = tenant.netns.command(SERVER[0]).args(&SERVER[1..]).arg("9000").running();
        let transfers = Transfers::start(&lab.internet, lab.raw(), 4);
        transfers.wait_for_more();
        Self { lab, tenant, _mirror: mirror, _web: web, transfers }
    }

    /// With the daemon down: packets flow; then with the next one, under the same names and ports.
    fn succeed(&mut self, before: &[Tunnel]) {
        self.transfers.wait_for_more();
        self.lab.edge.start();
        self.transfers.wait_for_more();
        assert_eq!(promises(&self.lab.edge.tunnels()), promises(before));
    }
}

/// What a tunnel's owner and clients rely on.
fn promises(tunnels: &[Tunnel]) -> Vec<(String, u16, String, String, Option<String>)> {
    let promise = |tunnel: &Tunnel| {
        let Tunnel { id, port, url, tls, tcp, .. } = tunnel.clone();
        (id, port, url, tls, tcp)
    };
    tunnels.iter().map(promise).collect()
}

fn raw(tunnels: &[Tunnel]) -> &Tunnel {
    tunnels.iter().find(|tunnel| tunnel.tcp.is_some()).expect("a raw tunnel")
}

trait RawSocket {
    fn raw(&self) -> std::net::SocketAddr;
}

impl RawSocket for Lab {
    fn raw(&self) -> std::net::SocketAddr {
        let port = raw(&self.edge.tunnels()).raw_port();
        format!("{}:{port}", Self::PUBLIC).parse().expect("an address")
    }
}

#[test]
fn a_killed_daemon_breaks_no_connection_and_refuses_no_new_one() {
    let mut scene = Scene::new(&[]);
    let tunnels = scene.lab.edge.tunnels();
    let arrivals = Arrivals::start(&scene.lab.internet, scene.lab.raw(), 100);
    arrivals.wait_for_more(10);
    for _ in 0..if long() { 100 } else { 5 } {
        let counted = raw(&scene.lab.edge.tunnels()).clone();
        scene.lab.edge.kill9();
        arrivals.wait_for_more(50);
        scene.succeed(&tunnels);
        let now = raw(&scene.lab.edge.tunnels()).clone();
        assert!(now.connections >= counted.connections + 50, "{counted:?}, then {now:?}");
        assert!(now.bytes_in > counted.bytes_in, "{counted:?}, then {now:?}");
        answers_over_tls(&scene.lab, &tunnels);
        arrivals.wait_for_more(50);
    }
    arrivals.finish();
    scene.transfers.finish();
    let container = &scene.lab.edge.containers()[0];
    assert_eq!(
        (&container.id, &container.ipv4),
        (&scene.tenant.container.id, &scene.tenant.container.ipv4)
    );
}

fn answers_over_tls(lab: &Lab, tunnels: &[Tunnel]) {
    let url = &tunnels.iter().find(|tunnel| tunnel.port == 9000).expect("a TLS tunnel").url;
    lab.curl(&lab.internet, &["--connect-to", &format!("::{}:443", Lab::PUBLIC), url]);
}

#[test]
fn a_daemon_that_is_stopped_for_a_restart_leaves_what_lives_and_one_that_ends_does_not() {
    let mut scene = Scene::new(&["--datapath", "xdp"]);
    let tunnels = scene.lab.edge.tunnels();
    scene.lab.edge.stop_for_restart();
    scene.succeed(&tunnels);
    scene.transfers.finish();
    scene.lab.edge.stop();
    let left = Snapshot::of(&scene.lab.machine, scene.lab.edge.instance());
    assert!(!left.has("pin") && !left.has("edge_") && !left.has("-service"), "{left:?}");
    for name in ["service.ns", "leased.redb", "sysctl.json", "edge.sock"] {
        assert!(!run_dir(&scene.lab.edge).join(name).exists(), "{name} is left");
    }
}

#[test]
fn with_no_container_a_stop_for_a_restart_leaves_nothing() {
    let mut lab = Lab::stopped(&[]);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    lab.edge.start();
    lab.edge.stop_for_restart();
    before.assert_unchanged();
}

#[test]
fn tables_of_another_layout_are_filled_anew_and_break_no_connection() {
    let mut scene = Scene::new(&[]);
    let tunnels = scene.lab.edge.tunnels();
    let pins = PathBuf::from("/sys/fs/bpf/edge").join(scene.lab.edge.instance());
    let own = pins.join(format!("v{LAYOUT}"));
    let log = |edge: &mut Edge| edge.daemon().printed();

    // Of an older layout, as far as anybody can tell.
    scene.lab.edge.kill9();
    fs::rename(&own, pins.join("v0")).expect("pins of this layout");
    scene.succeed(&tunnels);
    assert!(log(&mut scene.lab.edge).contains("of layout v0"), "{}", log(&mut scene.lab.edge));
    assert!(!pins.join("v0").exists(), "the old layout is left");

    // Of this layout by name, and of another shape.
    scene.lab.edge.kill9();
    for (from, to) in [("TUNNELS", "swap"), ("ADDRESSES", "TUNNELS"), ("swap", "ADDRESSES")] {
        let maps = own.join("maps");
        fs::rename(maps.join(from), maps.join(to)).expect("a table that is pinned");
    }
    scene.succeed(&tunnels);
    assert!(log(&mut scene.lab.edge).contains("has another shape"), "{}", log(&mut scene.lab.edge));
    scene.transfers.finish();
}

#[test]
fn records_of_another_version_are_refused_and_left_alone() {
    const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
    let mut scene = Scene::new(&[]);
    let tunnels = scene.lab.edge.tunnels();
    let records = run_dir(&scene.lab.edge).join("leased.redb");
    let set_layout = |layout: u64| {
        let database = Database::open(&records).expect("the records");
        let transaction = database.begin_write().expect("a transaction");
        transaction.open_table(META).unwrap().insert("layout", layout).unwrap();
        transaction.commit().expect("a commit");
    };
    scene.lab.edge.kill9();
    set_layout(99);
    let state = scene.lab.edge.folder().to_str().expect("a path").to_owned();
    let refused = scene.lab.edge.cli(&["up", "--state-dir", &state, "--uplink", "up0"]).refused();
    let told = refused.stderr.contains("leased.redb has layout 99");
    assert!(told && refused.stderr.contains("run the version of edge that wrote it"), "{refused}");
    // Nothing was touched.
    scene.transfers.wait_for_more();
    set_layout(1);
    scene.succeed(&tunnels);
    scene.transfers.finish();
}

#[test]
fn a_container_that_ended_meanwhile_is_forgotten_and_its_port_rests() {
    let mut lab = Lab::new(&["--raw-ports", "20000-20001"]);
    let idle = Snapshot::of(&lab.machine, lab.edge.instance());
    let (mut container, tunnel) =
        lab.serve(&["--unencrypted-port", "8000"], 8000, &[&SERVER[..], &["8000"]].concat());
    lab.edge.kill9();
    container.kill();
    // The kernel takes its time with the namespace.
    lab.edge.start();
    wait_for("nothing to be listed", PATIENCE, || {
        (lab.edge.tunnels().is_empty() && lab.edge.containers().is_empty()).then_some(())
    });
    idle.assert_unchanged();
    let (_next, other) =
        lab.serve(&["--unencrypted-port", "8000"], 8000, &[&SERVER[..], &["8000"]].concat());
    assert_ne!(other.tcp, tunnel.tcp, "a port rests before it is another's");
    let third = lab.edge.cli(&["run", "--unencrypted-port", "8000", "--", "true"]).refused();
    assert!(third.stderr.contains("no raw TCP port is left"), "{third}");
}

fn run_dir(edge: &Edge) -> PathBuf {
    edge.folder().join("run")
}
