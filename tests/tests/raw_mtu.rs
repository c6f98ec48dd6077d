//! Raw tunnels over narrow ways: what is too big is said so to who must know, and what begins
//! fits from the start.

use std::net::SocketAddr;

use tests::{
    echo::{Echo, round_trip},
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::wait_for,
    tap::Tap,
    tenant::Tenant,
    wire::Wire,
};

const LARGE: usize = 4 << 20;
const OPTIONS: &[&str] = &["--unencrypted-port", "8000", "--native-ipv6"];

/// client (1500) far (1300) internet (1500) machine: neither end knows of the narrow wire.
struct Narrow {
    client: NetNs,
    _far: NetNs,
    _wires: [Wire; 2],
}

impl Narrow {
    const CLIENT: &str = "198.51.100.2";
    const CLIENT_V6: &str = "2001:db8:2::2";

    fn behind(lab: &Lab) -> Self {
        let (client, far) = (NetNs::new("client"), NetNs::new("far"));
        let narrow = ["203.0.113.1/30", "2001:db8:1::1/64"];
        let middle = ["203.0.113.2/30", "2001:db8:1::2/64"];
        let middle =
            Wire::new(&lab.internet, "narrow0", &narrow, &far, "narrow0", &middle).mtu(1300);
        let ours = ["198.51.100.1/24", "2001:db8:2::1/64"];
        let own = ["198.51.100.2/24", "2001:db8:2::2/64"];
        let last = Wire::new(&far, "last0", &ours, &client, "eth0", &own);
        for router in [&lab.internet, &far] {
            router.sysctl("net/ipv4/ip_forward", "1");
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        lab.internet.ip(&["route", "add", "198.51.100.0/24", "via", "203.0.113.2"]);
        lab.internet.ip(&["route", "add", "2001:db8:2::/64", "via", "2001:db8:1::2"]);
        far.ip(&["route", "add", "default", "via", "203.0.113.1"]);
        far.ip(&["route", "add", "default", "via", "2001:db8:1::1"]);
        client.ip(&["route", "add", "default", "via", "198.51.100.1"]);
        client.ip(&["route", "add", "default", "via", "2001:db8:2::1"]);
        Self { client, _far: far, _wires: [middle, last] }
    }
}

fn too_big_is_relayed(lab: &Lab, hook: &str) {
    let narrow = Narrow::behind(lab);
    let tenant = Tenant::new(&lab.edge, "server", OPTIONS);
    let echo = Echo::serve(&tenant.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    for (public, client) in [(Lab::PUBLIC, Narrow::CLIENT), (Lab::PUBLIC_V6, Narrow::CLIENT_V6)] {
        let before = lab.edge.metrics();
        round_trip(&narrow.client, to(public, &tunnel), LARGE);
        assert!(echo.saw(client), "{client} is not among {:?}", echo.clients());
        let after = lab.edge.metrics();
        let relayed = after.packets(hook, "icmp_error") - before.packets(hook, "icmp_error");
        assert!(relayed > 0.0, "the container was told nothing of the narrow way to {client}");
        let route = tenant.netns.ip(&["route", "get", client]);
        assert!(route.contains("mtu 1300"), "the container knows no better: {route}");
    }
}

#[test]
fn packet_too_big_reaches_the_container_through_tcx() {
    too_big_is_relayed(&Lab::new(&[]), "tc_uplink");
}

#[test]
fn packet_too_big_reaches_the_container_through_xdp() {
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    too_big_is_relayed(&lab, "xdp_uplink");
}

#[test]
fn segments_fit_a_narrow_uplink_both_ways() {
    let lab = Lab::with_wire(&[], |wire| wire.mtu(1400));
    // Neither end of the connection knows of the uplink's MTU by itself.
    lab.internet.ip(&["link", "set", "eth0", "mtu", "1500"]);
    let tenant = Tenant::new(&lab.edge, "server", OPTIONS);
    assert!(tenant.netns.ip(&["link", "show", "eth0"]).contains("mtu 1400"));
    tenant.netns.ip(&["link", "set", "eth0", "mtu", "1500"]);
    let _echo = Echo::serve(&tenant.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    for (public, limit) in [(Lab::PUBLIC, 1360), (Lab::PUBLIC_V6, 1340)] {
        let (inside, outside) = (tenant.tap(), Tap::on(&lab.internet, "eth0"));
        round_trip(&lab.internet, to(public, &tunnel), LARGE);
        let mss = |tap: &Tap, accepts: bool| {
            wait_for("a SYN", PATIENCE, || {
                tap.find_tcp(|tcp| (tcp.syn && tcp.ack == accepts).then(|| mss(tcp)))
            })
        };
        assert_eq!(mss(&inside, false), limit, "the client's SYN at {public}");
        assert_eq!(mss(&outside, true), limit, "the container's answer from {public}");
    }
}

/// The segments that the sender of this SYN takes.
fn mss(tcp: &etherparse::TcpHeader) -> u16 {
    let options = tcp.options_iterator().filter_map(Result::ok);
    let mut sizes = options.filter_map(|option| match option {
        etherparse::TcpOptionElement::MaximumSegmentSize(size) => Some(size),
        _ => None,
    });
    sizes.next().expect("a SYN says how large segments may be")
}

fn to(address: &str, tunnel: &Tunnel) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), tunnel.raw_port())
}
