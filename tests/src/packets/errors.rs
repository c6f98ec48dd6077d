//! ICMP errors, which name a tunnel only by the packet that they quote.

use edge_common::verdict::Verdict;

use super::{
    Case, egress, not_ours,
    plan::{Plan, icmp, tcp, udp},
    refused,
    scene::{
        CLIENT, CLIENT_V6, INNER, INNER_V6, OWN_PORT, OWN_PORT_V6, PUBLIC, PUBLIC_V6, RELAYED,
        ROUTER, ROUTER_V6, SERVER,
    },
};

const TCP_HEADER: usize = 20;

/// ICMP errors about what a tunnel's container sent.
pub fn from_outside() -> Vec<Case> {
    let reply = tcp(PUBLIC, CLIENT);
    let reply_v6 = tcp(PUBLIC_V6, CLIENT_V6);
    let v4 = |kind, code, quote: &[u8]| icmp(ROUTER, "192.0.2.10", kind, code, quote);
    let v6 = |kind, quote: &[u8]| icmp(ROUTER_V6, "2001:db8::10", kind, 0, quote);
    let relayed = |name: &str, sent: Plan, arrives: Plan| {
        Case::delivered(name, sent.build(), arrives.build(), Verdict::IcmpError, SERVER)
    };
    let mut cases = Vec::new();
    for (name, kind, code) in [
        ("fragmentation needed", 3, 4),
        ("port unreachable", 3, 3),
        ("time exceeded", 11, 0),
        ("parameter problem", 12, 0),
    ] {
        for bytes in [8, TCP_HEADER + 7] {
            let quote = reply.quote(bytes);
            let inside = requoted(&reply, &reply.clone().from(INNER), bytes);
            let arrives = icmp(ROUTER, "100.64.0.2", kind, code, &inside);
            cases.push(relayed(name, v4(kind, code, &quote), arrives));
        }
    }
    for (name, kind) in
        [("unreachable", 1), ("packet too big", 2), ("time exceeded", 3), ("parameter problem", 4)]
    {
        for bytes in [8, TCP_HEADER + 7] {
            let quote = reply_v6.quote(bytes);
            let inside = requoted(&reply_v6, &reply_v6.clone().from(INNER_V6), bytes);
            let arrives = icmp(ROUTER_V6, "fdaa:0:1:5:1::2", kind, 0, &inside);
            cases.push(relayed(name, v6(kind, &quote), arrives));
        }
    }
    let other_port = reply.clone().from("192.0.2.10:20002");
    let quoted_udp = udp(PUBLIC, CLIENT);
    cases.extend([
        not_ours("quotes another port", &v4(3, 4, &other_port.quote(8))),
        not_ours("quotes a client's packet", &v4(3, 4, &tcp(CLIENT, PUBLIC).quote(8))),
        not_ours("quotes UDP", &v4(3, 3, &quoted_udp.quote(8))),
        not_ours("quotes a later fragment", &v4(3, 4, &reply.clone().fragment(8, false).quote(8))),
        not_ours("quotes a first fragment", &v4(3, 4, &reply.clone().fragment(0, true).quote(8))),
        not_ours("quotes too little", &v4(3, 4, &reply.quote(2))),
        not_ours("quotes nothing", &v4(3, 4, &[])),
        not_ours("redirect", &v4(5, 1, &reply.quote(8))),
        not_ours("echo reply", &v4(0, 0, &reply.quote(8))),
        not_ours("quotes another sender", &icmp(ROUTER, "192.0.2.11", 3, 4, &reply.quote(8))),
        not_ours(
            "quotes another sender, IPv6",
            &icmp(ROUTER_V6, "2001:db8::11", 2, 0, &reply_v6.quote(8)),
        ),
        not_ours("echo reply, IPv6", &v6(129, &reply_v6.quote(8))),
        not_ours(
            "quotes mapped addresses",
            &icmp(
                ROUTER_V6,
                "::ffff:192.0.2.10",
                2,
                0,
                &tcp("[::ffff:192.0.2.10]:20001", CLIENT_V6).quote(8),
            ),
        ),
        not_ours("in a fragment", &v4(3, 4, &reply.quote(8)).fragment(0, true)),
        not_ours("with options", &v4(3, 4, &reply.quote(8)).ip_options(&[1; 4])),
        refused(
            "from the pool",
            &v4(3, 4, &reply.quote(8)).from("100.64.0.9"),
            Verdict::ForgedSource,
        ),
        refused(
            "to the container itself",
            &icmp(ROUTER, "100.64.0.2", 3, 4, &tcp(INNER, CLIENT).quote(8)),
            Verdict::BareInner,
        ),
    ]);
    cases
}

/// ICMP errors about what a client sent through a tunnel.
pub fn from_containers() -> Vec<Case> {
    let (got, got_v6) = (tcp(CLIENT, INNER), tcp(CLIENT_V6, INNER_V6));
    let client = "198.51.100.7";
    let client_v6 = "2001:db8:1::7";
    let mut cases = Vec::new();
    for bytes in [8, TCP_HEADER + 7] {
        let outside = requoted(&got, &got.clone().to(PUBLIC), bytes);
        let sent = icmp("100.64.0.2", client, 3, 4, &got.quote(bytes));
        let leaves = icmp("192.0.2.10", client, 3, 4, &outside);
        cases.push(Case::sent("IPv4", sent.build(), leaves.build(), Verdict::IcmpError));

        let outside = requoted(&got_v6, &got_v6.clone().to(PUBLIC_V6), bytes);
        let sent = icmp("fdaa:0:1:5:1::2", client_v6, 2, 0, &got_v6.quote(bytes));
        let leaves = icmp("2001:db8::10", client_v6, 2, 0, &outside);
        cases.push(Case::sent("IPv6", sent.build(), leaves.build(), Verdict::IcmpError));
    }
    let about = |quoted: &Plan| icmp("100.64.0.2", client, 3, 3, &quoted.quote(8));
    cases.extend([
        egress("about another port", &about(&got.clone().to(OWN_PORT))),
        egress("about its own packet", &about(&tcp(INNER, CLIENT))),
        egress("about another's packet", &about(&tcp(CLIENT, "100.64.0.4:8000"))),
        egress("to somebody else", &about(&got).to("198.51.100.99")),
        refused(
            "to somebody else, IPv6",
            &icmp("fdaa:0:1:5:1::2", "2001:db8:1::99", 1, 0, &got_v6.quote(8)),
            Verdict::NoIpv6Egress,
        ),
        egress("about UDP", &about(&udp(CLIENT, INNER))),
        refused(
            "about another's raw tunnel",
            &icmp("100.64.0.3", client, 3, 3, &got.quote(8)),
            Verdict::NoEgress,
        ),
        refused(
            "about a port of userspace",
            &icmp("100.64.0.3", client, 3, 3, &tcp(CLIENT, RELAYED).quote(8)),
            Verdict::NoEgress,
        ),
        refused(
            "about nothing, IPv6",
            &icmp("fdaa:0:1:5:1::2", client_v6, 1, 0, &tcp(CLIENT_V6, OWN_PORT_V6).quote(8)),
            Verdict::NoIpv6Egress,
        ),
    ]);
    cases
}

/// A quote after its rewrite. The quoted segment's own checksum stays as its sender wrote it: no
/// stack looks at it, and most quotes end before it.
fn requoted(before: &Plan, after: &Plan, bytes: usize) -> Vec<u8> {
    const CHECKSUM: usize = 16;
    let (old, mut new) = (before.quote(bytes), after.quote(bytes));
    if bytes >= CHECKSUM + 2 {
        let at = old.len() - bytes + CHECKSUM;
        new[at..at + 2].copy_from_slice(&old[at..at + 2]);
    }
    new
}
