//! The scene of a region, before any daemon: what other tests take for granted of it.

use std::net::IpAddr;

use tests::{
    lab::PATIENCE,
    netns::NetNs,
    process::{Start as _, wait_for},
    region::{Place, Plan, Scene, Underlay},
};

struct Three {
    scene: Scene,
    places: [Place; 3],
}

impl Three {
    fn of(plan: &Plan) -> Self {
        let scene = Scene::new(plan);
        let places = [1, 11, 12].map(|number| scene.place(&format!("place{number}"), number));
        Self { scene, places }
    }
}

#[test]
fn every_place_reaches_every_other_over_each_underlay_and_the_internet_does_not() {
    for underlay in Underlay::ALL {
        let Three { scene, places } = Three::of(&Plan::over(underlay).links(2));
        for (from, to) in places.iter().flat_map(|from| places.iter().map(move |to| (from, to))) {
            for address in &to.underlay {
                reaches(&from.netns, *address, 56);
            }
            reaches(&from.netns, to.public.into(), 56);
            reaches(&from.netns, to.public_v6.into(), 56);
        }
        let inside = &places[1].underlay[0];
        assert!(!pings(&scene.internet, inside, 56), "{underlay}: the internet reaches {inside}");
        reaches(&places[0].netns, Scene::CLIENT.into(), 56);
        reaches(&scene.internet, places[0].public_v6.into(), 56);
    }
}

#[test]
fn links_can_be_narrow_cut_and_mended() {
    for underlay in Underlay::ALL {
        let Three { scene, places: [a, b, c] } = Three::of(&Plan::over(underlay).mtu(1400));
        let (to_a, to_b) = (a.underlay[0], b.underlay[0]);
        // Both have 8 bytes of ICMP, and IPv4 and IPv6 their 20 or 40.
        let headers = if to_b.is_ipv4() { 28 } else { 48 };
        reaches(&a.netns, to_b, 1400 - headers);
        assert!(!pings(&a.netns, &to_b, 1401 - headers), "{underlay}");
        if underlay != Underlay::Direct {
            scene.narrow(&b, 1300);
            assert!(!pings(&a.netns, &to_b, 1301 - headers), "{underlay}");
            let route = a.netns.ip(&["route", "get", &to_b.to_string()]);
            assert!(route.contains("mtu 1300"), "the router said nothing: {route}");
            reaches(&a.netns, to_b, 1300 - headers);
        }
        b.cut(0);
        assert!(!pings(&a.netns, &to_b, 56), "{underlay}: a cut link carries");
        reaches(&a.netns, c.underlay[0], 56);
        b.mend(0);
        reaches(&a.netns, to_b, 56);
        reaches(&b.netns, to_a, 56);
    }
}

#[test]
fn a_region_over_the_internet_has_no_other_underlay() {
    let Three { places: [a, b, _], .. } = Three::of(&Plan::over(Underlay::V4).over_internet());
    assert_eq!(b.underlay, [IpAddr::from(b.public)]);
    reaches(&a.netns, b.underlay[0], 56);
    assert!(!a.netns.ip(&["link"]).contains("un0"));
}

/// Whether an echo request of so many bytes behind its header, never cut in pieces, is answered.
fn pings(from: &NetNs, to: &IpAddr, bytes: u32) -> bool {
    let mut command = from.command("ping");
    command.args(["-M", "do", "-c", "1", "-W", "1", "-s", &bytes.to_string(), &to.to_string()]);
    command.output_of().status.success()
}

/// Waits for one that is.
#[track_caller]
fn reaches(from: &NetNs, to: IpAddr, bytes: u32) {
    wait_for(&format!("{} to reach {to}", from.name()), PATIENCE, || {
        pings(from, &to, bytes).then_some(())
    });
}
