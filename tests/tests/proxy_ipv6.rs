//! IPv6 beside a static outbound address: it leaves under the IPv6 address of the same gateway,
//! where there is one, and else not at all.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{
    echo::round_trip,
    edge::Edge,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::wait_for,
    region::{Machine, Plan, Region, Scene, Underlay},
    talk::Listener,
    tenant::Tenant,
    visitors::{Visitors, only},
};

/// Addresses that the operator lets edge put on the uplink.
const NETWORKS: [&str; 4] =
    ["--proxy-addresses", "192.0.2.64/28", "--proxy-addresses", "2001:db8::6:0/112"];
const ONE: &str = "192.0.2.65";
const ONE_V6: &str = "2001:db8::6:65";
const BOTH: &str = "192.0.2.65,2001:db8::6:65";
const TWO: &str = "192.0.2.66";
/// More than any buffer on the way holds.
const DOWNLOAD: usize = 10 << 20;

/// Those who come to the internet's client, by IPv4 and by IPv6.
fn visitors(internet: &NetNs) -> [Visitors; 2] {
    [Scene::CLIENT.into(), IpAddr::V6(Scene::CLIENT_V6)].map(|ip| Visitors::at(internet, ip))
}

fn create(edge: &Edge, name: &str, ips: &[&str]) {
    let ips = ips.iter().flat_map(|ip| ["--ip", ip]).collect::<Vec<_>>();
    edge.cli(&[&["proxy", "create", name][..], &ips].concat()).ok();
}

/// Nothing at all of what this container sends by IPv6 comes through.
#[track_caller]
fn is_closed(tenant: &Tenant, visitors: &Visitors) {
    visitors.refuse(&tenant.netns);
    let sent = tenant.netns.enter(|| {
        let socket = UdpSocket::bind("[::]:0").expect("a port");
        socket.send_to(b"by a way around", (Scene::CLIENT_V6, 9))
    });
    drop(sent);
    // Whatever comes through is there by then, by WireGuard, too.
    thread::sleep(Duration::from_millis(200));
    assert!(!visitors.saw("by a way around"));
}

#[test]
fn ipv6_leaves_beside_ipv4_or_not_at_all() {
    let mut lab = Lab::stopped(&NETWORKS);
    // Its name comes before "all".
    lab.machine.ip(&["link", "add", "a0", "type", "bridge"]);
    for family in ["ipv4", "ipv6"] {
        lab.machine.sysctl(&format!("net/{family}/conf/a0/forwarding"), "1");
    }
    let before = settings(&lab);
    lab.edge.start();
    let made = lab.edge.cli(&["proxy", "create", "both", "--ip", BOTH]).ok();
    assert_eq!(made.stdout_str(), format!("proxy both: {BOTH} ONLINE"));
    assert_eq!(
        settings(&lab),
        ["1", "2", "1", "1", "1"],
        "it forwards, and takes router advertisements"
    );
    create(&lab.edge, "old", &[TWO]);
    let [v4, v6] = visitors(&lab.internet);
    let tenant = |name: &str, options: &[&str]| Tenant::new(&lab.edge, name, options);
    let both = tenant("both", &["--proxy", "both", "--i6pn"]);
    let old = tenant("old", &["--proxy", "old"]);
    let plain = tenant("plain", &["--i6pn"]);
    assert_eq!(v4.visited_by(&both.netns, 10), only(ONE));
    assert_eq!(v6.visited_by(&both.netns, 30), only(ONE_V6));
    assert_eq!(v4.visited_by(&old.netns, 3), only(TWO));
    is_closed(&old, &v6);
    is_closed(&plain, &v6);
    // Both count as one, and nobody but source NAT listens on either.
    let connections =
        lab.edge.metrics().sum("edge_proxy_connections_total", &["address=\"192.0.2.65\""]);
    assert!(connections >= 10.0 * 2.0 + 1.0 + 30.0 * 2.0 + 1.0, "{connections}");
    let to = SocketAddr::new(ONE_V6.parse().expect("an address"), 443);
    let dialled =
        lab.internet.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert_eq!(dialled.unwrap_err().kind(), ErrorKind::TimedOut, "somebody answers there");
    // Nor does a program of the machine leave under it.
    lab.machine.enter(|| TcpStream::connect_timeout(&v6.tcp(), PATIENCE)).expect("a way out");
    let machine = Lab::PUBLIC_V6.parse().expect("an address");
    wait_for("the machine itself", PATIENCE, || v6.clients().contains(&machine).then_some(()));
    // Private addresses stay private.
    round_trip_between(&both, &plain);

    let shown = lab.edge.proxy("both");
    assert_eq!(shown["ips"][0]["ip"], ONE, "{shown}");
    assert_eq!(shown["ips"][0]["beside"], ONE_V6, "{shown}");
    assert_eq!(lab.edge.proxy("old")["ips"][0]["beside"], Value::Null);
    let listed = lab.edge.cli(&["proxy", "list"]).ok();
    assert!(listed.stdout.contains(BOTH), "{listed}");

    // What is open outlives the daemon.
    let listener = Listener::at(&lab.internet, Scene::CLIENT_V6);
    let talk = listener.dial(&both.netns);
    lab.edge.kill9();
    talk.say().expect("while no daemon is there");
    lab.edge.start();
    talk.say().expect("with the next");
    assert_eq!(v6.visited_by(&both.netns, 3), only(ONE_V6));
    drop(lab.edge.replace(&[]));
    talk.say().expect("after an upgrade");
    drop(talk);

    // Without the proxy it ends at once; with IPv6 beside the address it begins.
    lab.edge.cli(&["proxy", "delete", "both"]).ok();
    is_closed(&both, &v6);
    let absent = || !lab.machine.ip(&["-6", "address", "show", "dev", "up0"]).contains(ONE_V6);
    wait_for("the address to go", PATIENCE, || absent().then_some(()));
    create(&lab.edge, "both", &[TWO.replace("66", "67").as_str(), BOTH]);
    wait_for("a way under an address with IPv6 beside it", PATIENCE, || {
        let to = v6.tcp();
        both.netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).ok().map(drop)
    });
    assert_eq!(v6.visited_by(&both.netns, 3), only(ONE_V6));
    lab.edge.cli(&["down"]).ok();
    assert!(absent());
    assert_eq!(settings(&lab), before);
}

/// Whether the machine forwards IPv6, takes router advertisements on its uplink, and forwards what
/// comes by one interface whatever is said of all; then the same of IPv4.
fn settings(lab: &Lab) -> [String; 5] {
    let settings = [
        "ipv6/conf/all/forwarding",
        "ipv6/conf/up0/accept_ra",
        "ipv6/conf/a0/forwarding",
        "ipv4/conf/all/forwarding",
        "ipv4/conf/a0/forwarding",
    ];
    settings.map(|name| {
        let path = format!("/proc/sys/net/{name}");
        // Which namespace it shows depends on the thread that opens it.
        let text = lab.machine.enter(|| std::fs::read_to_string(path)).expect("a setting");
        text.trim().to_owned()
    })
}

#[track_caller]
fn round_trip_between(one: &Tenant, other: &Tenant) {
    let listener = Listener::at(&other.netns, other.i6pn());
    listener.dial(&one.netns).say().expect("a way between containers");
}

#[test]
fn bad_addresses_are_refused_with_a_reason() {
    let lab = Lab::new(&NETWORKS);
    let refused = |ip: &str, says: &str| {
        let output = lab.edge.cli(&["proxy", "create", "x", "--ip", ip]).refused();
        assert!(output.stderr.contains(says), "{output}");
    };
    refused("2001:db8::6:1", "give one as 192.0.2.1 or 192.0.2.1,2001:db8::1");
    refused("192.0.2.65,fe80::1", "address fe80::1: nobody could answer to it");
    create(&lab.edge, "x", &[BOTH]);
    let other = format!("{TWO},{ONE_V6}");
    let taken = lab.edge.cli(&["proxy", "create", "y", "--ip", &other]).refused();
    assert!(taken.stderr.contains(&format!("address {ONE_V6}: it is of the proxy main/x already")));
    // An IPv6 address that no gateway can serve keeps the pair from being served.
    let made = lab.edge.cli(&["proxy", "create", "z", "--ip", "192.0.2.68,2001:db8:9::1"]).ok();
    assert_eq!(made.stdout_str(), "proxy z: 192.0.2.68,2001:db8:9::1 CREATING");
}

#[test]
fn connections_spread_over_both_families() {
    let lab = Lab::new(&NETWORKS);
    let ips = [1, 2, 3].map(|last| format!("192.0.2.7{last},2001:db8::6:7{last}"));
    let ips = ips.each_ref().map(String::as_str);
    let mut words = vec!["proxy", "create", "many", "--spread", "flow", "--ip", "192.0.2.74"];
    words.extend(ips.iter().flat_map(|ip| ["--ip", ip]));
    lab.edge.cli(&words).ok();
    let tenant = Tenant::new(&lab.edge, "spread", &["--proxy", "many"]);
    let [v4, v6] = visitors(&lab.internet);
    let counts = v6.dialled_by(&tenant.netns, 60);
    let expected: BTreeSet<IpAddr> = [1, 2, 3]
        .map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 6, 0x70 + last).into())
        .into();
    assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), expected);
    assert!(counts.values().all(|count| *count == 20), "{counts:?}");
    assert_eq!(v4.dialled_by(&tenant.netns, 40).len(), 4);
}

/// A host's IPv6 goes by WireGuard.
#[test]
fn containers_of_hosts_have_ipv6_beside_their_address() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).gateway_arguments_more(&NETWORKS).up();
        let gateway = &region.gateway().edge;
        create(gateway, "both", &[BOTH]);
        create(gateway, "old", &[TWO]);
        let [v4, v6] = visitors(&region.scene.internet);
        let mut tenants = Vec::new();
        for (number, machine) in region.machines().enumerate() {
            let both = machine.tenant(&format!("both{number}"), &["--proxy", "both", "--i6pn"]);
            reaches(&both, &v6);
            assert_eq!(v6.visited_by(&both.netns, 10), only(ONE_V6), "{underlay}: {number}");
            assert_eq!(v4.visited_by(&both.netns, 3), only(ONE), "{underlay}: {number}");
            let old = machine.tenant(&format!("old{number}"), &["--proxy", "old"]);
            is_closed(&old, &v6);
            tenants.push((both, old));
        }
        round_trip(&tenants[1].0.netns, v6.tcp(), DOWNLOAD);
        round_trip_between(&tenants[1].0, &tenants[2].0);
        forged_sources_go_nowhere(&region, &tenants[1].0, &v6);
    }
}

/// Until the gateway has heard of the container.
#[track_caller]
fn reaches(tenant: &Tenant, visitors: &Visitors) {
    wait_for("a way out", PATIENCE, || {
        let to = visitors.tcp();
        tenant
            .netns
            .enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)))
            .ok()
            .map(drop)
    });
}

#[track_caller]
fn forged_sources_go_nowhere(region: &Region, tenant: &Tenant, visitors: &Visitors) {
    let other = region.hosts[1].tenant("victim", &["--proxy", "both"]);
    let forged = other.i6pn().to_string();
    tenant.netns.ip(&["address", "add", &format!("{forged}/128"), "dev", "eth0", "nodad"]);
    tenant.netns.enter(|| {
        let socket = UdpSocket::bind((other.i6pn(), 0)).expect("the forged address");
        socket.send_to(b"by a forged source", (Scene::CLIENT_V6, 9)).ok();
    });
    assert_eq!(visitors.visited_by(&other.netns, 1), only(ONE_V6));
    assert!(!visitors.saw("by a forged source"));
    tenant.netns.ip(&["address", "delete", &format!("{forged}/128"), "dev", "eth0"]);
}

#[test]
fn an_address_and_what_is_beside_it_move_together() {
    let plan = Plan::over(Underlay::V4).gateways(2).hosts(1);
    let mut region = plan.gateway_arguments_more(&NETWORKS).up();
    create(&region.gateway().edge, "both", &[BOTH]);
    let [v4, v6] = visitors(&region.scene.internet);
    let tenant = region.hosts[0].tenant("both", &["--proxy", "both"]);
    reaches(&tenant, &v6);
    let holder = |region: &Region| {
        region.gateways.iter().position(|one| {
            one.place.netns.ip(&["-6", "address", "show", "dev", "up0"]).contains(ONE_V6)
        })
    };
    let first = wait_for("a gateway to have it", PATIENCE, || holder(&region));
    region.gateways[first].edge.kill9();
    let second = wait_for("the other to take it over", PATIENCE, || {
        holder(&region).filter(|now| *now != first)
    });
    assert_ne!(first, second);
    reaches(&tenant, &v6);
    assert_eq!(v6.visited_by(&tenant.netns, 3), only(ONE_V6));
    assert_eq!(v4.visited_by(&tenant.netns, 3), only(ONE));
    region.gateways[first].edge.start();
}

#[test]
fn open_ipv6_drains_though_the_next_address_has_none() {
    let region = Plan::over(Underlay::V4).hosts(1).gateway_arguments_more(&NETWORKS).up();
    let gateway = &region.gateway().edge;
    create(gateway, "both", &[BOTH]);
    let [v4, v6] = visitors(&region.scene.internet);
    let listener = Listener::at(&region.scene.internet, Scene::CLIENT_V6);
    let begun = region.machines().enumerate().map(|(number, machine)| {
        let tenant = machine.tenant(&format!("both{number}"), &["--proxy", "both"]);
        reaches(&tenant, &v6);
        let talk = listener.dial(&tenant.netns);
        talk.say().expect("a way out");
        (tenant, talk)
    });
    let begun: Vec<_> = begun.collect();
    gateway.cli(&["proxy", "add-ip", "both", "--ip", TWO]).ok();
    let remove = ["proxy", "remove-ip", "both", "--ip", ONE, "--drain"];
    gateway.cli(&[&remove[..], &["10m"]].concat()).ok();
    for (tenant, talk) in &begun {
        wait_for("connections to begin under the other", PATIENCE, || {
            (v4.dialled_by(&tenant.netns, 3).into_keys().collect::<BTreeSet<_>>() == only(TWO))
                .then_some(())
        });
        is_closed(tenant, &v6);
        talk.say().expect("what has begun goes on");
    }
    // No other address carries it on.
    gateway.cli(&[&remove[..], &["0s"]].concat()).ok();
    for (tenant, talk) in &begun {
        talk.hurry(Duration::from_secs(2));
        wait_for("what has begun to end", PATIENCE, || talk.say().err());
        is_closed(tenant, &v6);
    }
}

/// IPv6 needs 1280 bytes, and a way by WireGuard over an underlay of 1340 has fewer, whichever end
/// of it that is.
#[test]
fn where_the_way_is_too_narrow_ipv6_is_refused() {
    let plan = Plan::over(Underlay::V4).hosts(1).mtu(1340);
    let mut region = plan.gateway_arguments_more(&NETWORKS).up();
    create(&region.gateway().edge, "both", &[BOTH]);
    let [v4, v6] = visitors(&region.scene.internet);
    let tenant = region.hosts[0].tenant("narrow", &["--proxy", "both"]);
    reaches(&tenant, &v4);
    assert_eq!(v4.visited_by(&tenant.netns, 3), only(ONE));
    is_closed(&tenant, &v6);
    widen(&mut region.hosts[0]);
    reaches(&tenant, &v4);
    is_closed(&tenant, &v6);
    widen(&mut region.gateways[0]);
    reaches(&tenant, &v6);
    assert_eq!(v6.visited_by(&tenant.netns, 3), only(ONE_V6));
}

/// IPv4 and changes of keys go on.
#[test]
fn ipv6_that_a_gateway_has_switched_off_is_all_that_it_lacks() {
    let life = ["--key-life", "2s"];
    let plan = Plan::over(Underlay::V4).hosts(1).gateway_arguments_more(&NETWORKS);
    let region = plan.gateway_arguments_more(&life).up();
    let gateway = region.gateway();
    create(&gateway.edge, "both", &[BOTH]);
    let inward = wait_for("WireGuard for hosts", PATIENCE, || gateway.wireguard("-in"));
    gateway.place.netns.sysctl(&format!("net/ipv6/conf/{inward}/disable_ipv6"), "1");
    let tenant = region.hosts[0].tenant("both", &["--proxy", "both"]);
    let [v4, _] = visitors(&region.scene.internet);
    assert_eq!(v4.visited_by(&tenant.netns, 3), only(ONE));
    let key = || std::fs::read_to_string(gateway.edge.folder().join("wireguard.key")).expect("one");
    let mut keys = BTreeSet::new();
    wait_for("the gateway to have other keys", PATIENCE, || {
        keys.insert(key());
        (keys.len() >= 3).then_some(())
    });
    assert_eq!(v4.visited_by(&tenant.netns, 3), only(ONE));
}

/// What comes from the internet is wider than a host takes: its sender is told so.
#[test]
fn a_gateway_knows_how_narrow_its_hosts_are() {
    let plan = Plan::over(Underlay::V4).hosts(1).mtu(1400);
    let mut region = plan.gateway_arguments_more(&NETWORKS).up();
    create(&region.gateway().edge, "both", &[BOTH]);
    let tenant = region.hosts[0].tenant("narrow", &["--proxy", "both"]);
    widen(&mut region.gateways[0]);
    let [v4, v6] = visitors(&region.scene.internet);
    let internet = &region.scene.internet;
    for (visitors, seen_as, any) in [(v4, ONE, "0.0.0.0:0"), (v6, ONE_V6, "[::]:0")] {
        reaches(&tenant, &visitors);
        let server = internet.enter(|| UdpSocket::bind((visitors.tcp().ip(), 9)).expect("a port"));
        let client = tenant.netns.enter(|| UdpSocket::bind(any).expect("a port"));
        client.send_to(b"hello", server.local_addr().expect("one")).expect("a way out");
        let (_, from) = server.recv_from(&mut [0; 8]).expect("the client's datagram");
        assert_eq!(from.ip().to_string(), seen_as);
        // Less than the gateway's own interface carries.
        wait_for("the server to hear of it", PATIENCE, || {
            server.send_to(&[0; 1350], from).ok();
            internet.ip(&["route", "get", seen_as]).contains("mtu 1320").then_some(())
        });
    }
}

/// The underlay of a machine carries more from the daemon's next start on.
fn widen(machine: &mut Machine) {
    machine.place.netns.ip(&["link", "set", "un0", "mtu", "1500"]);
    machine.edge.kill9();
    machine.edge.start();
    wait_for("a wider interface", PATIENCE, || {
        machine.place.netns.ip(&["link"]).contains(" mtu 1420 ").then_some(())
    });
    wait_for("what is known to be in the tables", PATIENCE, || {
        (machine.edge.proxy("both")["ips"][0]["status"] == "ONLINE").then_some(())
    });
}
