//! What containers and the service namespace send. Only what a rule names goes on.

use edge_common::{decide::Passage, verdict::Verdict};

use super::{
    Case,
    build::{ethernet, tagged},
    egress, errors,
    plan::{ACK, FIN, Plan, RST, SYN, icmp, mss, syn, syn_ack, tcp, udp},
    private, refused,
    scene::{
        CLIENT, CLIENT_V6, FELLOW, INNER, INNER_V6, MEMBERS, MSS, MSS_V6, OTHER, OTHER_MEMBERS,
        OWN_LISTENER, OWN_PORT, OWN_PORT_V6, Owner, PROXIED, PROXIED_ENDING, PROXIED_RAW,
        PROXIED_SPREAD, PROXIED_V6, PUBLIC, PUBLIC_V6, QUIET, RELAY, RELAY_V6, RELAYED, RELAYED_V6,
        SERVER, SERVICE, SLOT, SLOT_V6, WIREGUARD,
    },
    told, told_of,
};

/// DNS and the API.
const DNS: &str = "169.254.20.10:53";
/// See [`DNS`].
const API: &str = "169.254.20.10:80";

/// Every row.
pub fn all() -> Vec<Case> {
    [
        replies(),
        connects(),
        sources(),
        neighbours(),
        private::on_one_host(),
        outside(),
        proxied(),
        errors::from_containers(),
    ]
    .concat()
}

fn delivered(name: &str, plan: &Plan, verdict: Verdict, receiver: Owner) -> Case {
    Case::delivered(name, plan.build(), plan.build(), verdict, receiver)
}

/// A tunnel's replies, and what pretends to be one.
pub fn replies() -> Vec<Case> {
    let reply = |name: &str, sent: &Plan, passage| {
        let leaves = sent.clone().from(PUBLIC);
        Case::sent(name, sent.build(), leaves.build(), Verdict::Reply).counted(passage, SLOT)
    };
    let reply_v6 = |name: &str, sent: &Plan, passage| {
        let leaves = sent.clone().from(PUBLIC_V6);
        Case::sent(name, sent.build(), leaves.build(), Verdict::Reply).counted(passage, SLOT_V6)
    };
    let (sent, sent_v6) = (tcp(INNER, CLIENT), tcp(INNER_V6, CLIENT_V6));
    let accepts = |size| syn_ack(INNER, CLIENT, &mss(size));
    let accepts_v6 = |size| syn_ack(INNER_V6, CLIENT_V6, &mss(size));
    vec![
        reply("IPv4", &sent, Passage::Out),
        reply_v6("IPv6", &sent_v6, Passage::Out),
        reply("odd payload", &sent.clone().payload(b"odd"), Passage::Out),
        reply("FIN", &sent.clone().flags(FIN | ACK), Passage::Out),
        reply("RST", &sent.clone().flags(RST), Passage::Out),
        reply("SYN-ACK", &accepts(MSS), Passage::Accept),
        reply_v6("SYN-ACK, IPv6", &accepts_v6(MSS_V6), Passage::Accept),
        Case::sent(
            "SYN-ACK, MSS too large",
            accepts(1460).build(),
            accepts(MSS).from(PUBLIC).build(),
            Verdict::Reply,
        )
        .counted(Passage::Accept, SLOT),
        Case::sent(
            "SYN-ACK, MSS too large, IPv6",
            accepts_v6(1440).build(),
            accepts_v6(MSS_V6).from(PUBLIC_V6).build(),
            Verdict::Reply,
        )
        .counted(Passage::Accept, SLOT_V6),
        refused("options", &sent.clone().ip_options(&[1; 4]), Verdict::IpOptions),
        refused("first fragment", &sent.clone().fragment(0, true), Verdict::Fragment),
        refused("first fragment, IPv6", &sent_v6.clone().fragment(0, true), Verdict::Fragment),
        refused("destination options", &sent_v6.extension(60), Verdict::IpOptions),
        // Without a port it cannot be told from other egress; nobody puts it together.
        egress("later fragment", &sent.fragment(8, false)),
        // A port that only userspace serves has no reply that leaves the host.
        told("userspace only", &tcp(RELAYED, CLIENT), Verdict::NoEgress),
        told("userspace only, IPv6", &tcp(RELAYED_V6, CLIENT_V6), Verdict::NoIpv6Egress),
    ]
}

/// A forwarded port that connects out is told so.
pub fn connects() -> Vec<Case> {
    let bounced = |name: &str, sent: Plan, from: &str, to: &str, acknowledged| {
        let answer = tcp(from, to)
            .flags(RST | ACK)
            .sequence(0)
            .acknowledged(acknowledged)
            .window(0)
            .payload(&[])
            .answer();
        let verdict = Verdict::ConnectFromForwardedPort;
        Case::bounced(name, sent.build(), answer, verdict)
    };
    let asks = syn(INNER, CLIENT, &mss(1460)).sequence(0x1000);
    let asks_v6 = syn(INNER_V6, CLIENT_V6, &mss(1440)).sequence(0x1000);
    vec![
        bounced("SYN", asks.clone(), CLIENT, INNER, 0x1001),
        bounced("SYN, IPv6", asks_v6.clone(), CLIENT_V6, INNER_V6, 0x1001),
        bounced("last sequence number", asks.clone().sequence(u32::MAX), CLIENT, INNER, 0),
        bounced("no options", asks.clone().options(&[]), CLIENT, INNER, 0x1001),
        bounced("SYN and FIN", asks.clone().flags(SYN | FIN), CLIENT, INNER, 0x1001),
        bounced("with payload", asks.clone().payload(b"fast open"), CLIENT, INNER, 0x1001),
        bounced("hop-by-hop", asks_v6.extension(0), CLIENT_V6, INNER_V6, 0x1001),
        refused("in a fragment", &asks.fragment(0, true), Verdict::Fragment),
    ]
}

/// Who may say that he sends.
pub fn sources() -> Vec<Case> {
    let forged = |source: &str, destination: &str| {
        let plan = tcp(source, destination);
        refused(&format!("{source} to {destination}"), &plan, Verdict::ForgedSource)
    };
    let arp: &[u8] = &[
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 10, 100, 64, 0, 2, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1,
    ];
    let solicitation = icmp("fdaa:0:1:5:1::2", "ff02::1:ff00:1", 135, 0, &[0; 16]);
    let mut cases = vec![
        // Another container's, on every way out.
        forged("100.64.0.4:8000", CLIENT),
        forged("100.64.0.4:8000", DNS),
        forged("100.64.0.4:8000", RELAY),
        forged("100.64.0.4:8000", PUBLIC),
        forged("[fdaa:0:1:5:1::4]:8000", CLIENT_V6),
        // Nobody's.
        forged("100.64.9.9:8000", CLIENT),
        forged("[fdaa:0:1:5:1::99]:8000", CLIENT_V6),
        forged("198.51.100.9:8000", CLIENT),
        forged("127.0.0.1:8000", CLIENT),
        forged("0.0.0.0:68", CLIENT),
        forged("[fe80::1]:8000", CLIENT_V6),
        forged("[::]:8000", CLIENT_V6),
        // The host's.
        forged(PUBLIC, CLIENT),
        forged(PUBLIC_V6, CLIENT_V6),
        forged("169.254.1.1:53", DNS),
        Case::refused("ARP", ethernet(0x0806, arp), Verdict::NotIp),
        Case::refused("VLAN", tagged(&tcp(INNER, CLIENT).build(), 100), Verdict::NotIp),
        Case::refused("LLDP", ethernet(0x88cc, &[0; 46]), Verdict::NotIp),
        refused("neighbour solicitation", &solicitation, Verdict::Unroutable),
    ];
    for destination in [
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "127.0.0.1:80",
        "127.0.0.1:20001",
        "169.254.169.254:80",
        "169.254.1.1:80",
        "0.0.0.0:80",
    ] {
        let name = format!("to {destination}");
        cases.push(refused(&name, &tcp(OWN_PORT, destination), Verdict::Unroutable));
        cases.push(refused(&name, &udp(OWN_PORT, destination), Verdict::Unroutable));
    }
    // IPv4 addresses within IPv6 would borrow the rows of IPv4.
    for (source, destination) in [
        ("[::ffff:100.64.0.2]:8000", "[::ffff:198.51.100.7]:40000"),
        ("[::ffff:100.64.0.2]:8000", CLIENT_V6),
        ("[::ffff:100.64.0.2]:45000", "[::ffff:169.254.20.10]:80"),
        (INNER_V6, "[::ffff:198.51.100.7]:40000"),
        (OWN_PORT_V6, "[::ffff:192.0.2.10]:20001"),
    ] {
        let plan = tcp(source, destination);
        cases.push(refused(&format!("{source} to {destination}"), &plan, Verdict::Unroutable));
    }
    for destination in ["[ff02::fb]:5353", "[fe80::1]:80", "[::1]:80", "[::1]:20001", "[::]:80"] {
        let name = format!("to {destination}");
        cases.push(refused(&name, &tcp(OWN_PORT_V6, destination), Verdict::Unroutable));
    }
    cases
}

/// Between containers, and between a container and the service namespace.
pub fn neighbours() -> Vec<Case> {
    let service = |name: &str, plan: &Plan, to: Owner| delivered(name, plan, Verdict::Service, to);
    let relayed = |name: &str, plan: &Plan, to: Owner| delivered(name, plan, Verdict::Relayed, to);
    let between = |name: &str, plan: &Plan| told(name, plan, Verdict::BetweenContainers);
    let reaches = |name: &str, plan: &Plan, to: Owner| delivered(name, plan, Verdict::I6pn, to);
    let not_forwarded = |name: &str, plan: &Plan| refused(name, plan, Verdict::NotForwarded);
    vec![
        between("to a forwarded port", &tcp(OWN_PORT, RELAYED)),
        between("to a container", &tcp(OWN_PORT, "100.64.0.4:80")),
        between("to a container, UDP", &udp(OWN_PORT, "100.64.0.4:53")),
        between("to a container, ICMP", &icmp("100.64.0.2", "100.64.0.4", 8, 0, b"ping")),
        between("from a forwarded port", &tcp(INNER, "100.64.0.4:80")),
        between("to itself", &tcp(OWN_PORT, INNER)),
        between("the service to itself", &tcp(RELAY, DNS)),
        reaches("a fellow", &tcp(MEMBERS[0], MEMBERS[1]), FELLOW),
        reaches("a fellow, UDP", &udp(MEMBERS[0], MEMBERS[1]), FELLOW),
        reaches("a fellow, ICMP", &icmp("100.64.0.6", "100.64.0.7", 8, 0, b"ping"), FELLOW),
        reaches(
            "a fellow, a later fragment",
            &udp(MEMBERS[0], MEMBERS[1]).fragment(8, false),
            FELLOW,
        ),
        between("a member to another cluster's", &tcp(MEMBERS[0], OTHER_MEMBERS[0])),
        between("a member to a container", &tcp(MEMBERS[0], OWN_PORT)),
        between("a container to a member", &tcp(OWN_PORT, MEMBERS[1])),
        told("to nobody", &tcp(OWN_PORT, "100.64.77.7:80"), Verdict::NoSuchContainer),
        told("to nobody, IPv6", &tcp(OWN_PORT_V6, "[fdaa:9::9]:80"), Verdict::NoSuchContainer),
        service("DNS", &udp(OWN_PORT, DNS), SERVICE),
        service("DNS over TCP", &syn(OWN_PORT, DNS, &mss(1460)), SERVICE),
        service("API", &syn(OWN_PORT, API, &mss(1460)), SERVICE),
        service("API from a forwarded port", &tcp(INNER, API), SERVICE),
        service("DNS answer", &udp(DNS, OWN_PORT), SERVER),
        service("API answer to a neighbour", &tcp(API, "100.64.0.4:45000"), OTHER),
        service(
            "DNS port unreachable",
            &icmp("169.254.20.10", "100.64.0.2", 3, 3, &[0; 28]),
            SERVER,
        ),
        refused(
            "another service port",
            &syn(OWN_PORT, "169.254.20.10:22", &[]),
            Verdict::ServicePort,
        ),
        refused("API over UDP", &udp(OWN_PORT, API), Verdict::ServicePort),
        refused(
            "ping the service",
            &icmp("100.64.0.2", "169.254.20.10", 8, 0, b"ping"),
            Verdict::ServicePort,
        ),
        refused("DNS later fragment", &udp(OWN_PORT, DNS).fragment(8, false), Verdict::ServicePort),
        refused(
            "from another service port",
            &tcp("169.254.20.10:22", OWN_PORT),
            Verdict::ServicePort,
        ),
        relayed("the relay dials", &syn(RELAY, RELAYED, &mss(1460)), QUIET),
        relayed("the relay dials, IPv6", &syn(RELAY_V6, RELAYED_V6, &mss(1440)), QUIET),
        relayed("the relay dials a raw tunnel", &tcp(RELAY, INNER), SERVER),
        relayed("a container answers", &syn_ack(RELAYED, RELAY, &mss(1460)), SERVICE),
        relayed("a container answers, IPv6", &tcp(RELAYED_V6, RELAY_V6), SERVICE),
        relayed("a raw tunnel's container answers the relay", &tcp(INNER, RELAY), SERVICE),
        refused("a container dials the relay", &syn(RELAYED, RELAY, &[]), Verdict::ServicePort),
        not_forwarded("the relay dials another port", &syn(RELAY, "100.64.0.3:22", &[])),
        not_forwarded("the relay sends UDP", &udp(RELAY, RELAYED)),
        not_forwarded(
            "a container dials the relay from another port",
            &syn("100.64.0.3:22", RELAY, &[]),
        ),
        not_forwarded("a container answers from another port", &tcp("100.64.0.3:22", RELAY)),
        not_forwarded(
            "a container pings the relay",
            &icmp("100.64.0.3", "100.64.0.1", 8, 0, b"ping"),
        ),
        not_forwarded("the relay to the outside", &tcp(RELAY, CLIENT)),
        not_forwarded("the service to the outside", &tcp(API, CLIENT)),
    ]
}

/// To the internet, and to the host's own public ports.
pub fn outside() -> Vec<Case> {
    let quiet = "100.64.0.3:45000";
    vec![
        egress("TCP", &syn(OWN_PORT, "198.51.100.7:443", &mss(1460))),
        egress("UDP", &udp(OWN_PORT, "198.51.100.7:443")),
        egress("ping", &icmp("100.64.0.2", "198.51.100.7", 8, 0, b"ping")),
        egress("a private network", &tcp(OWN_PORT, "10.1.2.3:80")),
        egress("UDP from a forwarded port", &udp(INNER, CLIENT)),
        egress("the host, no listener", &tcp(OWN_PORT, "192.0.2.10:22")),
        told("TCP, no egress", &syn(quiet, "198.51.100.7:443", &[]), Verdict::NoEgress),
        told("UDP, no egress", &udp(quiet, "198.51.100.7:53"), Verdict::NoEgress),
        told(
            "ping, no egress",
            &icmp("100.64.0.3", "198.51.100.7", 8, 0, b"ping"),
            Verdict::NoEgress,
        ),
        told("IPv6", &tcp(OWN_PORT_V6, CLIENT_V6), Verdict::NoIpv6Egress),
        told("IPv6, UDP", &udp(OWN_PORT_V6, CLIENT_V6), Verdict::NoIpv6Egress),
        told("IPv6, no egress", &tcp("[fdaa:0:1:5:1::3]:45000", CLIENT_V6), Verdict::NoIpv6Egress),
        Case::to_listener("a raw port", syn(OWN_PORT, PUBLIC, &mss(1460)).build()),
        told("a raw port, no egress", &syn(quiet, PUBLIC, &mss(1460)), Verdict::NoEgress),
        told("TLS, no egress", &syn(quiet, OWN_LISTENER, &mss(1460)), Verdict::NoEgress),
        Case::to_listener("a raw port, IPv6", syn(OWN_PORT_V6, PUBLIC_V6, &mss(1440)).build()),
        Case::to_listener("TLS", syn(OWN_PORT, OWN_LISTENER, &mss(1460)).build()),
        Case::to_listener("its own raw port", tcp(INNER, PUBLIC).build()),
        told("a raw port over UDP, no egress", &udp(quiet, PUBLIC), Verdict::NoEgress),
    ]
}

/// What leaves by a proxy, and what has to.
pub fn proxied() -> Vec<Case> {
    let [by_gateway, here, nobody] = PROXIED;
    let (address, server) = ("100.64.0.20", "198.51.100.7:443");
    let mtu = u16::try_from(WIREGUARD.1).expect("an MTU");
    let bare = |name: &str, sent: &Plan| {
        Case::sent_bare(name, sent.build(), sent.build(), Verdict::Proxied)
    };
    let passes = |name: &str, plan: &Plan| Case::passes(name, plan.build(), Verdict::Proxied);
    let away = |name: &str, plan: &Plan| told(name, plan, Verdict::ProxyAway);
    // IPv4 and UDP headers.
    let filled = |bytes: u16| udp(by_gateway, server).payload(&vec![0; usize::from(bytes - 28)]);
    let [by_gateway_v6, here_v6, nobody_v6] = PROXIED_V6;
    let [ending, ending_v6] = PROXIED_ENDING;
    let (address_v6, server_v6) = ("fdaa:0:1:5:1::8", "[2001:db8:7::7]:443");
    // IPv6 and UDP headers.
    let filled_v6 =
        |bytes: u16| udp(by_gateway_v6, server_v6).payload(&vec![0; usize::from(bytes - 48)]);
    vec![
        bare("a segment", &tcp(by_gateway, server)),
        bare("a SYN that asks for little", &syn(by_gateway, server, &mss(mtu - 40))),
        Case::sent_bare(
            "a SYN that asks for too much",
            syn(by_gateway, server, &mss(1460)).build(),
            syn(by_gateway, server, &mss(mtu - 40)).build(),
            Verdict::Proxied,
        ),
        bare("UDP", &udp(by_gateway, server)),
        bare("DNS to another server", &udp(by_gateway, "198.51.100.7:53")),
        bare("ping", &icmp(address, "198.51.100.7", 8, 0, b"ping")),
        bare("a later fragment", &udp(by_gateway, server).fragment(8, false)),
        bare("a private network", &tcp(by_gateway, "10.1.2.3:80")),
        bare("just fits", &filled(mtu)),
        told_of("too big", &filled(mtu + 1).build(), Verdict::TooBig, WIREGUARD.1),
        // Neither an answer nor a complaint: it is not the kernel that serves the port.
        bare("from what looks like a raw tunnel's port", &tcp(PROXIED_RAW, CLIENT)),
        bare("SYN from there", &syn(PROXIED_RAW, CLIENT, &mss(536))),
        bare(
            "a complaint about a client",
            &icmp(address, "198.51.100.7", 3, 3, &tcp(CLIENT, PROXIED_RAW).build()[14..42]),
        ),
        bare("a SYN by one of several ways", &syn(PROXIED_SPREAD, server, &mss(536))),
        bare("what comes after it", &tcp(PROXIED_SPREAD, server)),
        bare("UDP by one of them", &udp(PROXIED_SPREAD, server)),
        bare("a later fragment by one of them", &udp(PROXIED_SPREAD, server).fragment(8, false)),
        passes("the gateway is this machine", &syn(here, server, &mss(1460))),
        passes("UDP, here", &udp(here, server)),
        away("nobody serves its address", &syn(nobody, server, &mss(1460))),
        away("UDP, nobody", &udp(nobody, "198.51.100.7:53")),
        away("ping, nobody", &icmp("100.64.0.22", "198.51.100.7", 8, 0, b"ping")),
        away("all of its addresses go", &syn(ending, server, &mss(1460))),
        away("UDP that nobody has seen begin", &udp(ending, server)),
        bare("IPv6", &tcp(by_gateway_v6, server_v6)),
        Case::sent_bare(
            "an IPv6 SYN that asks for too much",
            syn(by_gateway_v6, server_v6, &mss(1440)).build(),
            syn(by_gateway_v6, server_v6, &mss(mtu - 60)).build(),
            Verdict::Proxied,
        ),
        bare("IPv6, UDP", &udp(by_gateway_v6, server_v6)),
        bare("IPv6, ping", &icmp(address_v6, "2001:db8:7::7", 128, 0, b"ping")),
        bare("IPv6, just fits", &filled_v6(mtu)),
        told_of("IPv6, too big", &filled_v6(mtu + 1).build(), Verdict::TooBig, WIREGUARD.1),
        Case::proxied_here("IPv6, here", syn(here_v6, server_v6, &mss(1440)).build()),
        told("IPv6, none beside the address", &tcp(nobody_v6, CLIENT_V6), Verdict::NoIpv6Egress),
        told("IPv6, all of them go", &syn(ending_v6, CLIENT_V6, &[]), Verdict::NoIpv6Egress),
        Case::to_listener("a raw port of the machine", syn(nobody, PUBLIC, &mss(1460)).build()),
        delivered("DNS", &udp(nobody, DNS), Verdict::Service, SERVICE),
    ]
}
