//! The private network between containers of one machine: everything within a workspace, nothing
//! beyond it, and whoever asks in vain is told so.

use std::net::SocketAddr;

use tests::{
    i6pn::{self, LARGE_DATAGRAM},
    lab::{Lab, PATIENCE},
    letters::{Mailbox, Writer},
    process::{Start as _, wait_for},
    tap::Tap,
    tenant::Tenant,
};

#[test]
fn containers_of_a_workspace_exchange_whatever_they_like() {
    let lab = Lab::new(&[]);
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    assert!(a.container.private && b.container.private);
    let before = lab.edge.metrics();
    for (from, to) in [(&a, &b), (&b, &a)] {
        i6pn::everything(from, to);
    }
    let after = lab.edge.metrics();
    let carried = after.packets("tc_container", "i6pn") - before.packets("tc_container", "i6pn");
    assert!(carried > 100.0, "{carried} packets");
    // What the network itself is for is not lost by what else the container may do.
    i6pn::tcp(&a, &b, 50 << 20);
}

#[test]
fn who_asks_in_vain_is_told_why_and_it_is_counted() {
    let lab = Lab::new(&[]);
    let private = ["--i6pn", "--workspace", "one"];
    let a = Tenant::new(&lab.edge, "a", &private);
    let b = Tenant::new(&lab.edge, "b", &private);
    let without = Tenant::new(&lab.edge, "without", &["--workspace", "one"]);
    let other = Tenant::new(&lab.edge, "other", &["--i6pn", "--workspace", "two"]);
    let nobody = {
        let mut octets = b.i6pn().octets();
        octets[15] ^= 1;
        octets.into()
    };
    for (from, to, verdict, error) in [
        (&a, other.i6pn(), "other_workspace", libc::EACCES),
        (&a, without.i6pn(), "no_i6pn", libc::EACCES),
        (&without, a.i6pn(), "no_i6pn", libc::EACCES),
        (&a, nobody, "no_such_container", libc::EHOSTUNREACH),
    ] {
        let counted = || lab.edge.metrics().packets("tc_container", verdict);
        let before = counted();
        assert_eq!(i6pn::refusal(from, to), Some(error), "{verdict}");
        assert!(counted() > before, "{verdict} is not counted");
    }
    // The scene itself works.
    i6pn::ping(&a, &b);
}

#[test]
fn ipv4_stays_shut_between_containers_that_share_the_private_network() {
    let lab = Lab::new(&[]);
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let (tap, at_b) = (a.tap(), b.tap());
    let mut attempts = tests::attempts::Attempts::new(&lab.edge, "tc_container", &[&at_b]);
    let (own, to) = (SocketAddr::from((a.ipv4(), 1000)), SocketAddr::from((b.ipv4(), 80)));
    attempts.refused("between_containers", "IPv4", |text| tap.udp(own, to, text));
    let (own, to) = (SocketAddr::from((a.i6pn(), 1000)), SocketAddr::from((b.i6pn(), 80)));
    tap.udp(own, to, "allowed");
    wait_for("IPv6", PATIENCE, || at_b.saw("allowed").then_some(()));
}

#[test]
fn a_container_without_egress_has_its_private_network_and_no_more() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--i6pn", "--no-egress"]);
    let b = Tenant::new(&lab.edge, "b", &["--i6pn", "--no-egress"]);
    i6pn::everything(&a, &b);
    let (tap, outside) = (a.tap(), Tap::on(&lab.internet, "eth0"));
    let mut attempts = tests::attempts::Attempts::new(&lab.edge, "tc_container", &[&outside]);
    let client = SocketAddr::new(Lab::CLIENT.parse().expect("an address"), 80);
    let own = SocketAddr::from((a.ipv4(), 1000));
    attempts.refused("no_egress", "UDP to the internet", |text| tap.udp(own, client, text));
}

#[test]
fn containers_come_and_go_by_the_hundred_and_nobody_gets_anothers_mail() {
    let lab = Lab::new(&[]);
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let stranger = Tenant::new(&lab.edge, "stranger", &["--i6pn", "--workspace", "two"]);
    let mailboxes = [&a, &b, &stranger].map(Mailbox::of);
    let writers = [
        Writer::of(&a, &[b.i6pn(), stranger.i6pn()]),
        Writer::of(&b, &[a.i6pn(), stranger.i6pn()]),
        Writer::of(&stranger, &[a.i6pn(), b.i6pn()]),
    ];
    for batch in 0..if tests::edge::long() { 100 } else { 10 } {
        let names = (0..10).map(|number| format!("guest{batch}-{number}"));
        let guests: Vec<_> = names.map(|name| Tenant::new(&lab.edge, &name, &["--i6pn"])).collect();
        let boxes: Vec<_> = guests.iter().map(Mailbox::of).collect();
        for (guest, mailbox) in guests.iter().zip(&boxes) {
            writers[0].also_to(guest.i6pn());
            mailbox.wait_for_more(&a);
        }
        // The living are heard all the time.
        mailboxes[0].wait_for_more(&b);
        drop(guests);
        mailboxes[1].wait_for_more(&a);
        for mailbox in &boxes {
            mailbox.assert_own();
        }
    }
    for mailbox in &mailboxes {
        mailbox.assert_own();
    }
}

#[test]
fn jumbo_frames_and_small_ones_meet() {
    // The wire decides what a container may send; large datagrams come in pieces either way.
    let lab = Lab::with_wire(&[], |wire| wire.mtu(9000));
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    b.netns.command("ip").args(["link", "set", "eth0", "mtu", "1400"]).output_of().ok();
    i6pn::tcp(&a, &b, 4 << 20);
    i6pn::udp(&b, &a, LARGE_DATAGRAM);
}
