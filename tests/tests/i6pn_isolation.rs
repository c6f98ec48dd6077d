//! Two workspaces never exchange a packet, whatever root in a container forges: on one machine
//! and between hosts. Each attempt has its name among the counters and arrives nowhere.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tests::{
    attempts::Attempts,
    forge::{
        self, DESTINATION_OPTIONS, FRAGMENT, GENEVE_PORT, HOP_BY_HOP, IPV4, IPV6, ROUTING, TCP,
        UDP, extension, geneve, ipv4, ipv6,
    },
    i6pn,
    lab::PATIENCE,
    process::wait_for,
    region::{Machine, Plan, Region, Scene, Underlay},
    tap::Tap,
    tenant::Tenant,
    witness::Witness,
};

/// Workspace "one" with a container on each of two hosts, and "two" with the same.
struct Two {
    ours: [Tenant; 2],
    theirs: [Tenant; 2],
    region: Region,
}

impl Two {
    fn over(underlay: Underlay) -> Self {
        let region = Plan::over(underlay).hosts(2).up();
        let both = |workspace: &str| {
            [0, 1].map(|host: usize| {
                let options = ["--i6pn", "--workspace", workspace];
                region.hosts[host].tenant(&format!("{workspace}{host}"), &options)
            })
        };
        let (ours, theirs) = (both("one"), both("two"));
        // The scene itself works: within a workspace all goes.
        i6pn::ping(&ours[0], &ours[1]);
        i6pn::ping(&theirs[0], &theirs[1]);
        Self { ours, theirs, region }
    }

    fn first_host(&self) -> &Machine {
        &self.region.hosts[0]
    }

    /// Everywhere that something could arrive: at containers, and on the wires between machines.
    fn taps(&self) -> Vec<Tap> {
        let containers = self.theirs.iter().chain([&self.ours[1]]).map(Tenant::tap);
        let underlay = Tap::on(&self.region.hosts[1].place.netns, "un0");
        let gateway = Tap::on(&self.region.gateway().place.netns, "un0");
        let internet = Tap::on(&self.region.scene.internet, "eth0");
        containers.chain([underlay, gateway, internet]).collect()
    }
}

#[test]
fn no_packet_of_any_shape_reaches_another_workspace() {
    for underlay in Underlay::ALL {
        let two = Two::over(underlay);
        let witnesses: Vec<_> = two.theirs.iter().chain([&two.ours[1]]).map(Witness::of).collect();
        let taps = two.taps();
        let all: Vec<&Tap> = taps.iter().collect();
        let mut attempts = Attempts::new(&two.first_host().edge, "tc_container", &all);
        let tap = two.ours[0].tap();
        let own = two.ours[0].i6pn();
        for there in &two.theirs {
            for (what, packet) in shapes(own, there.i6pn()) {
                let what = format!("{underlay}: {what} to {}", there.container.name);
                attempts.refused("other_workspace", &what, |text| tap.send_packet(&packet(text)));
            }
        }
        for (what, packet) in shapes(two.ours[1].i6pn(), two.theirs[1].i6pn()) {
            // A source of the other workspace's, or of a neighbour of one's own.
            attempts.refused("forged_source", what, |text| tap.send_packet(&packet(text)));
        }
        for source in [two.theirs[0].i6pn(), two.theirs[1].i6pn(), two.ours[1].i6pn()] {
            for target in [two.theirs[0].i6pn(), two.theirs[1].i6pn(), two.ours[1].i6pn()] {
                let (from, to) = ((source, 1000).into(), (target, 80).into());
                let what = format!("{underlay}: {source} to {target}");
                attempts.refused("forged_source", &what, |text| tap.udp(from, to, text));
                attempts.refused("forged_source", &what, |text| tap.tcp(from, to, true, text));
            }
        }
        witnesses.iter().for_each(Witness::assert_nothing_wrong);
    }
}

/// Makes a packet with a text in it.
type Make = Box<dyn Fn(&str) -> Vec<u8>>;

/// One address to another in every way that an IPv6 packet can be made.
fn shapes(from: Ipv6Addr, to: Ipv6Addr) -> Vec<(&'static str, Make)> {
    let ends = move || (SocketAddr::from((from, 1000)), SocketAddr::from((to, 80)));
    let datagram = move |text: &str| forge::datagram(ends().0, ends().1, text.as_bytes());
    let wrapped = move |kind: u8| -> Make {
        Box::new(move |text| ipv6(from, to, kind, &extension(kind, UDP, &datagram(text))))
    };
    let piece = move |units: u16, more: bool, next: u8| -> Make {
        Box::new(move |text| {
            // Pieces that are not the last have a multiple of eight bytes.
            let mut rest = datagram(text);
            rest.resize(rest.len().next_multiple_of(8), b'.');
            ipv6(from, to, FRAGMENT, &forge::fragment(next, units, more, &rest))
        })
    };
    vec![
        ("UDP", Box::new(move |text| ipv6(from, to, UDP, &datagram(text)))),
        ("hop by hop", wrapped(HOP_BY_HOP)),
        ("destination options", wrapped(DESTINATION_OPTIONS)),
        ("a routing header", wrapped(ROUTING)),
        (
            "headers in headers",
            Box::new(move |text| {
                let inner = extension(ROUTING, UDP, &datagram(text));
                let middle = extension(DESTINATION_OPTIONS, ROUTING, &inner);
                ipv6(from, to, HOP_BY_HOP, &extension(HOP_BY_HOP, DESTINATION_OPTIONS, &middle))
            }),
        ),
        ("a first fragment", piece(0, true, UDP)),
        ("a later fragment", piece(100, false, UDP)),
        ("a fragment of options", piece(0, true, DESTINATION_OPTIONS)),
        ("a fragment that is all", piece(0, false, TCP)),
        (
            "IPv6 in IPv6",
            Box::new(move |text| ipv6(from, to, IPV6, &ipv6(to, to, UDP, &datagram(text)))),
        ),
        (
            "IPv4 in IPv6",
            Box::new(move |text| {
                let [a, b] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
                ipv6(from, to, IPV4, &ipv4(a, b, UDP, text.as_bytes()))
            }),
        ),
        ("an unknown protocol", Box::new(move |text| ipv6(from, to, 253, text.as_bytes()))),
        ("no next header", Box::new(move |text| ipv6(from, to, 59, text.as_bytes()))),
        (
            "Geneve",
            Box::new(move |text| {
                let inner = ipv6(to, to, UDP, &datagram(text));
                let to = SocketAddr::from((to, GENEVE_PORT));
                forge::udp(ends().0, to, &geneve(forge::region_of(from), &[], &inner))
            }),
        ),
    ]
}

#[test]
fn what_is_inside_of_a_packet_to_a_neighbour_goes_no_further() {
    for underlay in Underlay::ALL {
        let two = Two::over(underlay);
        let at_neighbour = two.ours[1].tap();
        let taps = [two.theirs[0].tap(), two.theirs[1].tap()];
        let witness = Witness::of(&two.theirs[1]);
        let (own, neighbour) = (two.ours[0].i6pn(), two.ours[1].i6pn());
        let tap = two.ours[0].tap();
        for there in &two.theirs {
            // Allowed to whom it is addressed; nobody may unwrap it on the way.
            let text = format!("nested-{}", there.container.name);
            let (from, to) = ((neighbour, 1000).into(), (there.i6pn(), 80).into());
            let inner = forge::udp(from, to, text.as_bytes());
            tap.send_packet(&ipv6(own, neighbour, IPV6, &inner));
            wait_for("the outer packet", PATIENCE, || at_neighbour.saw(&text).then_some(()));
            assert!(!taps.iter().any(|tap| tap.saw(&text)), "{underlay}: it was unwrapped");
        }
        witness.assert_nothing_wrong();
    }
}

#[test]
fn a_container_does_not_pass_for_a_host() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let two = Two::over(underlay);
        let taps = two.taps();
        let all: Vec<&Tap> = taps.iter().collect();
        let mut attempts = Attempts::new(&two.first_host().edge, "tc_container", &all);
        let tap = two.ours[0].tap();
        let (region, hosts) = (forge::region_of(two.ours[0].i6pn()), &two.region.hosts);
        let inner = |text: &str| {
            let ends = ((two.theirs[0].i6pn(), 1000).into(), (two.theirs[1].i6pn(), 80).into());
            geneve(region, &[], &forge::udp(ends.0, ends.1, text.as_bytes()))
        };
        // Source NAT would give it the host's own address.
        let places = hosts.iter().chain(&two.region.gateways).map(|machine| &machine.place);
        let targets = places.flat_map(|place| {
            place.underlay.iter().copied().chain([place.public.into(), place.public_v6.into()])
        });
        let internet = [Scene::CLIENT.into(), Scene::CLIENT_V6.into()];
        for target in targets.chain(internet) {
            let own = match target {
                IpAddr::V4(_) => IpAddr::V4(two.ours[0].ipv4()),
                IpAddr::V6(_) => IpAddr::V6(two.ours[0].i6pn()),
            };
            let (from, to) = (SocketAddr::new(own, 50_000), SocketAddr::new(target, GENEVE_PORT));
            let what = format!("{underlay}: Geneve to {target}");
            attempts.refused("encapsulated", &what, |text| {
                tap.send_packet(&forge::udp(from, to, &inner(text)));
            });
            if let (IpAddr::V4(own), IpAddr::V4(target)) = (own, target) {
                attempts.refused("encapsulated", &format!("{what} in pieces"), |text| {
                    // All but the filling is in the first piece.
                    let filled = format!("{text}{:.<64}", "");
                    let mut datagram = forge::datagram(from, to, &inner(&filled));
                    datagram.truncate((datagram.len() - 56) / 8 * 8);
                    tap.send_packet(&forge::ipv4_piece([own, target], UDP, 0, true, &datagram));
                });
            }
            if let (IpAddr::V6(own), IpAddr::V6(target)) = (own, target) {
                attempts.refused("encapsulated", &format!("{what} behind options"), |text| {
                    let datagram = forge::datagram(from, to, &inner(text));
                    let rest = extension(DESTINATION_OPTIONS, UDP, &datagram);
                    tap.send_packet(&ipv6(own, target, DESTINATION_OPTIONS, &rest));
                });
            }
        }
    }
}

#[test]
fn another_region_a_host_that_is_none_and_a_container_that_is_none_are_named() {
    for underlay in Underlay::ALL {
        let two = Two::over(underlay);
        let own = two.ours[0].i6pn();
        let other = two.ours[1].i6pn().segments();
        let changed = |at: usize, value: u16| {
            let mut segments = other;
            segments[at] = value;
            Ipv6Addr::from(segments)
        };
        let region = changed(3, own.segments()[3] ^ 1);
        let host = changed(4, 4000);
        let local = {
            let mut all = own.segments();
            all[7] ^= 1;
            Ipv6Addr::from(all)
        };
        for (to, verdict, error) in [
            (region, "other_region", libc::EACCES),
            (host, "no_such_host", libc::ENETUNREACH),
            (local, "no_such_container", libc::EHOSTUNREACH),
            (two.theirs[1].i6pn(), "other_workspace", libc::EACCES),
        ] {
            let counted = || two.first_host().edge.metrics().packets("tc_container", verdict);
            let before = counted();
            let told = i6pn::refusal(&two.ours[0], to);
            assert_eq!(told, Some(error), "{underlay}: {verdict}");
            assert!(counted() > before, "{underlay}: {verdict} is not counted");
        }
    }
}
