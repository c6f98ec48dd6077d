//! What must not work does not: between containers, from a container to its machine, and from
//! outside to a container without a tunnel. Every refusal has its name among the counters.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tests::{
    attempts::Attempts,
    echo::{Echo, dial},
    lab::{Lab, PATIENCE},
    process::wait_for,
    tap::{ICMP, Tap},
    tenant::Tenant,
};

#[test]
fn containers_do_not_reach_each_other_whatever_they_send() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--workspace", "one"]);
    let b = Tenant::new(&lab.edge, "b", &["--workspace", "two", "--unencrypted-port", "8000"]);
    let same = Tenant::new(&lab.edge, "same", &["--workspace", "one"]);
    let _echo = Echo::serve(&b.netns, 8000);
    let (tap, at_b, at_same) = (a.tap(), b.tap(), same.tap());
    let outside = Tap::on(&lab.internet, "eth0");
    let mut attempts = Attempts::new(&lab.edge, "tc_container", &[&at_b, &at_same, &outside]);

    let own = SocketAddr::from((a.ipv4(), 1000));
    let own_v6 = SocketAddr::from((a.i6pn(), 1000));
    for (other, private) in [(&b, "other_workspace"), (&same, "no_i6pn")] {
        let name = &other.container.name;
        for port in [53, 80, 8000] {
            let v4 = SocketAddr::from((other.ipv4(), port));
            let v6 = SocketAddr::from((other.i6pn(), port));
            for (own, other, verdict) in [(own, v4, "between_containers"), (own_v6, v6, private)] {
                let what = format!("to {name}, {other}");
                attempts.refused(verdict, &what, |text| tap.udp(own, other, text));
                for syn in [true, false] {
                    attempts.refused(verdict, &what, |text| {
                        tap.tcp(own, other, syn, text);
                    });
                }
            }
        }
        attempts.refused("between_containers", "ICMP", |text| {
            tap.other(a.ipv4().into(), other.ipv4().into(), ICMP, text);
        });
        // As the kernel's own sockets see it.
        let v4 = SocketAddr::from((other.ipv4(), 8000));
        let pinged = a.netns.command("ping");
        assert!(!answers(pinged, &v4.ip()), "{name} answers pings");
    }
    // One more address of the range, that nobody has.
    let nobody = SocketAddr::from((Ipv4Addr::from(u32::from(b.ipv4()) + 4000), 80));
    attempts.refused("no_such_container", "to nobody", |text| tap.udp(own, nobody, text));

    // The scene itself works: what is allowed does arrive.
    let allowed = "allowed-to-the-internet";
    tap.udp(own, client(9), allowed);
    wait_for("ordinary egress", PATIENCE, || outside.saw(allowed).then_some(()));
}

#[test]
fn forged_sources_never_leave_a_container() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--workspace", "one"]);
    let b = Tenant::new(&lab.edge, "b", &["--workspace", "two"]);
    let (tap, at_b) = (a.tap(), b.tap());
    let outside = Tap::on(&lab.internet, "eth0");
    let mut attempts = Attempts::new(&lab.edge, "tc_container", &[&at_b, &outside]);

    let service = SocketAddr::from((Ipv4Addr::new(169, 254, 20, 10), 53));
    let forged = [b.ipv4(), "192.0.2.10".parse().unwrap(), "198.51.100.7".parse().unwrap()];
    for source in forged.map(|source| SocketAddr::from((source, 1000))).into_iter().chain([service])
    {
        for destination in [client(9), service, SocketAddr::from((b.ipv4(), 80))] {
            let what = format!("{source} to {destination}");
            attempts.refused("forged_source", &what, |text| tap.udp(source, destination, text));
            attempts.refused("forged_source", &what, |text| {
                tap.tcp(source, destination, true, text);
            });
        }
    }
    let b_v6 = SocketAddr::from((b.i6pn(), 80));
    for source in [b_v6.ip(), "fe80::9".parse().unwrap(), "2001:db8::10".parse().unwrap()] {
        let source = SocketAddr::new(source, 1000);
        attempts.refused("forged_source", &source.to_string(), |text| {
            tap.udp(source, b_v6, text);
        });
    }
    // Neither IPv4 nor IPv6: ARP, and a VLAN tag around a packet to b.
    attempts.refused("not_ip", "ARP", |text| {
        let mut frame = vec![0xff; 12];
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(text.as_bytes());
        tap.send_frame(&frame);
    });
}

#[test]
fn outside_reaches_no_container_without_a_tunnel() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--unencrypted-port", "8000"]);
    let b = Tenant::new(&lab.edge, "b", &[]);
    let _echo = Echo::serve(&a.netns, 8000);
    let (at_a, at_b) = (a.tap(), b.tap());
    let tap = lab.tap_to_machine();
    let mut attempts = Attempts::new(&lab.edge, "tc_uplink", &[&at_a, &at_b]);
    for port in [8000, 80] {
        for (container, client) in [
            (SocketAddr::from((a.ipv4(), port)), client(1000)),
            (SocketAddr::from((b.ipv4(), port)), client(1000)),
            (SocketAddr::from((a.i6pn(), port)), client_v6(1000)),
            (SocketAddr::from((b.i6pn(), port)), client_v6(1000)),
        ] {
            let what = format!("to {container}");
            attempts.refused("bare_inner", &what, |text| tap.udp(client, container, text));
            attempts.refused("bare_inner", &what, |text| tap.tcp(client, container, true, text));
        }
    }
    // Nor does anybody out there pass for a container, not even to a tunnel.
    let public = SocketAddr::new(Lab::PUBLIC.parse().unwrap(), lab.edge.tunnels()[0].raw_port());
    let forged = SocketAddr::from((b.ipv4(), 1000));
    attempts.refused("forged_source", "as a container", |text| {
        tap.tcp(forged, public, true, text);
    });
    // The scene itself works: the same packet from an honest client arrives.
    let allowed = "allowed-to-the-tunnel";
    tap.tcp(client(1000), public, true, allowed);
    wait_for("a tunnel's packet", PATIENCE, || at_a.saw(allowed).then_some(()));
}

#[test]
fn a_container_reaches_no_service_of_its_machine() {
    let lab = Lab::new(&[]);
    // A second network of the machine, and the address where clouds keep their secrets.
    let metadata: Ipv4Addr = "169.254.169.254".parse().unwrap();
    lab.machine.ip(&["address", "add", "10.1.1.1/32", "dev", "lo"]);
    lab.machine.ip(&["route", "add", "169.254.169.254", "via", Lab::CLIENT]);
    lab.internet.ip(&["address", "add", "169.254.169.254/32", "dev", "lo"]);
    let a = Tenant::new(&lab.edge, "a", &[]);

    let machine = Echo::serve(&lab.machine, 7777);
    let cloud = Echo::serve(&lab.internet, 7777);
    let addresses: [IpAddr; 7] = [
        Lab::PUBLIC.parse().unwrap(),
        Lab::PUBLIC_V6.parse().unwrap(),
        "10.1.1.1".parse().unwrap(),
        "169.254.1.1".parse().unwrap(),
        "169.254.20.10".parse().unwrap(),
        "fe80::1".parse().unwrap(),
        metadata.into(),
    ];
    // The listeners are there: the machine itself reaches them.
    for address in [addresses[0], addresses[1], addresses[2], metadata.into()] {
        dial(&lab.machine, SocketAddr::new(address, 7777)).expect("the machine's own connection");
    }
    let seen = (3, 1);
    wait_for("the machine's own connections", PATIENCE, || {
        ((machine.clients().len(), cloud.clients().len()) == seen).then_some(())
    });
    std::thread::scope(|scope| {
        for address in addresses {
            let a = &a;
            scope.spawn(move || {
                let to = SocketAddr::new(address, 7777);
                assert!(!connects(a, to), "the container reached {to}");
            });
        }
    });
    assert_eq!((machine.clients().len(), cloud.clients().len()), seen);
    for address in [Lab::PUBLIC, "169.254.169.254"] {
        let address = address.parse().unwrap();
        assert!(!answers(a.netns.command("ping"), &address), "{address} answers pings");
    }
    // The scene itself works.
    assert!(connects(&a, client(7777)), "ordinary egress");
}

/// Whether a connection comes about within a second: more than enough between namespaces.
fn connects(tenant: &Tenant, to: SocketAddr) -> bool {
    let second = std::time::Duration::from_secs(1);
    tenant.netns.enter(|| std::net::TcpStream::connect_timeout(&to, second).is_ok())
}

fn answers(mut ping: std::process::Command, address: &IpAddr) -> bool {
    use tests::process::Start as _;

    ping.args(["-c", "1", "-W", "1", &address.to_string()]).output_of().status.success()
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new(Lab::CLIENT.parse().expect("a test's own step"), port)
}

fn client_v6(port: u16) -> SocketAddr {
    SocketAddr::new(Lab::CLIENT_V6.parse().expect("a test's own step"), port)
}
