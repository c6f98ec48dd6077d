//! Static outbound addresses on one machine: what a proxied container sends leaves under its
//! proxy's address or not at all, whatever it sends and whatever happens.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use tests::{
    echo::{Echo, round_trip},
    edge,
    lab::{Lab, PATIENCE},
    postgres::Database,
    process::{Start as _, wait_for},
    region::Scene,
    resolver::Resolver,
    talk::Listener,
    tenant::Tenant,
    visitors::{Visitors, only},
};

/// Addresses that the operator lets edge put on the uplink.
const NETWORK: &str = "192.0.2.64/28";
const ONE: &str = "192.0.2.65";
const TWO: &str = "192.0.2.66";

fn lab() -> Lab {
    Lab::new(&["--proxy-addresses", NETWORK])
}

fn visitors(lab: &Lab) -> Visitors {
    Visitors::at(&lab.internet, Scene::CLIENT)
}

#[test]
fn a_proxied_container_is_seen_under_its_address_and_another_as_before() {
    let mut lab = lab();
    let made = lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    assert_eq!(made.stdout_str(), format!("proxy db: {ONE} ONLINE"));
    let visitors = visitors(&lab);
    let proxied = Tenant::new(&lab.edge, "proxied", &["--proxy", "db"]);
    let plain = Tenant::new(&lab.edge, "plain", &[]);
    assert_eq!(visitors.visited_by(&proxied.netns, 30), only(ONE));
    assert_eq!(visitors.visited_by(&plain.netns, 10), only(Lab::PUBLIC));
    assert_eq!(proxied.container.proxy.as_deref(), Some("db"));
    assert_eq!(proxied.container.proxy_ip.as_deref(), Some(ONE));
    assert_eq!(
        (proxied.container.egress.as_str(), plain.container.egress.as_str()),
        ("proxy", "nat")
    );
    assert!(lab.edge.metrics().packets("tc_container", "proxied") > 60.0);
    // All of it is counted, and once.
    let edge = &lab.edge;
    let metrics = || edge.metrics();
    let out = ["direction=\"out\"", "address=\"192.0.2.65\""];
    let before = metrics().sum("edge_proxy_packets_total", &out);
    assert!(metrics().sum("edge_proxy_connections_total", &[]) >= 61.0);
    proxied.netns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..100 {
            socket.send_to(b"counted", (Lab::CLIENT, 9)).unwrap();
        }
    });
    wait_for("all to be counted", PATIENCE, || {
        (metrics().sum("edge_proxy_packets_total", &out) - before >= 100.0).then_some(())
    });
    // The ends of earlier connections may be among them.
    let counted = metrics().sum("edge_proxy_packets_total", &out) - before;
    assert!(counted < 150.0, "{counted} packets");
    // Nobody but source NAT listens on the address.
    let to = SocketAddr::new(ONE.parse().unwrap(), 443);
    let dialled =
        lab.internet.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert_eq!(dialled.unwrap_err().kind(), ErrorKind::TimedOut, "somebody answers there");
    let knocks = metrics().sum("edge_proxy_unsolicited_packets_total", &[out[1]]);
    assert!(knocks >= 1.0);
    let dropped = ["reason=\"unsolicited\""];
    assert_eq!(metrics().sum("edge_proxy_dropped_packets_total", &dropped), knocks);
    let shown = &edge.proxy("db")["ips"][0];
    let counted = metrics().sum("edge_proxy_bytes_total", &out);
    assert_eq!(shown["traffic"]["bytes_out"].as_f64(), Some(counted), "{shown}");
    assert_eq!(shown["traffic"]["unsolicited_packets"].as_f64(), Some(knocks), "{shown}");
    let table = edge.cli(&["proxy", "show", "db"]).ok();
    assert!(table.stdout.contains("UNSOLICITED") && table.stdout.contains("ONLINE"), "{table}");
    // A container that is gone has been counted, and a daemon's end is no beginning anew.
    let sums = |metrics: tests::metrics::Metrics| {
        let direction = |direction: &str| {
            let labels = [out[1], &format!("direction=\"{direction}\"")];
            metrics.sum("edge_proxy_bytes_total", &labels)
        };
        let connections = metrics.sum("edge_proxy_connections_total", &[]);
        (direction("out"), direction("in"), connections)
    };
    drop(proxied);
    let before = sums(metrics());
    assert!(before.0 > 0.0 && before.1 > 0.0 && before.2 >= 61.0, "{before:?}");
    lab.edge.kill9();
    lab.edge.start();
    assert_eq!(sums(lab.edge.metrics()), before);
    let old = lab.edge.replace(&[]);
    assert_eq!(sums(lab.edge.metrics()), before);
    drop(old);
}

#[test]
fn five_addresses_are_given_evenly_and_kept() {
    let lab = lab();
    let ips: Vec<_> = (65..70).map(|last| format!("192.0.2.{last}")).collect();
    let mut words = vec!["proxy", "create", "many"];
    words.extend(ips.iter().flat_map(|ip| ["--ip", ip.as_str()]));
    lab.edge.cli(&words).ok();
    let visitors = visitors(&lab);
    let tenants: Vec<_> = (0..5)
        .map(|number| Tenant::new(&lab.edge, &format!("t{number}"), &["--proxy", "many"]))
        .collect();
    let mut seen = BTreeSet::new();
    for tenant in &tenants {
        let own = visitors.visited_by(&tenant.netns, 4);
        assert_eq!(own, only(tenant.container.proxy_ip.as_ref().unwrap()));
        seen.extend(own);
    }
    assert_eq!(seen.len(), 5, "each has its own");
}

#[test]
fn nothing_leaves_by_another_way() {
    let lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let visitors = visitors(&lab);
    let options = ["--proxy", "db", "--unencrypted-port", "8000"];
    let tenant = Tenant::new(&lab.edge, "a", &options);
    let tap = tenant.tap();
    let client = |port| SocketAddr::new(Lab::CLIENT.parse().unwrap(), port);
    let own = |port| SocketAddr::from((tenant.ipv4(), port));
    // All that may leave, leaves under the address: also what looks like a raw tunnel's answer,
    // other protocols, and DNS to another server.
    tap.tcp(own(8000), client(9), false, "like an answer");
    tap.tcp(own(1000), client(9), false, "no connection");
    tap.udp(own(1000), client(53), "dns to another");
    tap.other(own(0).ip(), client(0).ip(), 47.into(), "generic routing");
    tap.other(own(0).ip(), client(0).ip(), 132.into(), "sctp, or so");
    // And nothing of this at all.
    let i6pn = SocketAddr::from((tenant.i6pn(), 1000));
    let client_v6 = |port| SocketAddr::new(Lab::CLIENT_V6.parse().unwrap(), port);
    tap.udp(i6pn, client_v6(53), "by IPv6");
    tap.udp((Ipv4Addr::new(100, 64, 0, 99), 1000).into(), client(53), "forged");
    tap.udp((Ipv4Addr::new(192, 0, 2, 10), 1000).into(), client(53), "forged, the machine's");
    tap.udp(own(1000), client(53), "the last");
    wait_for("the last", PATIENCE, || visitors.saw("the last").then_some(()));
    let expected = only(ONE);
    for text in ["no connection", "dns to another", "generic routing", "the last"] {
        assert_eq!(visitors.sources_of(text), expected, "{text}");
    }
    for text in ["like an answer", "sctp, or so"] {
        assert!(visitors.sources_of(text).is_subset(&expected), "{text}");
    }
    for text in ["by IPv6", "forged"] {
        assert!(!visitors.saw(text), "{text}");
    }
    assert!(lab.edge.metrics().packets("tc_container", "no_ipv6_egress") > 0.0);

    // Its tunnels work all the same.
    let _echo = Echo::serve(&tenant.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    assert_eq!(tunnel.path, "userspace");
    for address in [Lab::PUBLIC, Lab::PUBLIC_V6] {
        let to = SocketAddr::new(address.parse().unwrap(), tunnel.raw_port());
        round_trip(&lab.internet, to, 1 << 20);
    }
}

#[test]
fn without_an_address_egress_stops_and_the_rest_goes_on() {
    let lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let visitors = visitors(&lab);
    let a = Tenant::new(&lab.edge, "a", &["--proxy", "db", "--i6pn"]);
    let b = Tenant::new(&lab.edge, "b", &["--i6pn"]);
    assert_eq!(visitors.visited_by(&a.netns, 1), only(ONE));
    lab.edge.cli(&["proxy", "delete", "db"]).ok();
    visitors.refuse(&a.netns);
    let tap = a.tap();
    let client = |port| SocketAddr::new(Lab::CLIENT.parse().unwrap(), port);
    tap.udp((a.ipv4(), 1000).into(), client(53), "a question");
    assert!(lab.edge.metrics().packets("tc_container", "proxy_away") > 0.0);
    assert!(lab.edge.containers()[0].proxy_problem.as_ref().unwrap().contains("edge proxy create"));
    let _echo = Echo::serve(&b.netns, 8000);
    round_trip(&a.netns, SocketAddr::from((b.i6pn(), 8000)), 1 << 16);
    // A proxy that no gateway serves is none.
    lab.edge.cli(&["proxy", "create", "db", "--ip", "198.51.100.9"]).ok();
    visitors.refuse(&a.netns);
    assert!(lab.edge.containers()[0].proxy_problem.as_ref().unwrap().contains("198.51.100.9"));
    lab.edge.cli(&["proxy", "add-ip", "db", "--ip", TWO]).ok();
    lab.edge.cli(&["proxy", "remove-ip", "db", "--ip", "198.51.100.9"]).ok();
    assert_eq!(visitors.visited_by(&a.netns, 5), only(TWO));
    assert!(!visitors.saw("a question"));
    let unknown = lab.edge.cli(&["run", "--proxy", "nothing", "--", "true"]).refused();
    assert!(unknown.stderr.contains("edge proxy create"), "{unknown}");
}

#[test]
fn two_workspaces_may_use_the_same_name() {
    let lab = lab();
    for (workspace, ip) in [("one", ONE), ("two", TWO)] {
        lab.edge.cli(&["proxy", "create", "db", "--workspace", workspace, "--ip", ip]).ok();
    }
    let taken = lab.edge.cli(&["proxy", "create", "other", "--ip", ONE]).refused();
    assert!(taken.stderr.contains("one/db"), "{taken}");
    let visitors = visitors(&lab);
    for (workspace, ip) in [("one", ONE), ("two", TWO)] {
        let options = ["--proxy", "db", "--workspace", workspace];
        let tenant = Tenant::new(&lab.edge, workspace, &options);
        assert_eq!(visitors.visited_by(&tenant.netns, 5), only(ip));
    }
}

#[test]
fn questions_for_names_leave_by_the_proxy() {
    let lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let resolver = Resolver::in_place(&lab.internet);
    let proxied = Tenant::new(&lab.edge, "proxied", &["--proxy", "db"]);
    let plain = Tenant::new(&lab.edge, "plain", &[]);
    for (tenant, seen) in [(&proxied, ONE), (&plain, Lab::PUBLIC)] {
        let before = resolver.askers().len();
        assert_eq!(tenant.dns_code("example.com"), 0);
        let askers: BTreeSet<_> = resolver.askers()[before..].iter().copied().collect();
        assert_eq!(askers, only(seen));
    }
    lab.edge.cli(&["proxy", "delete", "db"]).ok();
    let before = resolver.askers().len();
    const FAILED: u8 = 2;
    assert_eq!(proxied.dns_code("secret.example.com"), FAILED);
    assert_eq!(resolver.askers().len(), before, "the question has left by another way");
}

#[test]
fn a_connection_outlives_daemons_and_drains_with_its_address() {
    let mut lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let listener = Listener::at(&lab.internet, Lab::CLIENT.parse::<IpAddr>().unwrap());
    let tenant = Tenant::new(&lab.edge, "a", &["--proxy", "db"]);
    let talk = listener.dial(&tenant.netns);
    talk.say().unwrap();
    lab.edge.kill9();
    talk.say().expect("without a daemon");
    lab.edge.start();
    talk.say().expect("with the next one");
    let old = lab.edge.replace(&[]);
    talk.say().expect("with its successor");
    drop(old);

    lab.edge.cli(&["proxy", "add-ip", "db", "--ip", TWO]).ok();
    let removed = lab.edge.cli(&["proxy", "remove-ip", "db", "--ip", ONE, "--drain", "3s"]).ok();
    assert_eq!(removed.stdout_str(), format!("proxy db: {ONE} TERMINATED, {TWO} ONLINE"));
    let visitors = visitors(&lab);
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(TWO), "what is new");
    talk.say().expect("what is old");
    wait_for("the drain to be over", PATIENCE, || {
        let addresses = lab.machine.ip(&["-4", "address", "show", "dev", "up0"]);
        (!addresses.contains(ONE)).then_some(())
    });
    talk.hurry(Duration::from_millis(500));
    // NAT follows the address.
    wait_for("what is old to end", PATIENCE, || talk.say().err());
    lab.edge.stop();
    let addresses = lab.machine.ip(&["-4", "address", "show", "dev", "up0"]);
    assert!(!addresses.contains(TWO), "left behind: {addresses}");
}

#[test]
fn modals_package_finds_its_workspaces_proxy() {
    let lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    lab.edge.cli(&["proxy", "create", "hidden", "--workspace", "other", "--ip", TWO]).ok();
    let script = "
import asyncio, modal
from modal._load_context import LoadContext
from modal._resolver import Resolver
from modal._utils.async_utils import TaskContext
from modal.client import _Client
from modal.proxy import _Proxy

async def main():
    client = await _Client.from_env()
    async with TaskContext() as tasks:
        # What the package does with a function's proxy where it is deployed.
        context = LoadContext(client=client, environment_name='main', task_context=tasks)
        proxy = await Resolver().load(_Proxy.from_name('db'), context)
        assert proxy.object_id.startswith('pr-'), proxy.object_id
        for name in ('hidden', 'nothing'):
            try:
                await _Proxy.from_name(name)._load(_Proxy.from_name(name), None, context, None)
            except modal.exception.NotFoundError:
                continue
            raise AssertionError(name)
    print('found', proxy.object_id)

asyncio.run(main())
";
    let python = edge::venv().join("bin/python");
    let python = python.to_str().expect("a readable path");
    let output = lab.edge.cli(&["run", "--proxy", "db", "--", python, "-c", script]).ok();
    assert!(output.stdout.contains("found pr-"), "{output}");
}

#[test]
fn a_database_lets_the_proxys_address_in_and_no_other() {
    let lab = lab();
    lab.edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let database = Database::new(&format!("host all all {ONE}/32 trust"));
    let words = database.server();
    let mut server = lab.internet.command(&words[0]);
    let _server = server.args(&words[1..]).running();
    let query = ["--", "psql", "-h", Lab::CLIENT, "-U", "postgres", "-Atc", "select 6 * 7"];
    let asked = |options: &[&str]| lab.edge.cli(&[&["run"], options, &query[..]].concat());
    let answer = wait_for("the database", PATIENCE, || {
        let output = asked(&["--proxy", "db"]);
        output.status.success().then_some(output)
    });
    assert_eq!(answer.stdout_str(), "42");
    let refused = asked(&[]);
    let why = format!("no pg_hba.conf entry for host \"{}\"", Lab::PUBLIC);
    assert!(refused.stderr.contains(&why), "{refused}");
}
