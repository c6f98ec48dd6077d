//! The private network between hosts, over each kind of underlay: whatever goes between two
//! containers of one machine goes between two of several.

use tests::{
    i6pn::{self, LARGE_DATAGRAM},
    letters::{Mailbox, Writer},
    region::{Plan, Region, Underlay},
    tenant::Tenant,
};

#[test]
fn everything_goes_between_hosts_over_a_shared_link() {
    everything(Underlay::Direct);
}

#[test]
fn everything_goes_between_hosts_over_an_ipv4_underlay() {
    everything(Underlay::V4);
}

#[test]
fn everything_goes_between_hosts_over_an_ipv6_underlay() {
    everything(Underlay::V6);
}

fn everything(underlay: Underlay) {
    let region = Region::over(underlay);
    // On every machine one, on one of them two.
    let names = ["gateway", "first", "second", "third"];
    let tenants: Vec<Tenant> =
        region.machines().zip(names).map(|(machine, name)| machine.private(name)).collect();
    let neighbour = region.hosts[0].private("neighbour");
    let all: Vec<&Tenant> = tenants.iter().chain([&neighbour]).collect();
    let mailboxes: Vec<_> = all.iter().map(|tenant| Mailbox::of(tenant)).collect();
    let others = |own: usize| {
        let others = all.iter().enumerate().filter(move |(index, _)| *index != own);
        others.map(|(_, tenant)| tenant.i6pn()).collect::<Vec<_>>()
    };
    let _writers: Vec<_> = (0..all.len()).map(|own| Writer::of(all[own], &others(own))).collect();

    let [gateway, first, second, third] = &tenants[..] else { panic!("one a machine") };
    for (from, to) in [(first, second), (third, first), (gateway, second), (third, gateway)] {
        i6pn::everything(from, to);
    }
    i6pn::everything(&neighbour, first);
    i6pn::everything(&neighbour, third);
    // All of them write to all, and each gets what is its own.
    for (own, mailbox) in mailboxes.iter().enumerate() {
        for (from, tenant) in all.iter().enumerate() {
            if from != own {
                mailbox.wait_for_more(tenant);
            }
        }
        mailbox.assert_own();
    }
    let left = region.hosts[0].edge.metrics().packets("tc_container", "i6pn");
    let came = region.hosts[0].edge.metrics().packets("tc_uplink", "i6pn");
    assert!(left > 100.0 && came > 100.0, "{left} packets left the first host, {came} came");
}

#[test]
fn native_xdp_takes_what_comes_from_other_hosts() {
    for underlay in [Underlay::Direct, Underlay::V4, Underlay::V6] {
        // The far end does what a NIC does: XDP sees whole frames and finished checksums.
        let plan = Plan::over(underlay).hosts(2).whole_frames();
        let plan = plan.host_arguments_more(&["--datapath", "xdp"]);
        let region = plan.gateway_arguments_more(&["--datapath", "xdp"]).up();
        let [a, b] = [0, 1].map(|host| region.hosts[host].private(&format!("c{host}")));
        i6pn::everything(&a, &b);
        i6pn::everything(&b, &a);
        let counts = region.hosts[1].edge.metrics();
        let judged = counts.packets("xdp_uplink", "i6pn");
        assert!(judged > 100.0, "{underlay}: XDP judged {judged} packets");
    }
}

#[test]
fn larger_packets_fit_where_the_underlay_has_room() {
    for underlay in [Underlay::Direct, Underlay::V4, Underlay::V6] {
        let region = Plan::over(underlay).hosts(2).mtu(9000).up();
        let [a, b] = [0, 1].map(|host| region.hosts[host].private(&format!("c{host}")));
        let shown = a.netns.ip(&["link", "show", "eth0"]);
        let overhead = match underlay {
            Underlay::Direct => 0,
            Underlay::V4 => 36,
            Underlay::V6 => 56,
        };
        assert!(shown.contains(&format!("mtu {}", 9000 - overhead)), "{underlay}: {shown}");
        i6pn::tcp(&a, &b, 16 << 20);
        i6pn::udp(&a, &b, 3 * LARGE_DATAGRAM);
    }
}

#[test]
fn a_narrow_place_in_the_underlay_is_found_and_kept_to() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let region = Plan::over(underlay).hosts(2).up();
        let [a, b] = [0, 1].map(|host| region.hosts[host].private(&format!("c{host}")));
        i6pn::ping(&a, &b);
        region.scene.narrow(&region.hosts[1].place, 1400);
        i6pn::tcp(&a, &b, 4 << 20);
        i6pn::udp(&a, &b, LARGE_DATAGRAM);
        let host = &region.hosts[0].edge;
        assert!(host.metrics().packets("tc_uplink", "icmp_error") > 0.0, "{underlay}");
        assert!(host.metrics().packets("tc_container", "too_big") > 0.0, "{underlay}");
        let route = a.netns.ip(&["route", "get", &b.container.i6pn]);
        assert!(route.contains("mtu 1"), "{underlay}: the container knows no better: {route}");
        // The other way is as wide as ever.
        i6pn::tcp(&b, &a, 4 << 20);
    }
}

#[test]
fn a_region_over_the_internet_has_a_key_and_works_as_any_other() {
    let region = Plan::over(Underlay::V4).hosts(2).over_internet().up();
    let [a, b] = [0, 1].map(|host| region.hosts[host].private(&format!("c{host}")));
    i6pn::everything(&a, &b);
    i6pn::everything(&b, &a);
}
