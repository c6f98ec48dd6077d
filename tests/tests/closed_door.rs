//! With every program gone the machine is a closed door, not an open router: what the nftables
//! table keeps shut by itself.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use edge_common::tables::LAYOUT;
use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    process::{Start as _, wait_for},
    tap::Tap,
    tenant::Tenant,
};

/// Something that must not arrive, and where it would.
struct Probe<'a> {
    what: String,
    send: Box<dyn Fn(&str) + 'a>,
    arrived: Box<dyn Fn(&str) -> bool + 'a>,
}

#[test]
fn nothing_passes_between_uplinks_containers_and_the_machine_without_programs() {
    let lab = Lab::new(&[]);
    let a = Tenant::new(&lab.edge, "a", &["--workspace", "one", "--unencrypted-port", "8000"]);
    let b = Tenant::new(&lab.edge, "b", &["--workspace", "one"]);
    open_ipv6(&lab, &[&a, &b]);
    let (from_a, at_a, at_b) = (a.tap(), a.tap(), b.tap());
    let (from_internet, at_internet) = (lab.tap_to_machine(), Tap::on(&lab.internet, "eth0"));
    let at_machine = Tap::on(&lab.machine, "up0");
    let inbox = Inbox::of(&lab);
    let mail = SocketAddr::new(public(), Inbox::PORT);

    let client = |port| SocketAddr::new(Lab::CLIENT.parse().unwrap(), port);
    let client_v6 = |port| SocketAddr::new(Lab::CLIENT_V6.parse().unwrap(), port);
    let own = |port| SocketAddr::from((a.ipv4(), port));
    let mut probes = Vec::new();
    for (tap, name) in [(&at_a, "a"), (&at_b, "b")] {
        let tenant = if name == "a" { &a } else { &b };
        let (v4, v6) = (SocketAddr::from((tenant.ipv4(), 8000)), (tenant.i6pn(), 8000).into());
        for (from, to) in [(client(1000), v4), (client_v6(1000), v6)] {
            probes.push(udp(&from_internet, from, to, tap));
            probes.push(syn(&from_internet, from, to, tap));
        }
    }
    let b_v4 = SocketAddr::from((b.ipv4(), 80));
    let b_v6 = SocketAddr::from((b.i6pn(), 80));
    probes.push(udp(&from_a, own(1000), b_v4, &at_b));
    probes.push(syn(&from_a, own(1000), b_v4, &at_b));
    probes.push(udp(&from_a, (a.i6pn(), 1000).into(), b_v6, &at_b));
    probes.push(udp(&from_a, (a.i6pn(), 1000).into(), client_v6(9), &at_internet));
    for address in [Lab::PUBLIC, "10.1.1.1"] {
        let to = SocketAddr::new(address.parse().unwrap(), Inbox::PORT);
        let tap = &from_a;
        let inbox = &inbox;
        probes.push(Probe {
            what: format!("{} to the machine's {to}", own(1000)),
            send: Box::new(move |text| tap.udp(own(1000), to, text)),
            arrived: Box::new(move |text| inbox.got(text)),
        });
    }

    detach_programs(&lab.edge);
    // The kernel lets go of a program in its own time.
    let b_own = SocketAddr::from((b.ipv4(), 1000));
    let at_b_out = b.tap();
    let mut round = 0;
    for (hook, verdict, tap, own, to, at) in [
        ("tc_container", "egress", &from_a, own(1000), client(9), &at_internet),
        ("tc_container", "egress", &at_b_out, b_own, client(9), &at_internet),
        ("tc_uplink", "not_ours", &from_internet, client(1000), mail, &at_machine),
    ] {
        wait_for(&format!("{hook} to be gone"), PATIENCE, || {
            round += 1;
            let text = format!("round-{round}.");
            let before = lab.edge.metrics().packets(hook, verdict);
            tap.udp(own, to, &text);
            wait_for(&text, PATIENCE, || at.saw(&text).then_some(()));
            (lab.edge.metrics().packets(hook, verdict) == before).then_some(())
        });
    }
    for (number, probe) in probes.iter().enumerate() {
        (probe.send)(&format!("early-{number}."));
    }
    // What comes after them on the same ways, and may pass, has passed: so could they have.
    let sentinel = "sentinel";
    from_a.udp(own(1000), client(9), sentinel);
    from_internet.udp(client(1000), mail, sentinel);
    wait_for("ordinary egress", PATIENCE, || at_internet.saw(sentinel).then_some(()));
    wait_for("the machine's own mail", PATIENCE, || inbox.got(sentinel).then_some(()));
    for (number, probe) in probes.iter().enumerate() {
        assert!(!(probe.arrived)(&format!("early-{number}.")), "{}", probe.what);
    }
    let machine_tcp = SocketAddr::new(public(), lab.edge.tunnels()[0].raw_port());
    let connected = a.netns.enter(|| {
        std::net::TcpStream::connect_timeout(&machine_tcp, Duration::from_millis(500)).is_ok()
    });
    assert!(!connected, "a container reached a listener of the machine");

    // Without the table each of them arrives: it was the table that kept them out.
    let table = format!("edge_{}", lab.edge.instance());
    lab.machine.command("nft").args(["delete", "table", "inet", &table]).output_of().ok();
    for (number, probe) in probes.iter().enumerate() {
        let text = format!("late-{number}.");
        (probe.send)(&text);
        wait_for(&probe.what, PATIENCE, || (probe.arrived)(&text).then_some(()));
    }
}

fn public() -> IpAddr {
    Lab::PUBLIC.parse().expect("a test's own step")
}

fn udp<'a>(from: &'a Tap, own: SocketAddr, to: SocketAddr, at: &'a Tap) -> Probe<'a> {
    Probe {
        what: format!("UDP from {own} to {to}"),
        send: Box::new(move |text| from.udp(own, to, text)),
        arrived: Box::new(move |text| at.saw(text)),
    }
}

fn syn<'a>(from: &'a Tap, own: SocketAddr, to: SocketAddr, at: &'a Tap) -> Probe<'a> {
    Probe {
        what: format!("SYN from {own} to {to}"),
        send: Box::new(move |text| from.tcp(own, to, true, text)),
        arrived: Box::new(move |text| at.saw(text)),
    }
}

/// Unpins every link of the instance, which detaches its programs.
fn detach_programs(edge: &Edge) {
    let pins = Path::new("/sys/fs/bpf/edge").join(edge.instance());
    let pins = pins.join(format!("v{LAYOUT}/links"));
    let mut removed = 0;
    for pin in fs::read_dir(&pins).expect("the instance's pins") {
        fs::remove_file(pin.expect("a pin").path()).expect("removing a pin");
        removed += 1;
    }
    assert_eq!(removed, 4, "the uplink, the service namespace and two containers");
}

/// Makes the machine an IPv6 router with routes to the containers, as an operator's own setup
/// might: edge alone leaves IPv6 off on its veths, and then there is no door to test.
fn open_ipv6(lab: &Lab, tenants: &[&Tenant]) {
    lab.machine.sysctl("net/ipv6/conf/all/forwarding", "1");
    lab.machine.ip(&["address", "add", "10.1.1.1/32", "dev", "lo"]);
    for tenant in tenants {
        let route = lab.machine.ip(&["route", "get", &tenant.container.ipv4]);
        let veth = route.split_whitespace().skip_while(|word| *word != "dev").nth(1);
        let veth = veth.expect("a route to the container");
        lab.machine.sysctl(&format!("net/ipv6/conf/{veth}/disable_ipv6"), "0");
        let (i6pn, mac) = (tenant.container.i6pn.as_str(), tenant.netns.mac("eth0"));
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        lab.machine.ip(&["route", "add", i6pn, "dev", veth]);
        lab.machine.ip(&["neigh", "replace", i6pn, "lladdr", &mac, "dev", veth]);
    }
}

/// A UDP socket of the machine, on all its addresses.
struct Inbox {
    socket: UdpSocket,
    texts: std::sync::Mutex<Vec<String>>,
}

impl Inbox {
    const PORT: u16 = 7777;

    fn of(lab: &Lab) -> Self {
        let socket = lab
            .machine
            .enter(|| UdpSocket::bind(("0.0.0.0", Self::PORT)).expect("a test's own step"));
        socket.set_nonblocking(true).expect("a test's own step");
        Self { socket, texts: std::sync::Mutex::default() }
    }

    fn got(&self, text: &str) -> bool {
        let mut texts = self.texts.lock().expect("a test's own step");
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => texts.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        texts.iter().any(|one| one == text)
    }
}
