//! What comes in by the uplink. A frame ends, goes on unchanged, or is delivered: rewritten where
//! a tunnel says so, and nowhere else.

use edge_common::{decide::Passage, verdict::Verdict};

use super::{
    Case,
    build::{ethernet, tagged},
    errors, not_ours,
    plan::{ACK, FIN, Plan, RST, SYN, icmp, mss, syn, tcp, udp},
    refused,
    scene::{
        CLIENT, CLIENT_V6, INNER, INNER_V6, MSS, MSS_V6, OWN_LISTENER, PUBLIC, PUBLIC_V6, ROUTER,
        ROUTER_V6, SERVER, SLOT, SLOT_V6,
    },
};

/// IANA numbers of IPv6 extension headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Every row but those of several pages.
pub fn all() -> Vec<Case> {
    [tunnels(), segments(), headers(), forged(), errors::from_outside(), cut()].concat()
}

fn hit(name: &str, sent: Plan, arrives: Plan) -> Case {
    Case::delivered(name, sent.build(), arrives.build(), Verdict::Tunnel, SERVER)
        .counted(Passage::In, SLOT)
}

fn hit_v6(name: &str, sent: Plan, arrives: Plan) -> Case {
    hit(name, sent, arrives).counted(Passage::In, SLOT_V6)
}

/// Packets to a tunnel, and to its neighbours.
pub fn tunnels() -> Vec<Case> {
    let (to, inside) = (tcp(CLIENT, PUBLIC), tcp(CLIENT, INNER));
    let (to_v6, inside_v6) = (tcp(CLIENT_V6, PUBLIC_V6), tcp(CLIENT_V6, INNER_V6));
    let mut cases = vec![
        hit("IPv4", to.clone(), inside.clone()),
        hit_v6("IPv6", to_v6.clone(), inside_v6.clone()),
        hit("no payload", to.clone().payload(&[]), inside.clone().payload(&[])),
        hit("odd payload", to.clone().payload(b"odd"), inside.clone().payload(b"odd")),
        hit_v6("IPv6, full", to_v6.payload(&[0xa5; 1400]), inside_v6.payload(&[0xa5; 1400])),
        hit(
            "the client's port 0xffff",
            to.clone().from("198.51.100.7:65535"),
            inside.clone().from("198.51.100.7:65535"),
        ),
        not_ours("another port", &to.clone().to("192.0.2.10:20002")),
        not_ours("the container's port", &to.clone().to("192.0.2.10:8000")),
        not_ours("another address", &to.clone().to("192.0.2.11:20001")),
        not_ours("another port, IPv6", &tcp(CLIENT_V6, "[2001:db8::10]:20002")),
        not_ours("another address, IPv6", &tcp(CLIENT_V6, "[2001:db8::11]:20001")),
        not_ours("a listener of its own", &tcp(CLIENT, OWN_LISTENER)),
        not_ours(
            "from the tunnel's port to another",
            &tcp(CLIENT, "192.0.2.10:22").from("198.51.100.7:20001"),
        ),
        not_ours("UDP", &udp(CLIENT, PUBLIC)),
        not_ours("UDP, IPv6", &udp(CLIENT_V6, PUBLIC_V6)),
    ];
    for (name, flags) in [("FIN", FIN | ACK), ("RST", RST), ("SYN and FIN", SYN | FIN)] {
        cases.push(hit(name, to.clone().flags(flags), inside.clone().flags(flags)));
    }
    // Sums that end in 0 and 0xffff are the ones that an incremental update may get wrong.
    for high in 0..64_u32 {
        let sequence = high << 26 | 0x00ff_ff00 | high;
        let with = |plan: &Plan| plan.clone().sequence(sequence).window(high as u16 * 1021);
        cases.push(hit("sums", with(&to), with(&inside)));
    }
    cases
}

/// The largest segment of a SYN.
pub fn segments() -> Vec<Case> {
    let v4 = |name: &str, sent: &[u8], arrives: &[u8]| {
        hit(name, syn(CLIENT, PUBLIC, sent), syn(CLIENT, INNER, arrives))
    };
    let v6 = |name: &str, sent: &[u8], arrives: &[u8]| {
        hit_v6(name, syn(CLIENT_V6, PUBLIC_V6, sent), syn(CLIENT_V6, INNER_V6, arrives))
    };
    let behind = |front: &[u8], size| [front, &mss(size)].concat();
    let timestamps: &[u8] = &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    vec![
        v4("MSS too large", &mss(1460), &mss(MSS)),
        v4("MSS largest", &mss(0xffff), &mss(MSS)),
        v4("MSS one too large", &mss(MSS + 1), &mss(MSS)),
        v4("MSS as large as fits", &mss(MSS), &mss(MSS)),
        v4("MSS one smaller", &mss(MSS - 1), &mss(MSS - 1)),
        v4("MSS small", &mss(536), &mss(536)),
        v4("MSS 0", &mss(0), &mss(0)),
        v6("MSS too large, IPv6", &mss(1440), &mss(MSS_V6)),
        v6("MSS small, IPv6", &mss(1220), &mss(1220)),
        v4("no options", &[], &[]),
        v4("other options", timestamps, timestamps),
        v4("MSS behind a NOP", &behind(&[1], 1460), &behind(&[1], MSS)),
        v4("MSS behind three NOPs", &behind(&[1; 3], 8960), &behind(&[1; 3], MSS)),
        v6("MSS behind a NOP, IPv6", &behind(&[1], 1460), &behind(&[1], MSS_V6)),
        v4("MSS behind timestamps", &behind(timestamps, 1460), &behind(timestamps, MSS)),
        v4("MSS behind an odd option", &behind(&[34, 3, 9], 1460), &behind(&[34, 3, 9], MSS)),
        v4("MSS behind the end", &behind(&[0], 1460), &behind(&[0], 1460)),
        v4("MSS alone in the last word", &behind(&[1; 36], 9), &behind(&[1; 36], 9)),
        // A stack takes no MSS from what follows an option that cannot be, so nobody clamps it.
        v4("MSS of another length", &[2, 3, 9, 0], &[2, 3, 9, 0]),
        v4(
            "MSS behind one of another length",
            &behind(&[2, 3, 255], 1460),
            &behind(&[2, 3, 255], MSS),
        ),
        v4("MSS behind an empty option", &behind(&[5, 0], 1460), &behind(&[5, 0], 1460)),
        v4("MSS behind an option of one byte", &behind(&[5, 1], 1460), &behind(&[5, 1], 1460)),
        v4("an option beyond the end", &[8, 255, 1, 1], &[8, 255, 1, 1]),
        hit(
            "MSS in what is not a SYN",
            tcp(CLIENT, PUBLIC).options(&mss(1460)),
            tcp(CLIENT, INNER).options(&mss(1460)),
        ),
        not_ours("MSS too large, no tunnel", &syn(CLIENT, "192.0.2.10:22", &mss(1460))),
    ]
}

/// Frames of several pages.
pub fn jumbo() -> Vec<Case> {
    let payload = [0x5a; 8900];
    let (to, inside) = (tcp(CLIENT, PUBLIC), tcp(CLIENT, INNER));
    vec![
        hit("IPv4", to.clone().payload(&payload), inside.payload(&payload)),
        not_ours("no tunnel", &to.to("192.0.2.10:22").payload(&payload)),
    ]
}

/// Headers that a tunnel does not carry, and those that do not matter to it.
pub fn headers() -> Vec<Case> {
    let (to, to_v6) = (tcp(CLIENT, PUBLIC), tcp(CLIENT_V6, PUBLIC_V6));
    let elsewhere = tcp(CLIENT, "192.0.2.10:22");
    let elsewhere_v6 = tcp(CLIENT_V6, "[2001:db8::10]:22");
    let router_alert = &[148, 4, 0, 0];
    let hop_by_hop = |plan: Plan| plan.extension(HOP_BY_HOP);
    let many = |plan: Plan| (0..5).fold(plan, |plan, _| plan.extension(DESTINATION_OPTIONS));
    let arp: &[u8] =
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 20, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10];
    vec![
        refused("options", &to.clone().ip_options(router_alert), Verdict::IpOptions),
        refused("all options", &to.clone().ip_options(&[1; 40]), Verdict::IpOptions),
        not_ours("options, no tunnel", &elsewhere.clone().ip_options(router_alert)),
        refused("first fragment", &to.clone().fragment(0, true), Verdict::Fragment),
        refused(
            "first fragment with options",
            &to.clone().fragment(0, true).ip_options(router_alert),
            Verdict::Fragment,
        ),
        not_ours("second fragment", &to.clone().fragment(1, true)),
        not_ours("middle fragment", &to.clone().fragment(8, true)),
        not_ours("last fragment", &to.clone().fragment(8, false)),
        not_ours("first fragment, no tunnel", &elsewhere.fragment(0, true)),
        hit_v6("hop-by-hop", hop_by_hop(to_v6.clone()), hop_by_hop(tcp(CLIENT_V6, INNER_V6))),
        refused(
            "destination options",
            &to_v6.clone().extension(DESTINATION_OPTIONS),
            Verdict::IpOptions,
        ),
        refused(
            "destination options behind hop-by-hop",
            &hop_by_hop(to_v6.clone()).extension(DESTINATION_OPTIONS),
            Verdict::IpOptions,
        ),
        refused("routing header", &to_v6.clone().extension(ROUTING), Verdict::IpOptions),
        not_ours("destination options, no tunnel", &elsewhere_v6.extension(DESTINATION_OPTIONS)),
        not_ours("more extension headers than are read", &many(to_v6.clone())),
        refused("first fragment, IPv6", &to_v6.clone().fragment(0, true), Verdict::Fragment),
        refused("atomic fragment, IPv6", &to_v6.clone().fragment(0, false), Verdict::Fragment),
        not_ours("second fragment, IPv6", &to_v6.clone().fragment(1, true)),
        not_ours("last fragment, IPv6", &to_v6.fragment(8, false)),
        Case::passes("ARP", ethernet(0x0806, arp), Verdict::NotOurs),
        Case::passes("VLAN", tagged(&to.build(), 100), Verdict::NotOurs),
        Case::passes("LLDP", ethernet(0x88cc, &[0; 46]), Verdict::NotOurs),
        not_ours("echo request", &icmp("198.51.100.7", "192.0.2.10", 8, 0, b"ping")),
        not_ours("echo request, IPv6", &icmp("2001:db8:1::7", "2001:db8::10", 128, 0, b"ping")),
    ]
}

/// Sources and destinations that nobody outside may use.
pub fn forged() -> Vec<Case> {
    let mut cases = Vec::new();
    for source in ["100.64.0.9:1", "100.127.255.255:1"] {
        let plan = tcp(source, PUBLIC);
        cases.push(refused("from the pool", &plan, Verdict::ForgedSource));
        let plan = udp(source, "192.0.2.10:53");
        cases.push(refused("from the pool, no tunnel", &plan, Verdict::ForgedSource));
    }
    for source in ["100.63.255.255:1", "100.128.0.0:1"] {
        cases.push(hit("from beside the pool", tcp(source, PUBLIC), tcp(source, INNER)));
    }
    for source in
        ["127.0.0.1:1", "0.0.0.0:1", "169.254.20.10:80", "224.0.0.1:1", "255.255.255.255:1"]
    {
        let plan = tcp(source, PUBLIC);
        cases.push(refused(&format!("from {source}"), &plan, Verdict::ForgedSource));
    }
    for source in [
        "[fdaa:0:1:5:1::2]:1",
        "[fdaa:ffff::1]:1",
        "[::1]:1",
        "[::]:1",
        "[fe80::1]:1",
        "[ff02::1]:1",
    ] {
        let plan = tcp(source, PUBLIC_V6);
        cases.push(refused(&format!("from {source}"), &plan, Verdict::ForgedSource));
    }
    // No wire carries IPv4 addresses within IPv6, and the rows of IPv4 are not theirs.
    for (source, destination) in [
        ("[::ffff:198.51.100.7]:40000", "[::ffff:192.0.2.10]:20001"),
        (CLIENT_V6, "[::ffff:192.0.2.10]:20001"),
        ("[::ffff:198.51.100.7]:40000", PUBLIC_V6),
    ] {
        cases.push(not_ours(&format!("{source} to {destination}"), &tcp(source, destination)));
    }
    let mapped = tcp(CLIENT_V6, "[::ffff:100.64.0.2]:8000");
    cases.push(refused("to a mapped inner address", &mapped, Verdict::BareInner));
    for source in ["10.1.2.3:1", "192.168.1.1:1"] {
        cases.push(hit("from a private network", tcp(source, PUBLIC), tcp(source, INNER)));
    }
    cases.push(refused("from itself", &tcp(PUBLIC, PUBLIC), Verdict::ForgedSource));
    cases.push(refused("from itself, IPv6", &tcp(PUBLIC_V6, PUBLIC_V6), Verdict::ForgedSource));
    for destination in [INNER, "100.64.0.2:22", "100.99.9.9:80"] {
        cases.push(refused(destination, &tcp(CLIENT, destination), Verdict::BareInner));
        cases.push(refused(destination, &udp(CLIENT, destination), Verdict::BareInner));
    }
    for destination in [INNER_V6, "[fdaa:0:2::2]:80"] {
        cases.push(refused(destination, &tcp(CLIENT_V6, destination), Verdict::BareInner));
    }
    // The service's address is nobody's outside, whatever is sent from it or to it.
    for destination in ["169.254.20.10:53", "169.254.20.10:80"] {
        cases.push(refused(destination, &tcp(CLIENT, destination), Verdict::BareInner));
        cases.push(refused(destination, &udp(CLIENT, destination), Verdict::BareInner));
    }
    let query = udp("169.254.20.10:53", "192.0.2.10:5353");
    cases.push(refused("from the service's address", &query, Verdict::ForgedSource));
    let about = icmp("169.254.20.10", "192.0.2.10", 3, 4, &tcp(PUBLIC, CLIENT).quote(8));
    cases.push(refused("an error from the service's address", &about, Verdict::ForgedSource));
    let echo = icmp("198.51.100.7", "100.64.0.2", 8, 0, b"ping");
    cases.push(refused("echo request inside", &echo, Verdict::BareInner));
    let later = tcp(CLIENT, INNER).fragment(8, false);
    cases.push(refused("later fragment inside", &later, Verdict::BareInner));
    cases
}

/// Valid frames cut at every length. What cannot be told apart for want of bytes is refused: the
/// kernel would not take it either.
pub fn cut() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, plan, headers) in [
        ("TCP", tcp(CLIENT, PUBLIC).payload(&[0; 4]), 14 + 20 + 20),
        ("TCP with options", syn(CLIENT, PUBLIC, &mss(1460)).payload(&[0; 4]), 14 + 20 + 24),
        ("TCP, IPv6", tcp(CLIENT_V6, PUBLIC_V6).payload(&[0; 4]), 14 + 40 + 20),
        ("TCP, no tunnel", tcp(CLIENT, "192.0.2.10:22").payload(&[0; 4]), 14 + 20 + 20),
        ("UDP", udp(CLIENT, PUBLIC), 14 + 20 + 4),
        ("echo request", icmp("198.51.100.7", "192.0.2.10", 8, 0, b"ping"), 14 + 20 + 2),
        (
            "IPv4 error",
            icmp(ROUTER, "192.0.2.10", 3, 4, &tcp(PUBLIC, CLIENT).quote(8)),
            14 + 20 + 2,
        ),
        (
            "IPv6 error",
            icmp(ROUTER_V6, "2001:db8::10", 2, 0, &tcp(PUBLIC_V6, CLIENT_V6).quote(8)),
            14 + 40 + 2,
        ),
        ("later fragment", tcp(CLIENT, PUBLIC).fragment(8, false), 14 + 20),
    ] {
        let frame = plan.build();
        // The last four bytes of a quote are a sequence number, which nobody needs.
        for length in 0..frame.len() - 4 {
            let (name, frame) = (format!("{name} cut at {length}"), frame[..length].to_vec());
            cases.push(if length < headers {
                Case::refused(&name, frame, Verdict::Truncated)
            } else {
                Case::passes(&name, frame, Verdict::NotOurs)
            });
        }
    }
    let mut short = tcp(CLIENT, PUBLIC).build();
    short[14 + 20 + 12] = 4 << 4;
    cases.push(Case::refused("a TCP header of 16 bytes", short, Verdict::Truncated));
    cases
}
