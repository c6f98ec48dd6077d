//! Packets between two machines, on real wires and between real stacks: what `BPF_PROG_TEST_RUN`
//! cannot show is whether the kernel takes what the programs made, in one piece and in segments.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use edge_common::{
    account::Lane,
    packet::NETWORK,
    tables::AddressRow,
    verdict::{Hook, Verdict},
};
use edge_user::datapath::UplinkMode;
use tests::{
    echo::{Echo, round_trip},
    netns::NetNs,
    packets::{
        plan::{icmp, tcp, udp},
        raw::RawEnd,
        region::{Carriage, GATEWAY, HOST, Machine, Offloads, PUBLICS, Region, SLOT, inner},
        scene::ACCOUNTS,
    },
    process::{Output, Start, wait_for},
};

const BYTES: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// IPv6 and ICMPv6 headers.
const HEADERS: u32 = 48;

fn end(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Three echo requests whose packets have so many bytes, and must not be cut up.
fn ping(from: &NetNs, to: &str, bytes: u32) -> Output {
    let size = (bytes - HEADERS).to_string();
    let words = ["-6", "-c", "3", "-i", "0.05", "-w", "10", "-M", "do", "-s", &size, to];
    from.command("ping").args(words).output_of()
}

/// What all programs made of packets, for people.
fn told(region: &Region) -> String {
    let [gateway, host] = &region.machines;
    format!("\non the gateway:\n{}\non the host:\n{}", gateway.judged(), host.judged())
}

fn packets(machine: &Machine, hook: Hook, verdict: Verdict) -> u64 {
    machine.kernel.packets(hook, verdict)
}

fn between_containers(name: &str, mode: UplinkMode, offloads: Offloads) {
    for carriage in Carriage::ALL {
        let region = Region::new(name, carriage, mode, offloads);
        let [gateway, host] = &region.machines;
        let [_, to] = inner(HOST);
        for bytes in [100, carriage.mtu()] {
            let output = ping(&gateway.container, &to, bytes);
            assert!(output.status.success(), "{carriage:?}, {output}{}", told(&region));
        }
        let _echo = Echo::serve(&host.container, 9000);
        round_trip(&gateway.container, end(&to, 9000), BYTES);
        // Longer on the average, acknowledgements included, than any that fits: segments were cut
        // behind the program, or not at all.
        let sent = gateway.kernel.count(Hook::TcContainer, Verdict::I6pn);
        let longest = NETWORK as u64 + u64::from(carriage.mtu());
        assert!(sent.bytes > sent.packets * longest, "{carriage:?}: {sent:?}{}", told(&region));
        if mode == UplinkMode::Xdp {
            let delivered = packets(host, Hook::TcUplink, Verdict::Delivered);
            assert!(delivered > 0, "{carriage:?}: XDP opened nothing{}", told(&region));
            // Whose they are and how they came its note says.
            let is_direct = matches!(carriage, Carriage::Direct);
            let lane = if is_direct { Lane::Direct } else { Lane::Encapsulated };
            let place = lane.of(ACCOUNTS[0]);
            let counts = host.kernel.datapath.counted_at(place, Hook::TcUplink).expect("counters");
            assert_eq!(counts[Verdict::Delivered as usize].packets, delivered, "{carriage:?}");
        }
    }
}

#[test]
fn containers_of_two_hosts_reach_each_other() {
    between_containers("private", UplinkMode::Tcx, Offloads::All);
}

#[test]
fn containers_of_two_hosts_reach_each_other_through_nics() {
    between_containers("private-nics", UplinkMode::Xdp, Offloads::None);
}

/// A stack puts all headers of a packet in one piece, and its payload in pages; others may not.
#[test]
fn headers_are_read_wherever_they_lie() {
    for carriage in Carriage::ALL {
        let region = Region::new("pieces", carriage, UplinkMode::Tcx, Offloads::All);
        let [gateway, host] = &region.machines;
        let [from, to] = [GATEWAY, HOST].map(|number| format!("[{}]:9", inner(number)[1]));
        let (near, far) = (&gateway.container, &host.container);
        let (sender, receiver) = (RawEnd::open(near, "eth0"), RawEnd::open(far, "eth0"));
        let segment = tcp(&from, &to).options(&[1; 12]).payload(&[0x5a; 6000]).build();
        let datagram = udp(&from, &to).payload(&[0xa5; 6000]).build();
        let pieces = [14, 54, 72, 74, 80, 86, 134].map(|first| (&segment, first));
        let pieces = pieces.into_iter().chain([14, 54, 60, 62].map(|first| (&datagram, first)));
        for (times, (frame, first)) in (1..).zip(pieces) {
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&gateway.netns.mac("ct0"));
            sender.send_in_pieces(&frame, first);
            let all = || format!("{carriage:?}, {first}{}", told(&region));
            let same = |seen: &[u8]| seen.len() > 1000 && seen[14..] == frame[14..seen.len()];
            assert!(receiver.find(PATIENCE, same).is_some(), "{}", all());
            assert_eq!(packets(gateway, Hook::TcContainer, Verdict::I6pn), times, "{}", all());
            assert_eq!(packets(host, Hook::TcUplink, Verdict::I6pn), times, "{}", all());
        }
    }
}

fn from_clients(name: &str, mode: UplinkMode, offloads: Offloads) {
    for carriage in Carriage::ALL {
        let region = Region::new(name, carriage, mode, offloads);
        let [gateway, host] = &region.machines;
        let echo = Echo::serve(&host.container, 8000);
        for public in PUBLICS {
            round_trip(&region.client, public.parse().expect("an end"), BYTES);
        }
        for client in ["192.0.2.20", "2001:db8::20"] {
            assert!(echo.saw(client), "{carriage:?}: {:?}", echo.clients());
        }
        for machine in [gateway, host] {
            let traffic = machine.kernel.datapath.traffic(SLOT).expect("counters");
            assert_eq!(traffic.connections, 2, "{carriage:?}{}", told(&region));
            let bytes = [traffic.inbound, traffic.outbound].map(|count| count.bytes);
            assert!(bytes.iter().all(|bytes| *bytes > 2 * BYTES as u64), "{carriage:?}: {bytes:?}");
        }
    }
}

#[test]
fn clients_reach_a_container_of_another_host_than_the_gateway() {
    from_clients("clients", UplinkMode::Tcx, Offloads::All);
}

#[test]
fn clients_reach_it_through_nics() {
    from_clients("clients-nics", UplinkMode::Xdp, Offloads::None);
}

/// What a packet was carried in must not be left in it when the kernel cuts it up.
#[test]
fn segments_that_were_carried_leave_by_a_wire_without_offloads() {
    from_clients("clients-cut", UplinkMode::Tcx, Offloads::Inside);
}

/// A container that sends more than fits is told so, and takes it in: its packets and segments are
/// as large as the way is wide.
#[test]
fn who_sends_too_much_is_told_how_much_fits() {
    for carriage in [Carriage::V6, Carriage::Direct] {
        let region = Region::new("too-big", carriage, UplinkMode::Tcx, Offloads::All);
        let [gateway, host] = &region.machines;
        for machine in [gateway, host] {
            machine.netns.ip(&["link", "set", "ct0", "mtu", "9500"]);
            machine.container.ip(&["link", "set", "eth0", "mtu", "9500"]);
        }
        // Segments first: neither stack knows of the way yet.
        let [_, back] = inner(GATEWAY);
        let _echo = Echo::serve(&gateway.container, 9000);
        round_trip(&host.container, end(&back, 9000), BYTES);
        assert!(packets(host, Hook::TcContainer, Verdict::TooBig) > 0, "{}", told(&region));

        host.container.ip(&["-6", "route", "flush", "cache"]);
        let output = ping(&host.container, &back, carriage.mtu() + 1);
        let says = format!("mtu={}", carriage.mtu());
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(all.contains(&says), "{carriage:?}: {output}{}", told(&region));
    }
}

/// What a router of the underlay says reaches the container that must know.
#[test]
fn a_narrow_underlay_is_told_to_containers() {
    let carriage = Carriage::V4;
    let region = Region::new("narrow", carriage, UplinkMode::Tcx, Offloads::All);
    let [gateway, host] = &region.machines;
    let [_, to] = inner(HOST);
    let carried = udp("10.9.0.1:50000", "10.9.0.2:6081");
    let mtu = 1400;
    let mut error = icmp("10.9.0.2", "10.9.0.1", 3, 4, &carried.quote(8)).mtu(mtu).build();
    error[..6].copy_from_slice(&gateway.netns.mac("un0"));
    RawEnd::open(&host.netns, "un0").send(&error);
    wait_for("the news", PATIENCE, || {
        (packets(gateway, Hook::TcUplink, Verdict::IcmpError) == 1).then_some(())
    });
    let fits = mtu - 36;
    assert!(ping(&gateway.container, &to, fits).status.success(), "{}", told(&region));
    let output = ping(&gateway.container, &to, fits + 1);
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains(&format!("mtu={fits}")), "{output}{}", told(&region));
}

/// Nobody waits for what cannot come.
#[test]
fn who_is_refused_is_told_at_once() {
    let region = Region::new("refused", Carriage::V4, UplinkMode::Tcx, Offloads::All);
    let [gateway, host] = &region.machines;
    let [v4, v6] = inner(HOST);
    let connects = |to: SocketAddr| {
        let connected = gateway.container.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        connected.expect_err("it was not refused").kind()
    };
    let elsewhere = |text: &str| end(text, 80);
    let prohibited = ErrorKind::PermissionDenied;
    assert_eq!(connects(elsewhere("fdaa:0:2:5:2::2")), prohibited, "another workspace");
    assert_eq!(connects(elsewhere("fdaa:0:1:6:2::2")), prohibited, "another region");
    let unreachable = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    for nobody in ["fdaa:0:1:5:9::2", "fdaa:0:1:5:1::77"] {
        let kind = connects(elsewhere(nobody));
        assert!(unreachable.contains(&kind), "{nobody}: {kind:?}");
    }
    assert_eq!(connects(end(&v4, 80)), ErrorKind::HostUnreachable, "IPv4");
    gateway.own(|row| row.flags &= !AddressRow::I6PN, GATEWAY);
    assert_eq!(connects(end(&v6, 80)), prohibited, "without i6pn");
    let told = [
        Verdict::OtherWorkspace,
        Verdict::OtherRegion,
        Verdict::NoSuchHost,
        Verdict::NoSuchContainer,
        Verdict::BetweenContainers,
        Verdict::NoI6pn,
    ];
    for verdict in told {
        // A stack takes no answer while it still holds the socket: then it asks once more.
        let count = packets(gateway, Hook::TcContainer, verdict);
        assert!((1..=3).contains(&count), "{verdict:?}: {count} times{}", self::told(&region));
    }
    assert_eq!(packets(host, Hook::TcUplink, Verdict::I6pn), 0);
}
