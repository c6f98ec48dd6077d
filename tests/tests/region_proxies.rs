//! Static outbound addresses in a region: containers of hosts leave by WireGuard and the gateway
//! that serves their address.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use tests::{
    echo::round_trip,
    lab::PATIENCE,
    process::wait_for,
    region::{Machine, Plan, Region, Scene, Underlay},
    talk::Listener,
    tap::Tap,
    tenant::Tenant,
    visitors::{Visitors, only},
};

const NETWORK: &str = "192.0.2.64/28";
const ONE: &str = "192.0.2.65";
const TWO: &str = "192.0.2.66";
/// More than any buffer on the way holds.
const DOWNLOAD: usize = 10 << 20;

/// A container of the first host, seen under the one address of its proxy, and who sees it.
#[track_caller]
fn proxied(region: &Region) -> (Tenant, Visitors) {
    region.gateway().edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
    let tenant = region.hosts[0].tenant("proxied", &["--proxy", "db"]);
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));
    (tenant, visitors)
}

fn region(plan: Plan) -> Region {
    plan.gateway_arguments_more(&["--proxy-addresses", NETWORK]).up()
}

#[test]
fn containers_of_hosts_are_seen_under_their_address() {
    for underlay in Underlay::ALL {
        let region = region(Plan::over(underlay).hosts(2));
        region.gateway().edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
        let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
        let mut proxied = Vec::new();
        for (number, machine) in region.machines().enumerate() {
            let tenant = machine.tenant(&format!("proxied{number}"), &["--proxy", "db"]);
            assert_eq!(visitors.visited_by(&tenant.netns, 10), only(ONE), "{underlay}: {number}");
            let plain = machine.tenant(&format!("plain{number}"), &[]);
            let own = machine.place.public.to_string();
            assert_eq!(visitors.visited_by(&plain.netns, 3), only(&own), "{underlay}: {number}");
            proxied.push(tenant);
        }
        let host = &region.hosts[0].edge;
        assert!(host.metrics().packets("tc_container", "proxied") > 20.0, "{underlay}");
        let shown = wait_for("the host to tell of its way", PATIENCE, || {
            let shown = host.proxy("db");
            shown["ips"][0]["handshake_age_ms"].is_u64().then_some(shown)
        });
        let (one, path) = (&shown["ips"][0], &shown["paths"][0]);
        assert_eq!((one["status"].as_str(), &one["problem"]), (Some("ONLINE"), &Value::Null));
        assert_eq!(path["toward"], "gateway", "{shown}");
        assert!(path["bytes_sent"].as_u64() > Some(1000), "{shown}");
        // The host asks the gateway what that has counted: connections of all three machines.
        let gateway = &region.gateway().edge;
        let connections = gateway.metrics().sum("edge_proxy_connections_total", &[]);
        assert!(connections >= 63.0, "{connections}");
        assert_eq!(one["traffic"]["connections"].as_f64(), Some(connections), "{shown}");
        for metrics in [host.metrics(), gateway.metrics()] {
            assert!(metrics.sum("edge_proxy_path_bytes_total", &["direction=\"in\""]) > 1000.0);
        }
        wait_for("a gateway's answer", PATIENCE, || {
            let took = host.metrics().sum("edge_proxy_path_round_trip_seconds", &[]);
            (took > 0.0).then_some(())
        });
        let senders = gateway.proxy("db")["paths"].as_array().cloned().unwrap_or_default();
        assert_eq!(
            senders.iter().filter(|path| path["toward"] == "host").count(),
            2,
            "{senders:?}"
        );
        let unknown = host.cli(&["run", "--proxy", "nothing", "--", "true"]).refused();
        assert!(unknown.stderr.contains("no proxy"), "{unknown}");
        let refused = host.cli(&["proxy", "create", "x", "--ip", TWO]).refused();
        assert!(refused.stderr.contains("on a gateway"), "{refused}");
    }
}

#[test]
fn large_transfers_pass_whatever_the_underlay_carries() {
    // In Geneve an underlay must carry more than 1280 bytes.
    for (underlay, mtu) in [(Underlay::V4, 1500), (Underlay::V4, 1316), (Underlay::Direct, 1280)] {
        let region = region(Plan::over(underlay).hosts(1).mtu(mtu));
        region.gateway().edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
        let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
        let tenant = region.hosts[0].tenant("proxied", &["--proxy", "db"]);
        round_trip(&tenant.netns, visitors.tcp(), DOWNLOAD);
        assert_eq!(visitors.visited_by(&tenant.netns, 1), only(ONE), "{underlay}, {mtu}");
        // What comes out of WireGuard at either end is merged before it goes to the kernel: on
        // average, with acknowledgements, a packet is larger than any could be by itself.
        for (machine, ending) in [(region.gateway(), "-in"), (&region.hosts[0], "-g1")] {
            let [bytes, packets] = received(machine, ending);
            assert!(bytes / packets > u64::from(mtu), "{underlay}, {mtu}: {bytes} B, {packets}");
        }
    }
}

/// Bytes and packets that came by the WireGuard interface whose name ends so.
fn received(machine: &Machine, ending: &str) -> [u64; 2] {
    let name = machine.wireguard(ending).expect("the interface");
    let words = ["-json", "-stats", "link", "show", "dev", &name];
    let links: Value = serde_json::from_str(&machine.place.netns.ip(&words)).expect("JSON");
    ["bytes", "packets"].map(|what| links[0]["stats64"]["rx"][what].as_u64().expect("a number"))
}

#[test]
fn without_its_address_a_hosts_container_has_no_way_out() {
    let region = region(Plan::over(Underlay::V4).hosts(1));
    let gateway = &region.gateway().edge;
    gateway.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
    let host = &region.hosts[0];
    let tenant = host.tenant("proxied", &["--proxy", "db", "--unencrypted-port", "8000"]);
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));

    gateway.cli(&["proxy", "delete", "db"]).ok();
    let problem = || host.edge.containers()[0].proxy_problem.clone();
    wait_for("the host to hear of it", PATIENCE, problem);
    visitors.refuse(&tenant.netns);
    gateway.cli(&["proxy", "create", "db", "--ip", TWO]).ok();
    wait_for("the host to hear of the next", PATIENCE, || problem().is_none().then_some(()));
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(TWO));

    // What looks like an answer of its raw tunnel goes the same way, and the tunnel works.
    let own = |port| SocketAddr::from((tenant.ipv4(), port));
    let client = SocketAddr::from((Scene::CLIENT, 9));
    tenant.tap().tcp(own(8000), client, false, "like an answer");
    tenant.tap().udp(own(1000), client, "the last");
    wait_for("the last", PATIENCE, || visitors.saw("the last").then_some(()));
    let expected = only(TWO);
    assert!(visitors.sources_of("like an answer").is_subset(&expected));
    let _echo = tests::echo::Echo::serve(&tenant.netns, 8000);
    for to in region.gateway().raw(&host.tunnel(&tenant, 8000)) {
        round_trip(&region.scene.internet, to, 1 << 16);
    }
}

#[test]
fn a_gateway_that_does_not_answer_is_no_way_out() {
    let mut region = region(Plan::over(Underlay::V4).hosts(1));
    let (tenant, visitors) = proxied(&region);
    let listener = Listener::at(&region.scene.internet, Scene::CLIENT);
    let talk = listener.dial(&tenant.netns);
    talk.say().unwrap();

    region.gateways[0].edge.kill9();
    let host = &region.hosts[0].edge;
    let problem = || host.containers()[0].proxy_problem.clone();
    let why = wait_for("the host to find out", PATIENCE, problem);
    assert!(why.contains(ONE) && why.contains("does not answer"), "{why}");
    visitors.refuse(&tenant.netns);
    let shown = host.proxy("db");
    let one = &shown["ips"][0];
    assert_eq!((one["status"].as_str(), &one["traffic"]), (Some("UNHEALTHY"), &Value::Null));
    assert!(one["problem"].as_str().is_some_and(|why| why.contains("does not answer")), "{one}");
    assert!(shown["refused_packets"].as_u64() > Some(0), "{shown}");
    let silent = ["reason=\"silent\""];
    assert_eq!(host.metrics().sum("edge_proxy_address_problem", &silent), 1.0);
    assert_eq!(host.metrics().sum("edge_proxy_address_up", &[]), 0.0);

    region.gateways[0].edge.start();
    let host = &region.hosts[0].edge;
    let problem = || host.containers()[0].proxy_problem.clone();
    wait_for("the way to be back", PATIENCE, || problem().is_none().then_some(()));
    talk.say().expect("NAT is the kernel's");
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));
    assert_eq!(host.proxy("db")["ips"][0]["status"], "ONLINE");
    assert_eq!(host.metrics().sum("edge_proxy_address_problem", &[]), 0.0);
}

#[test]
fn what_comes_from_a_gateway_is_for_containers_alone() {
    let region = region(Plan::over(Underlay::V4).hosts(1));
    region.gateway().edge.cli(&["proxy", "create", "db", "--ip", ONE]).ok();
    let host = &region.hosts[0];
    // Were one of its containers proxied, the table of source NAT would drop it, too.
    let plain = host.tenant("plain", &[]);
    let netns = &host.place.netns;
    let way = wait_for("a way to the gateway", PATIENCE, || host.wireguard("-g1"));
    // Of the host's own block, which the gateway may send to.
    let own = Ipv4Addr::from(u32::from(plain.ipv4()) + 1);
    netns.ip(&["address", "add", &format!("{own}/32"), "dev", "lo"]);
    let socket = netns.enter(|| UdpSocket::bind((own, 7000)).expect("a port"));
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let tap = Tap::on(netns, &way);
    let sender = region.gateway().place.netns.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("one");
    wait_for("a datagram by WireGuard", PATIENCE, || {
        sender.send_to(b"for the machine", (own, 7000)).ok();
        tap.saw("for the machine").then_some(())
    });
    let heard = socket.recv_from(&mut [0; 64]).expect_err("the machine hears the gateway");
    assert_eq!(heard.kind(), ErrorKind::WouldBlock, "{heard}");
}

#[test]
fn keys_change_under_a_connection() {
    let life = ["--key-life", "2s"];
    let plan = Plan::over(Underlay::V4).hosts(1).host_arguments_more(&life);
    let region = region(plan.gateway_arguments_more(&life));
    let (tenant, visitors) = proxied(&region);
    let listener = Listener::at(&region.scene.internet, Scene::CLIENT);
    let talk = listener.dial(&tenant.netns);
    let key = |machine: &Machine| {
        std::fs::read_to_string(machine.edge.folder().join("wireguard.key")).expect("a key")
    };
    // Of both ends, whoever is first.
    let (mut of_host, mut of_gateway) = (BTreeSet::new(), BTreeSet::new());
    wait_for("both to have had four keys", PATIENCE, || {
        talk.say().expect("it goes on");
        of_host.insert(key(&region.hosts[0]));
        of_gateway.insert(key(region.gateway()));
        (of_host.len() >= 4 && of_gateway.len() >= 4).then_some(())
    });
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));
    assert_eq!(region.hosts[0].edge.proxy("db")["ips"][0]["status"], "ONLINE");
}

#[test]
fn an_address_moves_to_another_gateway() {
    let mut region = region(Plan::over(Underlay::V4).gateways(2).hosts(1));
    let (tenant, visitors) = proxied(&region);
    let holds = |index: usize, region: &Region| {
        let machine = &region.gateways[index];
        machine.place.netns.ip(&["-4", "address", "show", "dev", "up0"]).contains(ONE)
    };
    let holder = usize::from(!holds(0, &region));
    assert!(holds(holder, &region) && !holds(1 - holder, &region));
    // Its machine lives on, without a daemon.
    region.gateways[holder].edge.kill9();
    wait_for("the other gateway to have the address", PATIENCE, || {
        (holds(1 - holder, &region) && !holds(holder, &region)).then_some(())
    });
    wait_for("the way by it", PATIENCE, || {
        let dialled = tenant.netns.enter(|| {
            let second = Duration::from_secs(1);
            TcpStream::connect_timeout(&visitors.tcp(), second)
        });
        dialled.ok().map(drop)
    });
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));
    region.gateways[holder].edge.start();
    assert_eq!(visitors.visited_by(&tenant.netns, 3), only(ONE));
}
