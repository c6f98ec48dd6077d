//! The private network between containers of one host, and what its senders are told.

use edge_common::verdict::Verdict;

use super::{
    Case,
    plan::{Plan, icmp, mss, syn, tcp, udp},
    refused,
    scene::{OTHER, OWN_PORT_V6, Owner, SERVER},
    told,
};

const OTHERS: &str = "[fdaa:0:1:5:1::4]:80";
const QUIETS: &str = "[fdaa:0:1:5:1::3]:80";
const STRANGERS: &str = "[fdaa:0:2:5:1::5]:80";
/// See [`OWN_PORT_V6`].
const OWN: &str = "fdaa:0:1:5:1::2";

/// IANA numbers of IPv6 extension headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Whatever IPv6 carries goes on as it is; nothing else does.
pub fn on_one_host() -> Vec<Case> {
    let reaches = |name: &str, plan: &Plan, receiver: Owner| {
        Case::delivered(name, plan.build(), plan.build(), Verdict::I6pn, receiver)
    };
    let sent = tcp(OWN_PORT_V6, OTHERS);
    let datagram = udp(OWN_PORT_V6, OTHERS);
    let ping = |kind| icmp(OWN, "fdaa:0:1:5:1::4", kind, 0, b"ping");
    let many = (0..6).fold(sent.clone(), |plan, _| plan.extension(DESTINATION_OPTIONS));
    let cases = vec![
        reaches("TCP", &sent, OTHER),
        reaches("SYN", &syn(OWN_PORT_V6, OTHERS, &mss(1440)), OTHER),
        reaches("UDP", &datagram, OTHER),
        reaches("from a forwarded port", &syn("[fdaa:0:1:5:1::2]:8000", OTHERS, &[]), OTHER),
        reaches("to itself", &tcp(OWN_PORT_V6, "[fdaa:0:1:5:1::2]:80"), SERVER),
        reaches("echo request", &ping(128), OTHER),
        reaches("an error", &icmp(OWN, "fdaa:0:1:5:1::4", 1, 4, &sent.quote(8)), OTHER),
        reaches("packet too big", &icmp(OWN, "fdaa:0:1:5:1::4", 2, 0, &sent.quote(8)), OTHER),
        reaches("first fragment", &datagram.clone().fragment(0, true), OTHER),
        reaches("later fragment", &datagram.clone().fragment(8, false), OTHER),
        reaches("hop-by-hop", &sent.clone().extension(HOP_BY_HOP), OTHER),
        reaches("routing header", &sent.clone().extension(ROUTING), OTHER),
        reaches("more extension headers than are read", &many, OTHER),
        reaches(
            "a port of tunnels between hosts",
            &udp(OWN_PORT_V6, "[fdaa:0:1:5:1::4]:6081"),
            OTHER,
        ),
    ];
    let mut refusals = Vec::new();
    for (to, verdict) in [(STRANGERS, Verdict::OtherWorkspace), (QUIETS, Verdict::NoI6pn)] {
        let sent = tcp(OWN_PORT_V6, to);
        refusals.extend([
            told("TCP", &sent, verdict),
            told("UDP", &udp(OWN_PORT_V6, to), verdict),
            told("first fragment", &sent.clone().fragment(0, true), verdict),
            told("large", &udp(OWN_PORT_V6, to).payload(&[0xa5; 1200]), verdict),
            told("small", &udp(OWN_PORT_V6, to).payload(&[]), verdict),
            told("odd", &udp(OWN_PORT_V6, to).payload(&[1, 2, 3]), verdict),
            told("hop-by-hop", &sent.clone().extension(HOP_BY_HOP), verdict),
            // No error is answered by another, and nobody waits for part of a packet.
            refused("later fragment", &sent.fragment(8, false), verdict),
        ]);
        let [end, _] = to[1..].split(']').collect::<Vec<_>>()[..] else { panic!("an end") };
        refusals.push(told("echo request", &icmp(OWN, end, 128, 0, b"ping"), verdict));
        for (name, kind) in [("unreachable", 1), ("too big", 2), ("redirect", 137)] {
            let quote = tcp(to, OWN_PORT_V6).quote(8);
            refusals.push(refused(name, &icmp(OWN, end, kind, 0, &quote), verdict));
        }
    }
    [cases, refusals].concat()
}
