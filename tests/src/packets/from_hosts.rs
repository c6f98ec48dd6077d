//! What other hosts bring: opened only if everything about it is as the region's hosts make it.

use edge_common::{decide::Passage, verdict::Verdict};

use super::{
    Case,
    around::Around,
    not_ours,
    plan::{ACK, Plan, SYN, icmp, mss, syn, syn_ack, tcp, udp},
    scene::{
        BY_GATEWAY, BY_GATEWAY_SLOT, BY_GATEWAY_V6, CLIENT, CLIENT_V6, FAR_CONTAINER, FAR_INNER,
        FAR_INNER_V6, FAR_PUBLIC, FAR_RELAY, FAR_SLOT, FELLOW, INNER, INNER_V6, MEMBER, MEMBERS,
        MSS, NARROW_ENDS, NEIGHBOUR, OTHER, OTHER_MEMBERS, OWN_PORT, OWN_PORT_V6, Owner, QUIET,
        RELAY, RELAYED, ROUTER, ROUTER_V6, Region, SERVER, SERVICE, SLOT, UNDERLAY, UNDERLAY_V6,
    },
};

/// Who brings a packet, as the underlay's addresses count.
const BY_GATEWAY_HOST: usize = 1;
const BY_FAR: usize = 2;

/// The region that a table is of.
struct Table {
    region: Region,
}

impl Table {
    /// The frame as it comes in, by IPv4 or IPv6.
    fn comes(&self, by: usize, v6: bool, frame: &[u8]) -> Vec<u8> {
        if self.region == Region::Direct {
            return frame.to_vec();
        }
        Around::new(by, 0, v6, 50_000, self.region).wrap(frame)
    }

    fn reaches(&self, name: &str, by: usize, plan: &Plan, verdict: Verdict, to: Owner) -> Case {
        let came = self.comes(by, by_v6(name), &plan.build());
        Case::delivered(name, came, plan.build(), verdict, to)
    }

    fn refused(&self, name: &str, by: usize, plan: &Plan, verdict: Verdict) -> Case {
        Case::refused(name, self.comes(by, by_v6(name), &plan.build()), verdict)
    }

    fn leaves(&self, name: &str, plan: &Plan, leaves: &Plan, verdict: Verdict) -> Case {
        Case::sent(name, self.comes(BY_FAR, true, &plan.build()), leaves.build(), verdict)
    }
}

/// Which family carries a row: half of them each, the same at every run.
const fn by_v6(name: &str) -> bool {
    name.len().is_multiple_of(2)
}

/// Every row.
pub fn all(region: Region) -> Vec<Case> {
    let table = Table { region };
    let around = if region == Region::Direct { Vec::new() } else { around(region) };
    [private(&table), relayed(&table), clients(&table), replies(&table), around].concat()
}

fn private(table: &Table) -> Vec<Case> {
    let sent = tcp(NEIGHBOUR, OWN_PORT_V6);
    let far = tcp(FAR_CONTAINER, OWN_PORT_V6);
    let goes = |name: &str, by, plan: &Plan, to| table.reaches(name, by, plan, Verdict::I6pn, to);
    let no = |name: &str, plan: &Plan, verdict| table.refused(name, BY_FAR, plan, verdict);
    let to = |end: &str| far.clone().to(end);
    let (neighbour, own) = ("fdaa:0:1:5:2::2", "fdaa:0:1:5:1::2");
    let mut cases = vec![
        goes("TCP", BY_GATEWAY_HOST, &sent, SERVER),
        goes("TCP from another", BY_FAR, &far, SERVER),
        goes("to another container", BY_FAR, &to("[fdaa:0:1:5:1::4]:80"), OTHER),
        goes("SYN", BY_FAR, &syn(FAR_CONTAINER, INNER_V6, &mss(8960)), SERVER),
        goes("UDP", BY_FAR, &udp(FAR_CONTAINER, OWN_PORT_V6), SERVER),
        goes("ping", BY_GATEWAY_HOST, &icmp(neighbour, own, 128, 0, b"ping"), SERVER),
        goes("an error", BY_GATEWAY_HOST, &icmp(neighbour, own, 1, 4, &sent.quote(8)), SERVER),
        goes("first fragment", BY_FAR, &far.clone().fragment(0, true), SERVER),
        goes("later fragment", BY_FAR, &far.clone().fragment(8, false), SERVER),
        goes("extension headers", BY_FAR, &far.clone().extension(0).extension(60), SERVER),
        no("without i6pn", &to("[fdaa:0:1:5:1::3]:80"), Verdict::NoI6pn),
        no("another workspace", &to("[fdaa:0:2:5:1::5]:80"), Verdict::OtherWorkspace),
        no("nobody", &to("[fdaa:0:1:5:1::77]:80"), Verdict::NoSuchContainer),
        no("another host", &to("[fdaa:0:1:5:2::2]:80"), Verdict::NoSuchContainer),
        no("another region", &to("[fdaa:0:1:6:1::2]:80"), Verdict::OtherRegion),
        no("the relay", &to("[fdaa:0:1:5:1::1]:80"), Verdict::OtherWorkspace),
        no("from another region", &far.clone().from("[fdaa:0:1:6:3::2]:1"), Verdict::ForgedSource),
        no("from here", &far.clone().from("[fdaa:0:1:5:1::4]:1"), Verdict::ForgedSource),
        no("from nobody's host", &far.clone().from("[fdaa:0:1:5:9::2]:1"), Verdict::ForgedSource),
        no("from the service's address", &tcp("169.254.20.10:80", OWN_PORT), Verdict::ForgedSource),
        no("IPv4", &tcp(FAR_INNER, OWN_PORT), Verdict::BetweenContainers),
        goes("IPv4 between members", BY_FAR, &tcp(MEMBERS[2], MEMBERS[0]), MEMBER),
        goes("IPv4 between members, UDP", BY_FAR, &udp(MEMBERS[2], MEMBERS[1]), FELLOW),
        no(
            "IPv4 to another cluster",
            &tcp(MEMBERS[2], OTHER_MEMBERS[0]),
            Verdict::BetweenContainers,
        ),
        no(
            "IPv4 from another cluster",
            &tcp(OTHER_MEMBERS[1], MEMBERS[0]),
            Verdict::BetweenContainers,
        ),
        no("IPv4 to a member", &tcp(FAR_INNER, MEMBERS[0]), Verdict::BetweenContainers),
        no("IPv4 from a member", &tcp(MEMBERS[2], OWN_PORT), Verdict::BetweenContainers),
        no("IPv4 from a member of this host", &tcp(MEMBERS[1], MEMBERS[0]), Verdict::ForgedSource),
        no("IPv4 to the service", &tcp(FAR_INNER, "169.254.20.10:80"), Verdict::BetweenContainers),
        no("IPv4 from nobody's block", &tcp("100.64.5.5:1", OWN_PORT), Verdict::ForgedSource),
        no("IPv4 from here", &tcp("100.64.0.4:1", OWN_PORT), Verdict::ForgedSource),
    ];
    if table.region != Region::Direct {
        // Only what is around it says who sent it.
        cases.push(no("another host's container", &sent, Verdict::ForgedSource));
        let brought = table.refused(
            "a member",
            BY_GATEWAY_HOST,
            &tcp(MEMBERS[2], MEMBERS[0]),
            Verdict::ForgedSource,
        );
        cases.push(brought);
        cases.push(no("another host's block", &tcp("100.64.0.66:1", INNER), Verdict::ForgedSource));
        let mapped = tcp("[::ffff:100.64.0.65]:50000", "[::ffff:100.64.0.2]:8000");
        cases.push(table.refused("mapped", BY_GATEWAY_HOST, &mapped, Verdict::ForgedSource));
    }
    for congested in [1, 2] {
        let marked = far.clone().traffic_class(congested);
        cases.push(goes("ECN", BY_FAR, &marked, SERVER));
    }
    cases
}

fn relayed(table: &Table) -> Vec<Case> {
    let goes =
        |name: &str, by, plan: &Plan, to| table.reaches(name, by, plan, Verdict::Relayed, to);
    let no = |name: &str, by, plan: &Plan, verdict| table.refused(name, by, plan, verdict);
    vec![
        goes("a gateway's relay dials", 1, &syn(FAR_RELAY, RELAYED, &mss(1460)), QUIET),
        goes("it dials a raw tunnel's container", 1, &syn(FAR_RELAY, INNER, &[]), SERVER),
        no(
            "it dials another port",
            1,
            &syn(FAR_RELAY, "100.64.0.3:22", &[]),
            Verdict::NotForwarded,
        ),
        no("it sends UDP", 1, &udp(FAR_RELAY, RELAYED), Verdict::NotForwarded),
        no("it pings", 1, &icmp("100.64.0.65", "100.64.0.3", 8, 0, b"x"), Verdict::NotForwarded),
        no("beside it", 1, &syn("100.64.0.66:1", RELAYED, &[]), Verdict::BetweenContainers),
        no("no gateway", 2, &syn("100.64.0.129:1", RELAYED, &[]), Verdict::BetweenContainers),
        goes("a container answers", 2, &syn_ack(FAR_INNER, RELAY, &mss(1460)), SERVICE),
        goes("one of userspace's answers", 2, &tcp("100.64.0.131:9000", RELAY), SERVICE),
        no("a container dials the relay", 2, &syn(FAR_INNER, RELAY, &[]), Verdict::ServicePort),
        no("another port", 2, &tcp("100.64.0.130:22", RELAY), Verdict::NotForwarded),
        no("UDP to the relay", 2, &udp(FAR_INNER, RELAY), Verdict::NotForwarded),
        no("the relay of a gateway to this one", 1, &tcp(FAR_RELAY, RELAY), Verdict::NotForwarded),
    ]
}

fn clients(table: &Table) -> Vec<Case> {
    let goes = |name: &str, plan: &Plan, slot| {
        table
            .reaches(name, BY_GATEWAY_HOST, plan, Verdict::Tunnel, SERVER)
            .counted(Passage::In, slot)
    };
    let no = |name: &str, by, plan: &Plan, verdict| table.refused(name, by, plan, verdict);
    let (sent, sent_v6) = (tcp(CLIENT, BY_GATEWAY), tcp(CLIENT_V6, BY_GATEWAY_V6));
    let reply = tcp(BY_GATEWAY, CLIENT);
    let error = icmp(ROUTER, "100.64.0.2", 3, 4, &reply.quote(8));
    let error_v6 =
        icmp(ROUTER_V6, "fdaa:0:1:5:1::2", 2, 0, &tcp(BY_GATEWAY_V6, CLIENT_V6).quote(8));
    let about = |plan: &Plan| icmp(ROUTER, "100.64.0.2", 3, 4, &plan.quote(8));
    let mut cases = vec![
        goes("IPv4", &sent, BY_GATEWAY_SLOT),
        goes("IPv6", &sent_v6, BY_GATEWAY_SLOT),
        goes("SYN", &syn(CLIENT, BY_GATEWAY, &mss(1460)), BY_GATEWAY_SLOT),
        goes("to a tunnel of this machine's own", &tcp(CLIENT, INNER), SLOT),
        table.reaches("an error", 1, &error, Verdict::IcmpError, SERVER),
        table.reaches("an error, IPv6", 1, &error_v6, Verdict::IcmpError, SERVER),
        no("another port", 1, &tcp(CLIENT, OWN_PORT), Verdict::NotForwarded),
        no("a port of userspace", 1, &tcp(CLIENT, RELAYED), Verdict::NotForwarded),
        no("UDP", 1, &udp(CLIENT, BY_GATEWAY), Verdict::NotForwarded),
        no("nobody", 1, &tcp(CLIENT, "100.64.0.9:8000"), Verdict::NoSuchContainer),
        no("a container elsewhere", 1, &tcp(CLIENT, FAR_INNER), Verdict::NoSuchContainer),
        no("fragment", 1, &sent.clone().fragment(0, true), Verdict::Fragment),
        no("later fragment", 1, &sent.clone().fragment(8, false), Verdict::Fragment),
        no("options", 1, &sent.clone().ip_options(&[1; 4]), Verdict::IpOptions),
        no("from nowhere", 1, &tcp("127.0.0.1:1", BY_GATEWAY), Verdict::ForgedSource),
        no("an error about nothing", 1, &about(&tcp(OWN_PORT, CLIENT)), Verdict::NotForwarded),
        no("an error about userspace's", 1, &about(&tcp(RELAYED, CLIENT)), Verdict::NotForwarded),
        no("a ping", 1, &icmp("198.51.100.7", "100.64.0.2", 8, 0, b"x"), Verdict::NotForwarded),
    ];
    if table.region != Region::Direct {
        cases.push(no("by no gateway", 2, &sent, Verdict::ForgedSource));
        cases.push(no("to nobody's address", 1, &tcp(CLIENT, "8.8.8.8:1"), Verdict::ForgedSource));
    }
    cases
}

fn replies(table: &Table) -> Vec<Case> {
    let [public, public_v6] = FAR_PUBLIC;
    let goes = |name: &str, sent: &Plan, leaves: &Plan, passage| {
        table.leaves(name, sent, leaves, Verdict::Reply).counted(passage, FAR_SLOT)
    };
    let no = |name: &str, plan: &Plan, verdict| table.refused(name, BY_FAR, plan, verdict);
    let (sent, sent_v6) = (tcp(FAR_INNER, CLIENT), tcp(FAR_INNER_V6, CLIENT_V6));
    let got = tcp(CLIENT, FAR_INNER);
    let error = |quoted: &Plan| icmp("100.64.0.130", "198.51.100.7", 3, 4, &quoted.quote(8));
    let mut cases = vec![
        goes("IPv4", &sent, &sent.clone().from(public), Passage::Out),
        goes("IPv6", &sent_v6, &sent_v6.clone().from(public_v6), Passage::Out),
        goes(
            "SYN-ACK, MSS too large",
            &syn_ack(FAR_INNER, CLIENT, &mss(1460)),
            &syn_ack(public, CLIENT, &mss(MSS)),
            Passage::Accept,
        ),
        table.leaves(
            "an error",
            &error(&got),
            &icmp("192.0.2.10", "198.51.100.7", 3, 4, &tcp(CLIENT, public).quote(8)),
            Verdict::IcmpError,
        ),
        no("SYN", &sent.clone().flags(SYN), Verdict::ConnectFromForwardedPort),
        no("another port", &tcp("100.64.0.130:22", CLIENT), Verdict::NotForwarded),
        no("a port of userspace", &tcp("100.64.0.131:9000", CLIENT), Verdict::NotForwarded),
        no("UDP", &udp(FAR_INNER, CLIENT), Verdict::NotForwarded),
        no("options", &sent.clone().ip_options(&[1; 4]), Verdict::IpOptions),
        no("fragment", &sent.clone().fragment(0, true), Verdict::Fragment),
        no("later fragment", &sent.clone().fragment(8, false), Verdict::Fragment),
        no("to the loopback", &tcp(FAR_INNER, "127.0.0.1:20001"), Verdict::Unroutable),
        no("an error about another's", &error(&tcp(CLIENT, INNER)), Verdict::NotForwarded),
        no("an error to another", &error(&got).to("198.51.100.99"), Verdict::NotForwarded),
        no(
            "a port whose clients come elsewhere",
            &tcp("100.64.0.4:1", CLIENT),
            Verdict::ForgedSource,
        ),
    ];
    if table.region != Region::Direct {
        let by = |plan: &Plan| table.refused("by another", 1, plan, Verdict::ForgedSource);
        cases.extend([by(&sent), by(&sent_v6)]);
    }
    cases
}

/// What is around a packet.
fn around(region: Region) -> Vec<Case> {
    let sent = tcp(FAR_CONTAINER, OWN_PORT_V6);
    let frame = sent.build();
    let outer = |v6| Around::new(BY_FAR, 0, v6, 50_000, region);
    let no =
        |name: &str, around: Around, verdict| Case::refused(name, around.wrap(&frame), verdict);
    let goes = |name: &str, around: Around| {
        Case::delivered(name, around.wrap(&frame), frame.clone(), Verdict::I6pn, SERVER)
    };
    let address = |text: &str| text.parse().expect("an address");
    let bad = Verdict::BadEncapsulation;
    let mut cases = Vec::new();
    for v6 in [false, true] {
        let outer = || outer(v6);
        let stranger = if v6 { "2001:db8:1::7" } else { "198.51.100.7" };
        let own = if v6 { UNDERLAY_V6[0] } else { UNDERLAY[0] };
        cases.extend([
            goes("plain", outer()),
            goes("any source port", Around { port: 1, ..outer() }),
            no("a stranger", Around { from: address(stranger), ..outer() }, Verdict::NotPeer),
            no("this machine", Around { from: address(own), ..outer() }, Verdict::NotPeer),
            no("a version", Around { first: outer().first | 0x40, ..outer() }, bad),
            no("OAM", Around { flags: outer().flags | 0x80, ..outer() }, bad),
            no("reserved flags", Around { flags: outer().flags | 1, ..outer() }, bad),
            no("a reserved byte", Around { reserved: 1, ..outer() }, bad),
            no("Ethernet inside", Around { kind: Some([0x65, 0x58]), ..outer() }, bad),
            no("ARP inside", Around { kind: Some([0x08, 0x06]), ..outer() }, bad),
            no(
                "another kind inside",
                Around { kind: Some([0x08, 0]), ..outer() },
                Verdict::Truncated,
            ),
            no("another region", Around { region: 6, ..outer() }, Verdict::OtherRegion),
            no("no region", Around { region: 0, ..outer() }, Verdict::OtherRegion),
            no("another option", Around { first: 1, options: vec![0, 1, 0, 0], ..outer() }, bad),
        ]);
        let unknown = outer().keyed(*b"anything");
        let mut options = unknown.options.clone();
        options[1] ^= 1;
        cases.push(no("an unknown option", Around { options, ..unknown.clone() }, bad));
        cases.push(no("not critical", Around { flags: 0, ..unknown.clone() }, bad));
        if region == Region::Keyed {
            cases.extend([
                goes("the second key", outer().keyed(Region::KEYS[1])),
                no("a wrong key", unknown, Verdict::WrongKey),
                no(
                    "no key",
                    Around { first: 0, flags: 0, options: Vec::new(), ..outer() },
                    Verdict::WrongKey,
                ),
            ]);
        } else {
            // A key that this machine does not know of yet, or not any more.
            cases.push(goes("a key", unknown));
        }
        for class in [1, 2, 3] {
            let marked = sent.clone().traffic_class(class).build();
            let around = Around { traffic_class: 3, ..outer() };
            let arrives = sent.clone().traffic_class(3).build();
            let name = "the underlay is congested";
            cases.push(Case::delivered(name, around.wrap(&marked), arrives, Verdict::I6pn, SERVER));
        }
        cases.push(no("congested, and nobody minds", Around { traffic_class: 3, ..outer() }, bad));
        cases.push(goes("DSCP outside", Around { traffic_class: 0xb8, ..outer() }));
        let whole = outer().wrap(&frame);
        let headers = 14 + outer().size();
        // A key's last byte is not there; or the header's.
        let short = if region == Region::Keyed { Verdict::WrongKey } else { bad };
        for (length, verdict) in [
            (headers - 1, short),
            (headers, Verdict::Truncated),
            (headers + 39, Verdict::Truncated),
            (headers + 40 + 19, Verdict::Truncated),
        ] {
            cases.push(Case::refused("cut", whole[..length].to_vec(), verdict));
        }
    }
    let marked = tcp(FAR_RELAY, RELAYED).traffic_class(2);
    let around = Around { traffic_class: 3, ..Around::new(1, 0, false, 1, region) };
    cases.push(Case::delivered(
        "the underlay is congested, IPv4",
        around.wrap(&marked.build()),
        marked.traffic_class(3).build(),
        Verdict::Relayed,
        QUIET,
    ));
    cases.extend(outside(region));
    cases
}

/// What only looks like it, and what the underlay says.
fn outside(region: Region) -> Vec<Case> {
    let [own, ..] = UNDERLAY;
    let to = |end: &str| udp("10.9.0.3:50000", end);
    let bad =
        |name: &str, plan: &Plan| Case::refused(name, plan.build(), Verdict::BadEncapsulation);
    let [narrow, narrow_v6] = NARROW_ENDS;
    let carried = udp("10.9.0.1:50000", &format!("{narrow}:6081"));
    let carried_v6 = udp("[fd09::1]:50000", &format!("[{narrow_v6}]:6081"));
    let error = |kind, code, quote: &[u8]| icmp(ROUTER, own, kind, code, quote);
    let news = |name: &str, plan: &Plan| Case::passes(name, plan.build(), Verdict::IcmpError);
    let inner = tcp(FAR_CONTAINER, OWN_PORT_V6).build();
    let elsewhere = Around {
        to: "192.0.2.10".parse().expect("an address"),
        ..Around::new(BY_FAR, 0, false, 1, region)
    };
    vec![
        bad("nothing inside", &to("10.9.0.1:6081").payload(&[])),
        bad("fragment", &to("10.9.0.1:6081").fragment(0, true)),
        bad("options", &to("10.9.0.1:6081").ip_options(&[1; 4])),
        bad("hop-by-hop", &udp("[fd09::3]:1", "[fd09::1]:6081").extension(0)),
        bad("destination options", &udp("[fd09::3]:1", "[fd09::1]:6081").extension(60)),
        not_ours("later fragment", &to("10.9.0.1:6081").fragment(8, false)),
        not_ours("another port", &to("10.9.0.1:6080")),
        not_ours("TCP", &tcp("10.9.0.3:1", "10.9.0.1:6081")),
        Case::passes("to another address", elsewhere.wrap(&inner), Verdict::NotOurs),
        Case::refused("bare", inner, Verdict::BareInner),
        news("fragmentation needed", &error(3, 4, &carried.quote(8)).mtu(900)),
        news("packet too big", &icmp(ROUTER_V6, "fd09::1", 2, 0, &carried_v6.quote(8)).mtu(1300)),
        not_ours("unreachable", &error(3, 3, &carried.quote(8))),
        not_ours("about another port", &error(3, 4, &carried.clone().to("10.9.0.3:53").quote(8))),
        not_ours("about a stranger", &error(3, 4, &carried.clone().to("8.8.8.8:6081").quote(8))),
        not_ours("about another's", &error(3, 4, &carried.clone().from("10.9.0.3:1").quote(8))),
        not_ours("to another", &error(3, 4, &carried.quote(8)).to("192.0.2.10")),
        not_ours("quotes too little", &error(3, 4, &carried.quote(2))),
        not_ours("an ACK", &tcp("10.9.0.3:6081", "10.9.0.1:50000").flags(ACK)),
    ]
}

/// A packet between hosts that comes in by no interface of the underlay.
pub fn from_elsewhere(region: Region) -> Vec<Case> {
    let bare = tcp(FAR_CONTAINER, OWN_PORT_V6).build();
    let reply = tcp(FAR_INNER, CLIENT).build();
    if region == Region::Direct {
        return vec![
            Case::refused("bare", bare, Verdict::BareInner),
            Case::refused("a bare reply", reply, Verdict::ForgedSource),
        ];
    }
    let around = Around::new(BY_FAR, 0, false, 1, region);
    let [narrow, _] = NARROW_ENDS;
    let carried = udp("10.9.0.1:50000", &format!("{narrow}:6081")).quote(8);
    vec![
        Case::refused("in Geneve", around.wrap(&bare), Verdict::NotUnderlay),
        not_ours("an error", &icmp(ROUTER, UNDERLAY[0], 3, 4, &carried)),
        Case::refused("bare", bare, Verdict::BareInner),
    ]
}
