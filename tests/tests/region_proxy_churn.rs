//! Addresses come and go, gateways die and return, daemons are killed: whoever has a proxy is seen
//! under its addresses and no other, and whoever has none does not notice.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tests::{
    guestbook::{Guest, Guestbook},
    lab::PATIENCE,
    process::wait_for,
    region::{Machine, Plan, Region, Scene, Underlay},
    tenant::Tenant,
    visitors::Visitors,
};

const NETWORKS: [&str; 4] =
    ["--proxy-addresses", "192.0.2.64/28", "--proxy-addresses", "2001:db8::6:0/112"];
/// Of workspace "one", whose proxy has one address, and IPv6 beside it.
const ONE: [&str; 2] = ["192.0.2.65", "2001:db8::6:65"];
/// Of workspace "two", whose proxy of the same name has five, and sometimes the sixth.
const FIVE: [&str; 5] = ["192.0.2.66", "192.0.2.67", "192.0.2.68", "192.0.2.69", "192.0.2.70"];
const SIXTH: &str = "192.0.2.71";
/// Of workspace "three", whose containers' connections are spread over them.
const SPREAD: [&str; 3] = ["192.0.2.72", "192.0.2.73", "192.0.2.74"];
/// Whoever has a key changes it while all of this happens.
const KEY_LIFE: [&str; 2] = ["--key-life", "15s"];
/// Where the guestbook lies.
const BOOK: SocketAddr = SocketAddr::new(IpAddr::V4(Scene::CLIENT), 7000);

/// A container, whoever comes from it, and whom it may be taken for.
struct Caller {
    tenant: Tenant,
    guest: Guest,
    name: String,
    allowed: BTreeSet<IpAddr>,
}

impl Caller {
    fn on(host: &Machine, number: usize, workspace: Option<&str>, book: &Guestbook) -> Self {
        let name = format!("{}{number}", workspace.unwrap_or("plain"));
        let options = workspace.map(|workspace| ["--workspace", workspace, "--proxy", "db"]);
        let options = options.as_ref().map_or(&[][..], |options| &options[..]);
        let tenant = host.tenant(&name, options);
        let parse = |address: &&str| address.parse().expect("an address");
        let allowed = match workspace {
            Some("one") => ONE.iter().map(parse).collect(),
            Some("three") => SPREAD.iter().map(parse).collect(),
            Some(_) => FIVE.iter().chain([&SIXTH]).map(parse).collect(),
            None => BTreeSet::from([host.place.public.into()]),
        };
        let guest = book.guest(&tenant.netns, &name);
        Self { tenant, guest, name, allowed }
    }

    /// Packets that no honest socket sends, with its name in them.
    fn forge(&self) {
        let (tap, text) = (self.tenant.tap(), self.text());
        let to = |port| SocketAddr::from((Scene::CLIENT, port));
        let own = self.tenant.ipv4();
        let sources = [own, Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(100, 64, 7, 7)];
        for source in sources.into_iter().map(|source| SocketAddr::from((source, 1000))) {
            tap.udp(source, to(53), &text);
            tap.tcp(source, to(9), false, &text);
            tap.other(source.ip(), to(0).ip(), 47.into(), &text);
        }
        let stranger = "fdaa:1:2:3:4::5".parse().expect("an address");
        for source in [self.tenant.i6pn(), stranger, Scene::CLIENT_V6] {
            tap.udp((source, 1000).into(), (Scene::CLIENT_V6, 53).into(), &text);
        }
    }

    fn text(&self) -> String {
        format!("forged by {}.", self.name)
    }

    /// Panics if anything of it has arrived under another address.
    #[track_caller]
    fn assert_own(&self, book: &Guestbook, visitors: &Visitors) {
        let seen = book.addresses(&self.name);
        assert!(seen.is_subset(&self.allowed), "{} came as {seen:?}", self.name);
        let forged = visitors.sources_of(&self.text());
        assert!(forged.is_subset(&self.allowed), "{} has forged {forged:?}", self.name);
    }
}

/// One of the five for another; a proxy has no more.
#[track_caller]
fn exchange(region: &Region, old: &str, new: &str) {
    let words = |verb| ["proxy", verb, "db", "--workspace", "two", "--ip"];
    let remove = [&words("remove-ip")[..], &[old, "--drain", "0s"]].concat();
    region.gateway().edge.cli(&remove).ok();
    region.gateway().edge.cli(&[&words("add-ip")[..], &[new]].concat()).ok();
}

#[test]
fn whatever_happens_nobody_is_seen_under_anothers_address() {
    let plan = Plan::over(Underlay::V4).gateways(2).hosts(2);
    let plan = plan.gateway_arguments_more(&NETWORKS);
    let mut region = plan.gateway_arguments_more(&KEY_LIFE).host_arguments_more(&KEY_LIFE).up();
    let create = |region: &Region, workspace: &str, addresses: &[&str], spread: &str| {
        let words = ["proxy", "create", "db", "--workspace", workspace, "--spread", spread];
        let ips = addresses.iter().flat_map(|address| ["--ip", address]);
        region.gateway().edge.cli(&words.into_iter().chain(ips).collect::<Vec<_>>()).ok();
    };
    create(&region, "one", &[&ONE.join(",")], "container");
    create(&region, "two", &FIVE, "container");
    create(&region, "three", &SPREAD, "flow");
    let book = Guestbook::open(&region.scene.internet, BOOK);
    let visitors = Visitors::at(&region.scene.internet, Scene::CLIENT);
    let mut callers = Vec::new();
    let mut plain = Vec::new();
    for (number, host) in region.hosts.iter().enumerate() {
        callers.push(Caller::on(host, number, Some("one"), &book));
        for more in 0..3 {
            callers.push(Caller::on(host, 10 * number + more, Some("two"), &book));
        }
        callers.push(Caller::on(host, number, Some("three"), &book));
        plain.push(Caller::on(host, number, None, &book));
    }
    let go_on = || {
        for caller in callers.iter().chain(&plain) {
            caller.guest.wait_for_more();
            caller.forge();
            caller.guest.wait_for_more();
            caller.assert_own(&book, &visitors);
        }
    };
    go_on();
    for round in 0..if tests::edge::long() { 20 } else { 1 } {
        println!("round {round}");
        exchange(&region, FIVE[round % 5], SIXTH);
        go_on();
        // A gateway dies with its machine, and the other serves all of it.
        let dead = round % 2;
        region.gateways[dead].place.cut(0);
        region.gateways[dead].edge.kill9();
        region.gateways[dead].place.cut_uplink();
        go_on();
        region.gateways[dead].place.mend(0);
        region.gateways[dead].edge.start();
        region.gateways[dead].place.mend_uplink();
        go_on();
        // Daemons die.
        region.hosts[round % 2].edge.kill9();
        region.hosts[round % 2].edge.start();
        region.gateways[1 - dead].edge.kill9();
        region.gateways[1 - dead].edge.start();
        go_on();
        exchange(&region, SIXTH, FIVE[round % 5]);
        go_on();
    }
    for caller in &plain {
        assert_eq!(caller.guest.failures(), [""; 0], "{} has noticed", caller.name);
    }
    for caller in callers.iter().filter(|caller| caller.name.starts_with("one")) {
        let seen = visitors.sources_of(&caller.text());
        let [_, beside] = ONE.map(|ip| ip.parse().expect("an address"));
        assert!(seen.contains(&beside), "{} never came by IPv6: {seen:?}", caller.name);
    }
    assert!(book.connections() > 300, "{} connections", book.connections());
    // A machine gives three containers three addresses, and each of the others has all.
    let seen: BTreeSet<_> =
        callers.iter().flat_map(|caller| book.addresses(&caller.name)).collect();
    assert!(seen.len() >= 4 + SPREAD.len(), "{seen:?}");
    wait_for("all addresses to be served", PATIENCE, || {
        let shown = region.gateway().edge.cli(&["proxy", "show", "db", "--workspace", "two"]).ok();
        (shown.stdout.matches("ONLINE").count() == 5).then_some(())
    });
}
