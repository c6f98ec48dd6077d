//! Who is no host of the region, or not the host that it says, brings nothing into a container:
//! over the underlay, over the internet, from a program on a host, with and without programs
//! attached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use tests::{
    attempts::Attempts,
    forge::{self, GENEVE_PORT, geneve},
    i6pn,
    lab::PATIENCE,
    process::{Start as _, wait_for},
    region::{Place, Plan, Region, Scene, Underlay},
    tap::Tap,
    tenant::Tenant,
    witness::Witness,
};

/// A number that no machine has.
const STRANGER: u8 = 99;

/// A container on the gateway and on each of two hosts, all of one workspace.
struct Targets {
    gateway: Tenant,
    first: Tenant,
    second: Tenant,
    other: Tenant,
    stranger: Place,
    underlay: Underlay,
    region: Region,
}

impl Targets {
    fn of(plan: Plan) -> Self {
        let underlay = plan.underlay;
        let region = plan.hosts(2).up();
        let stranger = region.scene.place("stranger", STRANGER);
        let raw = ["--i6pn", "--unencrypted-port", "8000"];
        let first = region.hosts[0].tenant("first", &raw);
        let second = region.hosts[1].private("second");
        let gateway = region.gateway().private("gateway");
        let other = region.hosts[1].tenant("other", &["--i6pn", "--workspace", "two"]);
        i6pn::ping(&second, &first);
        Self { gateway, first, second, other, stranger, underlay, region }
    }

    /// A packet between two containers, with a text in it.
    fn inner(from: &Tenant, to: &Tenant, text: &str) -> Vec<u8> {
        let (from, to) = ((from.i6pn(), 1000).into(), (to.i6pn(), 80).into());
        forge::udp(from, to, text.as_bytes())
    }

    /// The same, carried as hosts carry it.
    fn carried(&self, ends: [IpAddr; 2], options: &[u8], inner: &[u8]) -> Vec<u8> {
        let region = forge::region_of(self.first.i6pn());
        let [from, to] = ends.map(|address| SocketAddr::new(address, GENEVE_PORT));
        forge::udp(from, to, &geneve(region, options, inner))
    }

    /// A tap of somebody on the underlay, whose frames go towards the first host.
    fn tap_of(&self, place: &Place) -> Tap {
        place.tap_towards(&self.region.scene, &self.region.hosts[0].place, self.underlay)
    }
}

#[test]
fn strangers_on_the_underlay_bring_nothing_in() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let all = Targets::of(Plan::over(underlay));
        let witness = Witness::of(&all.first);
        let at_first = all.first.tap();
        let mut attempts = Attempts::new(&all.region.hosts[0].edge, "tc_uplink", &[&at_first]);
        let tap = all.tap_of(&all.stranger);
        let host = all.region.hosts[0].place.underlay[0];
        let ends = [all.stranger.underlay[0], host];
        attempts.refused("not_peer", "a stranger as a host", |text| {
            tap.send_packet(&all.carried(
                ends,
                &[],
                &Targets::inner(&all.second, &all.first, text),
            ));
        });
        // Its own address does not come from outside.
        attempts.refused("not_peer", "a stranger as the host itself", |text| {
            let inner = Targets::inner(&all.second, &all.first, text);
            tap.send_packet(&all.carried([host, host], &[], &inner));
        });
        // No router forwards what is inside; the last hop may be anybody.
        let tap = all.region.scene.last_hop(&all.region.hosts[0].place);
        for from in [&all.second, &all.first] {
            attempts.refused("bare_inner", "a bare inner packet", |text| {
                tap.send_packet(&Targets::inner(from, &all.first, text));
            });
        }
        attempts.refused("bare_inner", "a bare packet to a container", |text| {
            let from = SocketAddr::new("2001:db8:9::9".parse().expect("an address"), 1000);
            tap.udp(from, (all.first.i6pn(), 80).into(), text);
        });
        witness.assert_nothing_wrong();
    }
}

#[test]
fn a_host_is_believed_for_its_own_containers_only() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let all = Targets::of(Plan::over(underlay));
        let at_first = all.first.tap();
        let mut attempts = Attempts::new(&all.region.hosts[0].edge, "tc_uplink", &[&at_first]);
        let [first, second] = [0, 1].map(|host| &all.region.hosts[host].place);
        let tap = all.tap_of(second);
        let ends = [second.underlay[0], first.underlay[0]];
        let mut bring = |verdict: &str, what: &str, inner: &dyn Fn(&str) -> Vec<u8>| {
            let what = format!("{underlay}: {what}");
            attempts.refused(verdict, &what, |text| {
                tap.send_packet(&all.carried(ends, &[], &inner(text)));
            });
        };
        bring("forged_source", "as the gateway's container", &|text| {
            Targets::inner(&all.gateway, &all.first, text)
        });
        bring("forged_source", "as the receiver itself", &|text| {
            Targets::inner(&all.first, &all.first, text)
        });
        bring("other_workspace", "across workspaces", &|text| {
            Targets::inner(&all.other, &all.first, text)
        });
        bring("no_such_container", "to nobody", &|text| {
            let mut octets = all.first.i6pn().octets();
            octets[15] ^= 1;
            let to = SocketAddr::new(IpAddr::from(octets), 80);
            forge::udp((all.second.i6pn(), 1000).into(), to, text.as_bytes())
        });
        // Clients and the relay come from gateways only, and to forwarded ports only.
        let client = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 1000));
        bring("forged_source", "as a client of a tunnel", &|text| {
            tcp(client, (all.first.ipv4(), 8000).into(), text)
        });
        bring("between_containers", "IPv4 between containers", &|text| {
            tcp((all.second.ipv4(), 1000).into(), (all.first.ipv4(), 8000).into(), text)
        });
        let region = forge::region_of(all.first.i6pn());
        let [from, to] = ends.map(|address| SocketAddr::new(address, GENEVE_PORT));
        attempts.refused("other_region", "another region's number", |text| {
            let inner = Targets::inner(&all.second, &all.first, text);
            tap.send_packet(&forge::udp(from, to, &geneve(region ^ 1, &[], &inner)));
        });
        attempts.refused("bad_encapsulation", "an option that edge does not make", |text| {
            let inner = Targets::inner(&all.second, &all.first, text);
            let option = [0x01, 0x02, 0x83, 0];
            tap.send_packet(&forge::udp(from, to, &geneve(region, &option, &inner)));
        });
        attempts.refused("bad_encapsulation", "Geneve in Geneve", |text| {
            let inner = Targets::inner(&all.second, &all.first, text);
            let mut twice = geneve(region, &[], &geneve(region, &[], &inner));
            twice[2..4].copy_from_slice(&[0x65, 0x58]);
            tap.send_packet(&forge::udp(from, to, &twice));
        });
        // The scene itself works: the same from an honest host arrives.
        tap.send_packet(&all.carried(
            ends,
            &[],
            &Targets::inner(&all.second, &all.first, "honest"),
        ));
        wait_for("an honest packet", PATIENCE, || at_first.saw("honest").then_some(()));
    }
}

#[test]
fn what_comes_bare_over_a_shared_link_is_judged_all_the_same() {
    let all = Targets::of(Plan::over(Underlay::Direct));
    let [first, second] = [0, 1].map(|host| &all.region.hosts[host].place);
    let at_first = all.first.tap();
    let mut attempts = Attempts::new(&all.region.hosts[0].edge, "tc_uplink", &[&at_first]);
    let tap = second.tap_towards(&all.region.scene, first, all.underlay);
    let mut nobody = all.first.i6pn().octets();
    nobody[15] ^= 1;
    let mut no_host = all.second.i6pn().segments();
    no_host[4] = 4000;
    let own = SocketAddr::from((all.first.i6pn(), 80));
    for (verdict, from, to) in [
        ("forged_source", all.first.i6pn(), own),
        ("forged_source", no_host.into(), own),
        ("other_workspace", all.other.i6pn(), own),
        ("no_such_container", all.second.i6pn(), (IpAddr::from(nobody), 80).into()),
    ] {
        attempts.refused(verdict, &format!("{from} to {to}"), |text| {
            tap.send_packet(&forge::udp((from, 1000).into(), to, text.as_bytes()));
        });
    }
    // Over the internet nothing of it is even looked at.
    let gateway = all.region.gateway();
    let at_gateway = all.gateway.tap();
    let mut attempts = Attempts::new(&gateway.edge, "tc_uplink", &[&at_gateway]);
    let internet = all.region.scene.tap_to(&gateway.place);
    attempts.refused("bare_inner", "over the internet", |text| {
        internet.send_packet(&Targets::inner(&all.second, &all.gateway, text));
    });
    // The scene itself works.
    tap.send_packet(&Targets::inner(&all.second, &all.first, "honest"));
    wait_for("an honest packet", PATIENCE, || at_first.saw("honest").then_some(()));
}

#[test]
fn the_internet_is_no_underlay() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let all = Targets::of(Plan::over(underlay));
        let gateway = all.region.gateway();
        let at_gateway = all.gateway.tap();
        let mut attempts = Attempts::new(&gateway.edge, "tc_uplink", &[&at_gateway]);
        let tap = all.region.scene.tap_to(&gateway.place);
        let ends = [all.region.hosts[1].place.underlay[0], gateway.place.underlay[0]];
        attempts.refused("not_underlay", "a packet between hosts", |text| {
            let inner = Targets::inner(&all.second, &all.gateway, text);
            tap.send_packet(&all.carried(ends, &[], &inner));
        });
        attempts.refused("bare_inner", "a bare inner packet", |text| {
            tap.send_packet(&Targets::inner(&all.second, &all.gateway, text));
        });
    }
}

#[test]
fn without_the_regions_key_nothing_comes_in_over_the_internet() {
    let all = Targets::of(Plan::over(Underlay::V4).over_internet());
    let at_first = all.first.tap();
    let mut attempts = Attempts::new(&all.region.hosts[0].edge, "tc_uplink", &[&at_first]);
    let tap = all.region.scene.tap_to(&all.region.hosts[0].place);
    let [first, second] = [0, 1].map(|host| IpAddr::from(all.region.hosts[host].place.public));
    let honest = Tap::on(&all.region.hosts[0].place.netns, Scene::UPLINK);
    for source in [second, Scene::CLIENT.into()] {
        let verdict = if source == second { "wrong_key" } else { "not_peer" };
        attempts.refused(verdict, &format!("no key, from {source}"), |text| {
            let inner = Targets::inner(&all.second, &all.first, text);
            tap.send_packet(&all.carried([source, first], &[], &inner));
        });
    }
    // The option as hosts send it, with another key in it.
    i6pn::ping(&all.second, &all.first);
    let option = wait_for("an honest packet", PATIENCE, || {
        i6pn::ping(&all.second, &all.first);
        let option = std::cell::RefCell::new(None);
        honest.any(|frame| {
            let found = geneve_options(frame);
            let is_one = found.is_some();
            option.replace(found.or(option.take()));
            is_one
        });
        option.into_inner()
    });
    assert!(option.len() >= 12, "an option header and a key of 64 bits: {option:02x?}");
    attempts.refused("wrong_key", "another key", |text| {
        let mut wrong = option.clone();
        wrong[11] ^= 1;
        let inner = Targets::inner(&all.second, &all.first, text);
        tap.send_packet(&all.carried([second, first], &wrong, &inner));
    });
    // With the right one it would have come in: it was the key that kept it out.
    let inner = Targets::inner(&all.second, &all.first, "the right key");
    tap.send_packet(&all.carried([second, first], &option, &inner));
    wait_for("the right key", PATIENCE, || at_first.saw("the right key").then_some(()));
}

#[test]
fn a_program_on_a_host_cannot_speak_for_it() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let all = Targets::of(Plan::over(underlay));
        let [first, second] = [0, 1].map(|host| &all.region.hosts[host].place);
        let at_first = Tap::on(&first.netns, "un0");
        let at_container = all.first.tap();
        let region = forge::region_of(all.first.i6pn());
        let socket = second.netns.enter(|| UdpSocket::bind((second.underlay[0], 0)).unwrap());
        let send = |port: u16, text: &str| {
            let inner = Targets::inner(&all.second, &all.first, text);
            let to = SocketAddr::new(first.underlay[0], port);
            // The kernel tells a program that its packet was dropped.
            socket.send_to(&geneve(region, &[], &inner), to).ok();
        };
        send(GENEVE_PORT, "as a host");
        // Sent later by the same way, and seen.
        send(GENEVE_PORT + 1, "another port");
        wait_for("the other port", PATIENCE, || at_first.saw("another port").then_some(()));
        assert!(!at_first.saw("as a host") && !at_container.saw("as a host"), "{underlay}");
    }
}

#[test]
fn with_no_program_attached_an_underlay_is_a_closed_door() {
    for underlay in Underlay::ALL {
        let all = Targets::of(Plan::over(underlay));
        let at_first = all.first.tap();
        let host = &all.region.hosts[0];
        let at_host = Tap::on(&host.place.netns, "un0");
        detach(&host.edge);
        let tap = all.region.scene.last_hop(&host.place);
        let ends = [all.region.hosts[1].place.underlay[0], host.place.underlay[0]];
        let client = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 1000));
        let (inner, v4) = ("a bare inner packet", "a bare packet of a client");
        tap.send_packet(&Targets::inner(&all.second, &all.first, inner));
        tap.udp(client, (all.first.ipv4(), 8000).into(), v4);
        let carried = "a carried one";
        if underlay != Underlay::Direct {
            let inner = Targets::inner(&all.second, &all.first, carried);
            tap.send_packet(&all.carried(ends, &[], &inner));
        }
        let last = "the last one";
        tap.udp(client, (host.place.public, 9).into(), last);
        wait_for("all of it", PATIENCE, || at_host.saw(last).then_some(()));
        for text in [inner, v4, carried] {
            assert!(!at_first.saw(text), "{underlay}: {text} arrived");
        }
    }
}

/// Unpins every link of the instance, which detaches its programs.
fn detach(edge: &tests::edge::Edge) {
    let links = edge.pins().join("links");
    for pin in std::fs::read_dir(&links).expect("the instance's pins") {
        std::fs::remove_file(pin.expect("a pin").path()).expect("removing a pin");
    }
    // The kernel lets go of a program in its own time.
    wait_for("the programs to be gone", PATIENCE, || {
        let mut command = edge.netns().command("bpftool");
        let shown = command.args(["net", "show"]).output_of().ok();
        (!shown.stdout.contains("tc_uplink")).then_some(())
    });
}

/// The options of a frame between hosts, if it has any.
fn geneve_options(frame: &[u8]) -> Option<Vec<u8>> {
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).ok()?;
    let Some(etherparse::TransportHeader::Udp(udp)) = headers.transport else { return None };
    let payload = headers.payload.slice();
    let options = usize::from(payload.first()? & 0x3f) * 4;
    let is_keyed = udp.destination_port == GENEVE_PORT && options > 0;
    is_keyed.then(|| payload[8..8 + options].to_vec())
}

/// A TCP packet that does as if it belonged to a connection.
fn tcp(from: SocketAddr, to: SocketAddr, text: &str) -> Vec<u8> {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (from.ip(), to.ip()) else { panic!("not IPv4") };
    let builder = etherparse::PacketBuilder::ipv4(a.octets(), b.octets(), 64);
    let builder = builder.tcp(from.port(), to.port(), 1000, 64240).ack(2000);
    let mut packet = Vec::new();
    builder.write(&mut packet, text.as_bytes()).expect("a packet");
    packet
}
