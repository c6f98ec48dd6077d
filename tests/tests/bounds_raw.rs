//! What bounds a raw TCP tunnel in the kernel: who may send to it, and how often connections open.
//! Over a bound a packet is refused by name and counted, and nobody else notices.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use socket2::{Domain, Socket, Type};
use tests::{
    echo::{Echo, round_trip},
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Start as _, wait_for},
    tap::Tap,
    tenant::Tenant,
};

/// A second address of the internet.
const STRANGER: &str = "192.0.2.21";
/// See [`STRANGER`]; IPv6.
const STRANGER_V6: &str = "2001:db8::21";
/// Refusals after which a flood has shown what it can do.
const FLOOD: f64 = 500.0;

/// A container that gives everything back, and its tunnel.
struct Site {
    tenant: Tenant,
    echo: Echo,
    tunnel: Tunnel,
}

impl Site {
    fn new(lab: &Lab, name: &str, options: &[&str]) -> Self {
        let raw = ["--unencrypted-port", "8000", "--native-ipv6"];
        let tenant = Tenant::new(&lab.edge, name, &[&raw, options].concat());
        let echo = Echo::serve(&tenant.netns, 8000);
        let of = |tunnel: &Tunnel| tunnel.container == name;
        let tunnel = lab.edge.tunnels().into_iter().find(of).expect("a tunnel");
        Self { tenant, echo, tunnel }
    }

    fn at(&self, address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().expect("an address"), self.tunnel.raw_port())
    }

    /// Whether the container itself has seen a client.
    fn met(&self, client: &str) -> bool {
        self.echo.saw(client)
    }
}

fn with_strangers(arguments: &[&str]) -> Lab {
    let lab = Lab::new(arguments);
    lab.internet.ip(&["address", "add", &format!("{STRANGER}/24"), "dev", "eth0"]);
    lab.internet.ip(&["address", "add", &format!("{STRANGER_V6}/64"), "dev", "eth0", "nodad"]);
    lab
}

/// Begins to connect from an address of a namespace; the kernel repeats the SYN by itself.
fn knock(from: &NetNs, source: &str, to: SocketAddr) -> Socket {
    from.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        let source: IpAddr = source.parse().expect("an address");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("the client's address");
        socket.set_nonblocking(true).expect("a non-blocking socket");
        socket.connect(&to.into()).expect_err("nothing connects at once");
        socket
    })
}

fn connected(socket: &Socket) -> bool {
    socket.peer_addr().is_ok()
}

fn refused(lab: &Lab, verdict: &str) -> f64 {
    ["xdp_uplink", "tc_uplink"].map(|hook| lab.edge.metrics().packets(hook, verdict)).iter().sum()
}

fn wait_refused(lab: &Lab, verdict: &str, more_than: f64) {
    wait_for(&format!("{verdict} to be counted"), PATIENCE, || {
        (refused(lab, verdict) > more_than).then_some(())
    });
}

#[test]
fn only_clients_on_the_list_reach_the_container() {
    let lab = with_strangers(&[]);
    let allow = ["--allow", "192.0.2.20/32", "--allow", Lab::CLIENT_V6];
    let listed = Site::new(&lab, "listed", &allow);
    let open = Site::new(&lab, "open", &[]);
    for (public, client, stranger) in
        [(Lab::PUBLIC, Lab::CLIENT, STRANGER), (Lab::PUBLIC_V6, Lab::CLIENT_V6, STRANGER_V6)]
    {
        let before = refused(&lab, "not_allowed");
        let outside = knock(&lab.internet, stranger, listed.at(public));
        wait_refused(&lab, "not_allowed", before);
        let beside = knock(&lab.internet, stranger, open.at(public));
        wait_for("a neighbour's client", PATIENCE, || connected(&beside).then_some(()));
        let inside = knock(&lab.internet, client, listed.at(public));
        wait_for("a client on the list", PATIENCE, || connected(&inside).then_some(()));
        assert!(!connected(&outside), "{stranger} is not on the list");

        // Without a SYN either: it would tell a stranger that somebody is there.
        let before = refused(&lab, "not_allowed");
        let end = SocketAddr::new(stranger.parse().expect("an address"), 1000);
        lab.tap_to_machine().tcp(end, listed.at(public), false, "knock");
        wait_refused(&lab, "not_allowed", before);
        wait_for("the client in the container", PATIENCE, || listed.met(client).then_some(()));
        assert!(!listed.met(stranger));
    }
    let shown = lab.edge.cli(&["tunnels"]).ok();
    assert!(shown.stdout.contains("192.0.2.20/32 and 1 more"), "{shown}");
}

#[test]
fn a_tunnel_that_ends_takes_its_list_with_it() {
    let lab = with_strangers(&[]);
    let rows = |lab: &Lab| lab.edge.metrics().value("edge_table_rows{table=\"LISTS\"}");
    let listed = Site::new(&lab, "listed", &["--allow", Lab::CLIENT, "--new-connections", "1/1"]);
    assert_eq!(rows(&lab), 1.0);
    drop(listed.echo);
    listed.tenant.detach();
    wait_for("the list to be gone", PATIENCE, || (rows(&lab) == 0.0).then_some(()));
    // The next one has its place in the tables.
    let open = Site::new(&lab, "open", &[]);
    let clients = [(); 5].map(|()| knock(&lab.internet, STRANGER, open.at(Lab::PUBLIC)));
    wait_for("all clients", PATIENCE, || clients.iter().all(connected).then_some(()));
    assert_eq!(refused(&lab, "not_allowed") + refused(&lab, "tunnel_rate"), 0.0);
}

#[test]
fn one_source_that_floods_is_alone_with_it() {
    for datapath in ["tcx", "xdp"] {
        let lab = Lab::with_wire(&["--datapath", datapath], |wire| wire.offloads_off());
        lab.internet.ip(&["address", "add", &format!("{STRANGER}/24"), "dev", "eth0"]);
        let site = Site::new(&lab, "site", &["--new-connections-per-source", "1/5"]);
        let tap = lab.tap_to_machine();
        let mut port = 1024;
        wait_for("the flood to be refused", PATIENCE, || {
            for _ in 0..100 {
                port += 1;
                let source = SocketAddr::new(STRANGER.parse().expect("an address"), port);
                tap.tcp(source, site.at(Lab::PUBLIC), true, "");
            }
            (refused(&lab, "source_rate") >= FLOOD).then_some(())
        });
        round_trip(&lab.internet, site.at(Lab::PUBLIC), 10_000);
        assert!(site.met(Lab::CLIENT));
        assert_eq!(refused(&lab, "tunnel_rate"), 0.0);
        // After it the source is served again.
        let again = knock(&lab.internet, STRANGER, site.at(Lab::PUBLIC));
        wait_for("the flooder, when it knocks as others do", PATIENCE, || {
            connected(&again).then_some(())
        });
    }
}

#[test]
fn a_flood_of_forged_sources_locks_nobody_out() {
    let lab = with_strangers(&[]);
    let open = Site::new(&lab, "open", &[]);
    let bounded = Site::new(&lab, "bounded", &["--new-connections", "1/5"]);
    let tap = lab.tap_to_machine();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let sites = [open.at(Lab::PUBLIC), bounded.at(Lab::PUBLIC)];
            flood(&tap, sites, &over);
        });
        wait_refused(&lab, "tunnel_rate", FLOOD);
        // Under the flood: a tunnel that is bounded as a whole is not the others' trouble, and one
        // without that bound leaves it to the container's own kernel, which answers with cookies.
        for _ in 0..20 {
            round_trip(&lab.internet, open.at(Lab::PUBLIC), 1000);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(refused(&lab, "source_rate"), 0.0, "each source knocked once");
    let after = knock(&lab.internet, STRANGER, bounded.at(Lab::PUBLIC));
    wait_for("a client after the flood", PATIENCE, || connected(&after).then_some(()));
    round_trip(&lab.internet, open.at(Lab::PUBLIC), 1000);
}

/// SYNs from sources that nobody has, each once, until it is over.
fn flood(tap: &Tap, sites: [SocketAddr; 2], over: &AtomicBool) {
    let first = u32::from(Ipv4Addr::new(11, 0, 0, 1));
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let source = SocketAddr::new(Ipv4Addr::from(first + number).into(), 1000);
        for site in sites {
            tap.tcp(source, site, true, "");
        }
    }
}

#[test]
fn a_container_cannot_go_beyond_what_the_operator_laid_down() {
    let lab = Lab::new(&["--allow", "192.0.2.0/24", "--max-connections", "10"]);
    let wanted = ["--allow", "0.0.0.0/0", "--max-connections", "none", "--idle", "5m"];
    let tenant = Tenant::new(&lab.edge, "tenant", &[]);
    let forward = |port: &str, options: &[&str]| {
        let mut command = tenant.netns.command(tests::edge::program());
        command.args(["forward", "--unencrypted", port]).args(options);
        command
    };
    let _held = forward("8000", &wanted).running();
    let listed = || lab.edge.cli(&["tunnels", "--json"]).ok().stdout;
    let tunnel = wait_for("the tunnel", PATIENCE, || {
        let list: Vec<serde_json::Value> = serde_json::from_str(&listed()).expect("JSON");
        list.into_iter().next()
    });
    assert_eq!(tunnel["allow"], serde_json::json!(["192.0.2.0/24"]));
    assert_eq!(tunnel["bounds"]["connections"], 10);
    assert_eq!(tunnel["bounds"]["idle_milliseconds"], 300_000);

    let nobody = forward("8001", &["--allow", "198.51.100.0/24"]).output_of().refused();
    assert!(nobody.stderr.contains("the operator lets none of these addresses in"), "{nobody}");

    // The operator's own word holds.
    let options = [&["--unencrypted-port", "8000"], &wanted[..]].concat();
    let _own = Tenant::new(&lab.edge, "own", &options);
    let list: Vec<serde_json::Value> = serde_json::from_str(&listed()).expect("JSON");
    let own = list.iter().find(|tunnel| tunnel["container"] == "own").expect("a tunnel");
    assert_eq!(own["allow"], serde_json::json!(["0.0.0.0/0"]));
    assert_eq!(own["bounds"]["connections"], serde_json::Value::Null);
}

#[test]
fn a_list_outlives_the_daemon_and_goes_with_its_tunnel() {
    let mut lab = with_strangers(&[]);
    let rows = |lab: &Lab| lab.edge.metrics().value("edge_table_rows{table=\"LISTS\"}");
    let listed = Site::new(&lab, "listed", &["--allow", Lab::CLIENT]);
    lab.edge.kill9();
    let outside = knock(&lab.internet, STRANGER, listed.at(Lab::PUBLIC));
    let inside = knock(&lab.internet, Lab::CLIENT, listed.at(Lab::PUBLIC));
    wait_for("a client without a daemon", PATIENCE, || connected(&inside).then_some(()));
    assert!(!connected(&outside), "{STRANGER} is not on the list");

    lab.edge.start();
    assert_eq!(rows(&lab), 1.0);
    let before = refused(&lab, "not_allowed");
    let again = knock(&lab.internet, STRANGER, listed.at(Lab::PUBLIC));
    wait_refused(&lab, "not_allowed", before);
    assert!(!connected(&again) && !listed.met(STRANGER));

    // A container that went while nobody looked takes its list with it, too.
    lab.edge.kill9();
    drop(listed);
    lab.edge.start();
    wait_for("the list to be gone", PATIENCE, || (rows(&lab) == 0.0).then_some(()));
}
