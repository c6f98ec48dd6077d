//! What containers and the relay send to other hosts, and what clients send to their containers.

use edge_common::{decide::Passage, verdict::Verdict};

use super::{
    Case,
    around::Around,
    egress,
    plan::{ACK, Plan, RST, SYN, icmp, mss, syn, syn_ack, tcp, udp},
    refused,
    scene::{
        BY_GATEWAY, BY_GATEWAY_SLOT, BY_GATEWAY_V6, CLIENT, CLIENT_V6, FAR, FAR_CONTAINER,
        FAR_INNER, FAR_INNER_V6, FAR_MTU, FAR_PUBLIC, FAR_RELAY, FAR_SECOND, FAR_SLOT, GATEWAY,
        INNER, MEMBERS, MSS, MSS_V6, MTU, NEIGHBOUR, OTHER_MEMBERS, OWN_PORT, OWN_PORT_V6, RELAY,
        RELAYED, ROUTER, ROUTER_V6, Region, UNDERLAY_V6, UNDERLAYS,
    },
    told, told_of,
};
use crate::model;

/// A packet that goes to a host: `flow` is as it came, `leaves` what is carried.
fn carried(name: &str, region: Region, host: u32, came: &Plan, leaves: &Plan) -> Case {
    let (came, leaves) = (came.build(), leaves.build());
    let port = model::source_port(&came);
    let (way, next_hop) = match host {
        GATEWAY => (0, UNDERLAY_V6[1]),
        // Of two ways a flow takes one; which, the model says by its own means.
        FAR if model::way(&came, 2) == 0 => (0, UNDERLAY_V6[2]),
        _ => (1, FAR_SECOND),
    };
    if region == Region::Direct {
        return Case::sent(name, came, leaves, Verdict::I6pn)
            .leaving_by(UNDERLAYS[way], Some(next_hop));
    }
    let mut around =
        Around::new(0, if host == GATEWAY { 1 } else { 2 }, host != GATEWAY, port, region);
    if way == 1 {
        around.from = "fd0a::1".parse().expect("an address");
        around.to = FAR_SECOND.parse().expect("an address");
    }
    let v4 = leaves[12..14] == [0x08, 0x00];
    around.traffic_class = if v4 { leaves[15] } else { leaves[14] << 4 | leaves[15] >> 4 };
    Case::sent(name, came, around.wrap(&leaves), Verdict::I6pn).leaving_by(UNDERLAYS[way], None)
}

fn named(case: Case, verdict: Verdict) -> Case {
    Case { verdict, ..case }
}

/// Out of the veths of containers and of the service namespace.
pub fn from_containers(region: Region) -> Vec<Case> {
    [private(region), relayed(region), replies(region), outside()].concat()
}

fn private(region: Region) -> Vec<Case> {
    let goes = |name: &str, host, plan: &Plan| carried(name, region, host, plan, plan);
    let sent = tcp(OWN_PORT_V6, NEIGHBOUR);
    let far = udp(OWN_PORT_V6, FAR_CONTAINER);
    let (own, neighbour) = ("fdaa:0:1:5:1::2", "fdaa:0:1:5:2::2");
    let fits = |plan: &Plan, mtu: u32| {
        let headers = plan.clone().payload(&[]).build().len() - 14;
        plan.clone().payload(&vec![0x5a; mtu as usize - headers])
    };
    let exceeds = |plan: &Plan, mtu: u32| {
        let headers = plan.clone().payload(&[]).build().len() - 14;
        plan.clone().payload(&vec![0x5a; mtu as usize - headers + 1])
    };
    let too_big = |name: &str, plan: &Plan, mtu| {
        told_of(name, &exceeds(plan, mtu).build(), Verdict::TooBig, mtu)
    };
    let mut cases = vec![
        goes("TCP", GATEWAY, &sent),
        goes(
            "SYN, as large a segment as it likes",
            GATEWAY,
            &syn(OWN_PORT_V6, NEIGHBOUR, &mss(8960)),
        ),
        goes("from a forwarded port", GATEWAY, &tcp("[fdaa:0:1:5:1::2]:8000", NEIGHBOUR)),
        goes("echo request", GATEWAY, &icmp(own, neighbour, 128, 0, b"ping")),
        goes(
            "an error",
            GATEWAY,
            &icmp(own, neighbour, 1, 4, &tcp(NEIGHBOUR, OWN_PORT_V6).quote(8)),
        ),
        goes("first fragment", GATEWAY, &sent.clone().fragment(0, true)),
        goes("later fragment", GATEWAY, &sent.clone().fragment(8, false)),
        goes("extension headers", GATEWAY, &sent.clone().extension(0).extension(43).extension(60)),
        goes("as large as fits", GATEWAY, &fits(&sent, MTU)),
        goes("as large as fits, another way", FAR, &fits(&far, FAR_MTU)),
        too_big("one byte more", &sent, MTU),
        too_big("one byte more, another way", &far, FAR_MTU),
        told("another region", &tcp(OWN_PORT_V6, "[fdaa:0:1:6:2::2]:80"), Verdict::OtherRegion),
        told(
            "another workspace",
            &tcp(OWN_PORT_V6, "[fdaa:0:2:5:2::2]:80"),
            Verdict::OtherWorkspace,
        ),
        told("without i6pn", &tcp("[fdaa:0:1:5:1::3]:1", NEIGHBOUR), Verdict::NoI6pn),
        told("nobody here", &tcp(OWN_PORT_V6, "[fdaa:0:1:5:1::77]:80"), Verdict::NoSuchContainer),
        told("no such host", &tcp(OWN_PORT_V6, "[fdaa:0:1:5:9::9]:80"), Verdict::NoSuchHost),
        told("host 0", &tcp(OWN_PORT_V6, "[fdaa:0:1:5::9]:80"), Verdict::NoSuchHost),
        refused(
            "the relay, IPv6",
            &tcp("[fdaa:0:1:5:1::1]:1", FAR_INNER_V6),
            Verdict::NotForwarded,
        ),
        refused(
            "another's source",
            &tcp("[fdaa:0:1:5:2::2]:1", FAR_CONTAINER),
            Verdict::ForgedSource,
        ),
    ];
    // Flows take both ways.
    for port in 0..16 {
        let plan = far.clone().from(&format!("[{own}]:{}", 40_000 + port));
        cases.push(goes("a flow", FAR, &plan));
    }
    // DSCP and ECN go on the outside, too.
    for class in [0x01, 0x02, 0x03, 0xb8] {
        cases.push(goes("a traffic class", GATEWAY, &sent.clone().traffic_class(class)));
    }
    cases
}

fn relayed(region: Region) -> Vec<Case> {
    let goes = |name: &str, host, plan: &Plan| {
        named(carried(name, region, host, plan, plan), Verdict::Relayed)
    };
    let not_forwarded = |name: &str, plan: &Plan| refused(name, plan, Verdict::NotForwarded);
    let between = |name: &str, plan: &Plan| told(name, plan, Verdict::BetweenContainers);
    vec![
        goes("the relay dials", FAR, &syn(RELAY, FAR_INNER, &mss(1460))),
        goes(
            "the relay dials what only userspace serves",
            FAR,
            &syn(RELAY, "100.64.0.131:9000", &[]),
        ),
        not_forwarded("the relay dials another port", &syn(RELAY, "100.64.0.130:22", &[])),
        not_forwarded("the relay sends UDP", &udp(RELAY, FAR_INNER)),
        not_forwarded("the relay dials nobody's block", &syn(RELAY, "100.64.5.5:8000", &[])),
        not_forwarded("the service's address dials", &syn("169.254.20.10:80", FAR_INNER, &[])),
        goes("a container answers", GATEWAY, &syn_ack(RELAYED, FAR_RELAY, &mss(1460))),
        goes("a raw tunnel's container answers", GATEWAY, &tcp(INNER, FAR_RELAY)),
        between("a container dials a relay", &syn(RELAYED, FAR_RELAY, &[])),
        between("from another port", &tcp("100.64.0.3:22", FAR_RELAY)),
        between("UDP to a relay", &udp(RELAYED, FAR_RELAY)),
        between("beside a relay", &tcp(RELAYED, "100.64.0.66:50000")),
        between("to a container elsewhere", &tcp(OWN_PORT, FAR_INNER)),
        between("to a host that nobody knows", &tcp(OWN_PORT, "100.64.9.2:8000")),
        named(goes("a fellow elsewhere", FAR, &tcp(MEMBERS[0], MEMBERS[2])), Verdict::I6pn),
        named(goes("a fellow elsewhere, UDP", FAR, &udp(MEMBERS[0], MEMBERS[2])), Verdict::I6pn),
        between("a member to another cluster's", &tcp(MEMBERS[0], OTHER_MEMBERS[1])),
        between("a member to a container elsewhere", &tcp(MEMBERS[0], FAR_INNER)),
        between("a container to a member elsewhere", &tcp(OWN_PORT, MEMBERS[2])),
        told("to nobody's block", &tcp(OWN_PORT, "100.64.5.5:80"), Verdict::NoSuchContainer),
        told("to nobody here", &tcp(OWN_PORT, "100.64.0.9:80"), Verdict::NoSuchContainer),
    ]
}

fn replies(region: Region) -> Vec<Case> {
    let goes = |name: &str, came: &Plan, leaves: &Plan, passage| {
        named(carried(name, region, GATEWAY, came, leaves), Verdict::Reply)
            .counted(passage, BY_GATEWAY_SLOT)
    };
    let same = |name: &str, plan: &Plan, passage| goes(name, plan, plan, passage);
    let (sent, sent_v6) = (tcp(BY_GATEWAY, CLIENT), tcp(BY_GATEWAY_V6, CLIENT_V6));
    let accepts = |size| syn_ack(BY_GATEWAY, CLIENT, &mss(size));
    let accepts_v6 = |size| syn_ack(BY_GATEWAY_V6, CLIENT_V6, &mss(size));
    let error = |quoted: &Plan| icmp("100.64.0.2", "198.51.100.7", 3, 4, &quoted.quote(8));
    let error_v6 = |quoted: &Plan| icmp("fdaa:0:1:5:1::2", "2001:db8:1::7", 1, 0, &quoted.quote(8));
    let complains = |name: &str, plan: &Plan| {
        named(carried(name, region, GATEWAY, plan, plan), Verdict::IcmpError)
    };
    let asks = syn(BY_GATEWAY, CLIENT, &mss(1460)).sequence(0x1000);
    let reset = tcp(CLIENT, BY_GATEWAY).flags(RST | ACK).sequence(0).acknowledged(0x1001);
    let reset = reset.window(0).payload(&[]).answer();
    let big = tcp(BY_GATEWAY, CLIENT).payload(&[0; 1400]);
    vec![
        same("IPv4", &sent, Passage::Out),
        same("IPv6", &sent_v6, Passage::Out),
        same("FIN", &sent.clone().flags(1 | ACK), Passage::Out),
        same("SYN-ACK", &accepts(MSS), Passage::Accept),
        goes("SYN-ACK, MSS too large", &accepts(1460), &accepts(MSS), Passage::Accept),
        goes("the same, IPv6", &accepts_v6(1440), &accepts_v6(MSS_V6), Passage::Accept),
        complains("an error", &error(&tcp(CLIENT, BY_GATEWAY))),
        complains("an error, IPv6", &error_v6(&tcp(CLIENT_V6, BY_GATEWAY_V6))),
        Case::bounced("SYN", asks.build(), reset, Verdict::ConnectFromForwardedPort),
        refused("options", &sent.clone().ip_options(&[1; 4]), Verdict::IpOptions),
        refused("first fragment", &sent.clone().fragment(0, true), Verdict::Fragment),
        egress("later fragment", &sent.fragment(8, false)),
        told_of("too big", &big.build(), Verdict::TooBig, MTU),
        told("a gateway that nobody knows", &tcp("100.64.0.2:8101", CLIENT), Verdict::NoSuchHost),
    ]
}

fn outside() -> Vec<Case> {
    let around = udp(OWN_PORT, "198.51.100.7:6081");
    vec![
        refused("Geneve to the internet", &around, Verdict::Encapsulated),
        refused("Geneve to a host", &udp(OWN_PORT, "10.9.0.2:6081"), Verdict::Encapsulated),
        refused("Geneve to this host", &udp(OWN_PORT, "10.9.0.1:6081"), Verdict::Encapsulated),
        refused("from a forwarded port", &udp(INNER, "198.51.100.7:6081"), Verdict::Encapsulated),
        refused("first fragment", &around.clone().fragment(0, true), Verdict::Encapsulated),
        refused("options", &around.clone().ip_options(&[1; 8]), Verdict::Encapsulated),
        // Without the first nobody puts it together.
        egress("later fragment", &around.fragment(1, true)),
        egress("TCP to its port", &tcp(OWN_PORT, "198.51.100.7:6081")),
        egress("from its port", &udp("100.64.0.2:6081", "198.51.100.7:53")),
        told("IPv6", &udp(OWN_PORT_V6, "[2001:db8:1::7]:53"), Verdict::NoIpv6Egress),
        refused("IPv6 to its port", &udp(OWN_PORT_V6, "[fd09::2]:6081"), Verdict::Encapsulated),
    ]
}

/// At the uplink: clients of containers elsewhere.
pub fn from_clients(region: Region) -> Vec<Case> {
    let goes = |name: &str, came: &Plan, leaves: &Plan| {
        named(carried(name, region, FAR, came, leaves), Verdict::Tunnel)
            .counted(Passage::In, FAR_SLOT)
    };
    let complains = |name: &str, came: &Plan, leaves: &Plan| {
        named(carried(name, region, FAR, came, leaves), Verdict::IcmpError)
    };
    let [to, to_v6] = FAR_PUBLIC;
    let (sent, arrives) = (tcp(CLIENT, to), tcp(CLIENT, FAR_INNER));
    let (sent_v6, arrives_v6) = (tcp(CLIENT_V6, to_v6), tcp(CLIENT_V6, FAR_INNER_V6));
    let (reply, reply_v6) = (tcp(to, CLIENT), tcp(to_v6, CLIENT_V6));
    let (inner, inner_v6) = (tcp(FAR_INNER, CLIENT), tcp(FAR_INNER_V6, CLIENT_V6));
    let payload = [0; FAR_MTU as usize];
    vec![
        goes("IPv4", &sent, &arrives),
        goes("IPv6", &sent_v6, &arrives_v6),
        goes(
            "SYN, MSS too large",
            &syn(CLIENT, to, &mss(1460)),
            &syn(CLIENT, FAR_INNER, &mss(MSS)),
        ),
        goes("RST", &sent.clone().flags(RST), &arrives.clone().flags(RST)),
        complains(
            "fragmentation needed",
            &icmp(ROUTER, "192.0.2.10", 3, 4, &reply.quote(8)),
            &icmp(ROUTER, "100.64.0.130", 3, 4, &inner.quote(8)),
        ),
        complains(
            "packet too big",
            &icmp(ROUTER_V6, "2001:db8::10", 2, 0, &reply_v6.quote(8)),
            &icmp(ROUTER_V6, "fdaa:0:1:5:3::2", 2, 0, &inner_v6.quote(8)),
        ),
        refused("options", &sent.clone().ip_options(&[1; 4]), Verdict::IpOptions),
        refused("fragment", &sent.clone().fragment(0, true), Verdict::Fragment),
        refused("from itself", &tcp(to, to), Verdict::ForgedSource),
        refused("from the pool", &tcp("100.64.5.9:1", to), Verdict::ForgedSource),
        Case {
            mtu: FAR_MTU,
            ..refused("too big", &sent.clone().payload(&payload), Verdict::TooBig).deferred()
        },
        refused("no such host", &syn(CLIENT, "192.0.2.10:20021", &[]), Verdict::NoSuchHost)
            .deferred(),
        super::not_ours("another port", &sent.to("192.0.2.10:20022").flags(SYN)),
    ]
}
