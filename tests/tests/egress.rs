//! The way out of a container: source NAT for those that may, nothing at all for the others,
//! and never by a port that is forwarded.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tests::{
    echo::{Echo, round_trip},
    lab::{Lab, PATIENCE},
    process::wait_for,
    tap::Tap,
    tenant::Tenant,
};

#[test]
fn egress_leaves_under_the_machines_address_and_never_by_a_raw_port() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &[]);
    let server = Echo::serve(&lab.internet, 7777);
    let inbox = lab.internet.enter(|| UdpSocket::bind("0.0.0.0:7778").unwrap());
    inbox.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sources = Vec::new();
    // NAT keeps a source port where it can: so each of these asks for one of the raw range.
    let asked = || (20_000..30_000).step_by(25);
    for port in asked() {
        a.netns.enter(|| {
            let own = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let socket = UdpSocket::bind(own).unwrap();
            socket.send_to(b"datagram", client(7778)).unwrap();
            let socket = bound(own, Type::STREAM, Protocol::TCP);
            socket.connect_timeout(&client(7777).into(), PATIENCE).unwrap();
        });
        sources.push(inbox.recv_from(&mut [0; 64]).unwrap().1);
    }
    wait_for("the server to have accepted all", PATIENCE, || {
        (server.clients().len() == asked().count()).then_some(())
    });
    sources.extend(server.clients());
    assert_eq!(sources.len(), 2 * asked().count());
    for source in sources {
        assert_eq!(source.ip().to_string(), Lab::PUBLIC);
        assert!(!(20_000..30_000).contains(&source.port()), "{source}");
    }
}

#[test]
fn a_program_of_edge_run_pings_and_downloads() {
    let lab = Lab::new(&[]);
    let _server = Echo::serve(&lab.internet, 7777);
    let script = format!(
        "ping -c 1 -W 5 {0} && echo hello | nc -N -w 5 {0} 7777 && ! ping -6 -c 1 -W 1 {1}",
        Lab::CLIENT,
        Lab::CLIENT_V6
    );
    let output = lab.edge.cli(&["run", "--", "sh", "-c", &script]).ok();
    assert!(output.stdout.contains("hello"), "{output}");
    // Containers have no public IPv6 address; what they try there has a name.
    assert!(lab.edge.metrics().packets("tc_container", "no_ipv6_egress") > 0.0);
}

#[test]
fn no_egress_is_none_and_tunnels_still_work() {
    let lab = Lab::new(&[]);
    let options = ["--no-egress", "--unencrypted-port", "8000", "--native-ipv6"];
    let a = Tenant::new(&lab.edge, "a", &options);
    assert_eq!(a.container.egress, "none");
    let _echo = Echo::serve(&a.netns, 8000);
    let server = Echo::serve(&lab.internet, 7777);
    let outside = Tap::on(&lab.internet, "eth0");
    let tap = a.tap();
    let before = lab.edge.metrics();

    let text = "should-not-be-seen";
    let own = SocketAddr::from((a.ipv4(), 1000));
    tap.udp(own, client(53), text);
    tap.tcp(own, client(80), true, text);
    tap.tcp(own, client(80), false, text);
    tap.other(own.ip(), client(0).ip(), tests::tap::ICMP, text);
    let a_second = Duration::from_secs(1);
    a.netns.enter(|| {
        let error = TcpStream::connect_timeout(&client(7777), a_second).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "somebody answered");
    });
    let refused = |metrics: &tests::metrics::Metrics| metrics.packets("tc_container", "no_egress");
    assert!(refused(&lab.edge.metrics()) >= refused(&before) + 5.0);

    let tunnel = lab.edge.tunnels().remove(0);
    for address in [Lab::PUBLIC, Lab::PUBLIC_V6] {
        let to = SocketAddr::new(address.parse().unwrap(), tunnel.raw_port());
        round_trip(&lab.internet, to, 1 << 20);
    }
    // The tunnels' answers have passed the tap by now, and nothing else has.
    assert!(!outside.saw(text) && server.clients().is_empty());
}

#[test]
fn no_egress_means_no_names_of_the_outside_and_no_public_port_of_the_machine() {
    let lab = Lab::new(&[]);
    let public = Tenant::new(&lab.edge, "public", &["--unencrypted-port", "8000"]);
    let _echo = Echo::serve(&public.netns, 8000);
    let open = Tenant::new(&lab.edge, "open", &[]);
    let shut = Tenant::new(&lab.edge, "shut", &["--no-egress", "--i6pn"]);
    let raw = lab.edge.tunnels()[0].raw_port();
    let address: IpAddr = Lab::PUBLIC.parse().unwrap();
    round_trip(&open.netns, SocketAddr::new(address, raw), 1 << 10);
    let counted = || lab.edge.metrics().packets("tc_container", "no_egress");
    for port in [raw, 443] {
        let before = counted();
        shut.netns.enter(|| {
            let to = SocketAddr::new(address, port);
            TcpStream::connect_timeout(&to, Duration::from_millis(500)).unwrap_err();
        });
        assert!(counted() > before, "port {port}");
    }
    const REFUSED: u8 = 5;
    assert_eq!(shut.dns_code("secret.example.com"), REFUSED);
    assert_eq!(shut.dns_code("i6pn.modal.local"), 0);
}

#[test]
fn a_forwarded_raw_port_answers_but_does_not_dial() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--unencrypted-port", "8000", "--native-ipv6"]);
    let server = Echo::serve(&lab.internet, 7777);
    let outside = Tap::on(&lab.internet, "eth0");
    let dials = |own: SocketAddr, to: SocketAddr| {
        a.netns.enter(|| {
            let socket = bound(own, Type::STREAM, Protocol::TCP);
            let since = Instant::now();
            let result = socket.connect_timeout(&to.into(), PATIENCE);
            (result.map_err(|error| error.kind()), since.elapsed())
        })
    };
    let counted = || lab.edge.metrics().packets("tc_container", "connect_from_forwarded_port");
    for (own, server) in [("0.0.0.0", Lab::CLIENT), ("::", Lab::CLIENT_V6)] {
        let to = SocketAddr::new(server.parse().unwrap(), 7777);
        let own = SocketAddr::new(own.parse().unwrap(), 8000);
        let before = counted();
        let (result, took) = dials(own, to);
        assert_eq!(result, Err(ErrorKind::ConnectionRefused), "{to}");
        assert!(took < Duration::from_millis(500), "refused after {took:?} only");
        assert_eq!(counted() - before, 1.0);
    }
    // What does not open a connection is taken for an answer, but what begins one is not, by
    // whatever flags or data come along with it.
    let tap = a.tap();
    let own = SocketAddr::from((a.ipv4(), 8000));
    let before = counted();
    tap.tcp(own, client(7777), true, "with data");
    wait_for("the SYN with data", PATIENCE, || (counted() > before).then_some(()));

    // Any other port may dial, and passes the tap after all of those.
    let (result, _) = dials(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8001)), client(7777));
    assert_eq!(result, Ok(()));
    wait_for("the connection", PATIENCE, || (server.clients().len() == 1).then_some(()));
    let raw = lab.edge.tunnels()[0].raw_port();
    let from_the_tunnel = |tcp: &etherparse::TcpHeader| {
        (tcp.source_port == raw || tcp.source_port == 8000).then_some(())
    };
    assert!(outside.find_tcp(from_the_tunnel).is_none(), "something left from the tunnel's port");
    assert!(!outside.saw("with data"));
}

#[test]
fn connecting_programs_are_not_given_a_forwarded_port() {
    let lab = Lab::new(&[]);
    let _server = Echo::serve(&lab.internet, 7777);
    let a = Tenant::new(&lab.edge, "a", &["--unencrypted-port", "40000"]);
    // Two ports to choose from, of which one is forwarded.
    a.netns.sysctl("net/ipv4/ip_local_port_range", "40000 40001");
    let own = a.netns.enter(|| TcpStream::connect(client(7777)).unwrap().local_addr().unwrap());
    assert_eq!(own.port(), 40001);
    let reserved = || {
        a.netns.enter(|| {
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap()
        })
    };
    assert_eq!(reserved().trim(), "40000");
}

fn bound(own: SocketAddr, kind: Type, protocol: Protocol) -> Socket {
    let socket =
        Socket::new(Domain::for_address(own), kind, Some(protocol)).expect("a test's own step");
    socket.bind(&own.into()).expect("a test's own step");
    socket
}

fn client(port: u16) -> SocketAddr {
    let address: IpAddr = Lab::CLIENT.parse().expect("a test's own step");
    SocketAddr::new(address, port)
}
