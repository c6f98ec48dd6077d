//! Proxies that spread connections: each container's over all addresses, by whichever gateways
//! serve them; what has begun keeps its address while others come and go.

use std::{collections::BTreeSet, net::IpAddr};

use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    process::wait_for,
    region::{Plan, Region, Scene, Underlay},
    talk::Listener,
    tenant::Tenant,
    visitors::Visitors,
};

const IPS: [&str; 5] = ["192.0.2.65", "192.0.2.66", "192.0.2.67", "192.0.2.68", "192.0.2.69"];

fn parsed(ips: &[&str]) -> BTreeSet<IpAddr> {
    ips.iter().map(|ip| ip.parse().expect("an address")).collect()
}

/// A proxy that spreads connections over these.
#[track_caller]
fn create(edge: &Edge, ips: &[&str]) {
    let words = ["proxy", "create", "many", "--spread", "flow"];
    let ips = ips.iter().flat_map(|ip| ["--ip", ip]);
    edge.cli(&words.into_iter().chain(ips).collect::<Vec<_>>()).ok();
}

/// Waits until a machine finds that so many addresses of it work.
#[track_caller]
fn wait_for_online(edge: &Edge, count: usize) {
    wait_for(&format!("{count} addresses to be ONLINE"), PATIENCE, || {
        let shown = edge.cli(&["proxy", "show", "many"]).ok();
        (shown.stdout.matches("ONLINE").count() == count).then_some(())
    });
}

#[test]
fn on_one_machine_connections_go_under_all_addresses_in_turn() {
    let mut lab = Lab::new(&["--proxy-addresses", "192.0.2.64/28"]);
    create(&lab.edge, &IPS);
    let visitors = Visitors::at(&lab.internet, Scene::CLIENT);
    let tenant = Tenant::new(&lab.edge, "a", &["--proxy", "many"]);
    assert_eq!(tenant.container.proxy_ip, None, "all of them");
    let even = visitors.dialled_by(&tenant.netns, 100);
    assert_eq!(even.keys().copied().collect::<BTreeSet<_>>(), parsed(&IPS));
    assert!(even.values().all(|count| *count == 20), "{even:?}");
    // Whatever else it sends: UDP, ping.
    let seen = visitors.visited_by(&tenant.netns, 10);
    assert!(seen.is_subset(&parsed(&IPS)), "{seen:?}");
    let shown = lab.edge.proxy("many");
    assert_eq!(shown["spread"], "flow");
    for one in shown["ips"].as_array().expect("addresses") {
        assert_eq!((one["status"].as_str(), &one["containers"]), (Some("ONLINE"), &1.into()));
        assert!(one["traffic"]["connections"].as_u64() >= Some(20), "{one}");
    }
    assert_eq!(lab.edge.metrics().sum("edge_proxy_containers", &[]), 5.0, "one at each");

    lab.edge.cli(&["proxy", "remove-ip", "many", "--ip", IPS[0]]).ok();
    assert_eq!(lab.edge.metrics().sum("edge_proxy_containers", &[]), 4.0, "none at what goes");
    let four = visitors.dialled_by(&tenant.netns, 100);
    assert_eq!(four.keys().copied().collect::<BTreeSet<_>>(), parsed(&IPS[1..]));
    assert!(four.values().all(|count| *count == 25), "{four:?}");
    // A daemon that comes after takes it up.
    lab.edge.kill9();
    assert_eq!(visitors.dialled_by(&tenant.netns, 8).len(), 4, "without a daemon");
    lab.edge.start();
    assert_eq!(visitors.dialled_by(&tenant.netns, 8).len(), 4, "with the next one");
    lab.edge.cli(&["proxy", "delete", "many"]).ok();
    visitors.refuse(&tenant.netns);
}

/// Each of the first addresses is the first gateway's own, the rest the second's.
fn region(first: &[&str], second: &[&str]) -> Region {
    let region = Plan::over(Underlay::V4).gateways(2).hosts(1).up();
    for (gateway, ips) in region.gateways.iter().zip([first, second]) {
        for ip in ips {
            gateway.place.netns.ip(&["address", "add", &format!("{ip}/32"), "dev", "up0"]);
        }
    }
    region
}

#[test]
fn connections_spread_over_gateways_and_keep_to_theirs() {
    let region = region(&[IPS[0], IPS[1], IPS[3]], &[IPS[2]]);
    let gateway = &region.gateway().edge;
    create(gateway, &IPS[..3]);
    wait_for_online(gateway, 3);
    let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
    let host = &region.hosts[0];
    let tenant = host.tenant("a", &["--proxy", "many"]);
    wait_for_online(&host.edge, 3);
    let counts = visitors.dialled_by(&tenant.netns, 240);
    assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), parsed(&IPS[..3]));
    // By hash over gateways, in turn over what each has: 80, by chance some more or less.
    assert!(counts.values().all(|count| (55..=105).contains(count)), "{counts:?}");

    let listener = Listener::at(&region.scene.internet, Scene::CLIENT);
    let talks: Vec<_> = (0..30).map(|_| listener.dial(&tenant.netns)).collect();
    let all_say = |when: &str| {
        for (number, talk) in talks.iter().enumerate() {
            talk.say().unwrap_or_else(|error| panic!("{when}: connection {number}: {error}"));
        }
    };
    all_say("at first");
    // The second gateway's only address goes; the first has one more.
    gateway.cli(&["proxy", "add-ip", "many", "--ip", IPS[3]]).ok();
    gateway.cli(&["proxy", "remove-ip", "many", "--ip", IPS[2], "--drain", "10m"]).ok();
    wait_for("connections to begin under others", PATIENCE, || {
        let seen: BTreeSet<_> = visitors.dialled_by(&tenant.netns, 30).into_keys().collect();
        (seen == parsed(&[IPS[0], IPS[1], IPS[3]])).then_some(())
    });
    all_say("when one goes and another comes");
    assert!(host.edge.metrics().packets("tc_container", "proxied") > 300.0);
}

#[test]
fn a_connection_drains_with_an_address_of_another_gateway() {
    let region = region(&[IPS[0]], &[IPS[1]]);
    let gateway = &region.gateway().edge;
    gateway.cli(&["proxy", "create", "db", "--ip", IPS[0]]).ok();
    let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
    let listener = Listener::at(&region.scene.internet, Scene::CLIENT);
    // Also of the gateways, of which each has one of the two ways itself.
    let begun = region.machines().enumerate().map(|(number, machine)| {
        let tenant = machine.tenant(&format!("a{number}"), &["--proxy", "db"]);
        assert_eq!(visitors.visited_by(&tenant.netns, 3), parsed(&IPS[..1]), "{number}");
        let talk = listener.dial(&tenant.netns);
        talk.say().unwrap();
        (tenant, talk)
    });
    let begun: Vec<_> = begun.collect();
    gateway.cli(&["proxy", "add-ip", "db", "--ip", IPS[1]]).ok();
    gateway.cli(&["proxy", "remove-ip", "db", "--ip", IPS[0], "--drain", "10m"]).ok();
    for (number, (tenant, talk)) in begun.iter().enumerate() {
        wait_for("connections to begin under the other", PATIENCE, || {
            let seen: BTreeSet<_> = visitors.dialled_by(&tenant.netns, 5).into_keys().collect();
            (seen == parsed(&IPS[1..2])).then_some(())
        });
        talk.say().unwrap_or_else(|error| panic!("{number}: what has begun breaks: {error}"));
    }
}
