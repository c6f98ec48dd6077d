//! What holds for every frame, however broken: decisions over arbitrary bytes and over damaged
//! copies of valid frames.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use crate::{
    address::{Address, Endpoint},
    checksum,
    decide::{self, Action, Outcome, Passage},
    icmp::Quote,
    native::{Frame, Rows},
    packet::{Headers, TCP},
    tables::{AddressRow, ForwardRow, LAYOUT, ListenerRow, Settings, TunnelRow},
    verdict::Verdict,
};

const VETH: u32 = 7;
const UPLINK: u32 = 4;
const PUBLIC: &str = "192.0.2.10:20001";
const INNER: &str = "100.64.0.2:8000";
const PUBLIC_V6: &str = "[2001:db8::10]:20001";
const INNER_V6: &str = "[fdaa::2]:8000";
const CLIENT: &str = "198.51.100.7:40000";
const CLIENT_V6: &str = "[2001:db8:1::7]:40000";

fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn rows() -> Rows {
    let mut rows = Rows {
        settings: Settings {
            layout: LAYOUT,
            mss_v4: 1300,
            mss_v6: 1280,
            service: address("169.254.20.10"),
            pool: address("100.64.0.0"),
            pool_mask: address("255.192.0.0"),
            private: address("fdaa::"),
            private_mask: address("ffff::"),
            ..Settings::default()
        },
        ..Rows::default()
    };
    rows.settings.pool_mask.words[..3].fill(u32::MAX);
    for (one, ifindex, flags) in [
        ("100.64.0.2", VETH, AddressRow::EGRESS),
        ("fdaa::2", VETH, AddressRow::EGRESS),
        ("100.64.0.3", 8, 0),
        ("fdaa::3", 8, 0),
        ("169.254.20.10", 9, AddressRow::SERVICE),
        ("100.64.0.1", 9, AddressRow::SERVICE),
    ] {
        rows.addresses.insert(address(one), AddressRow { ifindex, flags, ..Default::default() });
    }
    for (public, inner) in [(PUBLIC, INNER), (PUBLIC_V6, INNER_V6)] {
        let (public, container) = (endpoint(public), endpoint(inner));
        rows.tunnels.insert(
            public,
            TunnelRow { container, ifindex: VETH, slot: 1, ..TunnelRow::default() },
        );
        rows.forwards.insert(
            container,
            ForwardRow { public, uplink: UPLINK, slot: 1, ..ForwardRow::default() },
        );
        rows.listeners.insert(public, ListenerRow { kind: ListenerRow::RAW });
    }
    rows
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 61),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 61),
        _ => panic!("one family"),
    }
}

fn tcp(source: &str, destination: &str, syn: bool, payload: &[u8]) -> Vec<u8> {
    let [from, to]: [SocketAddr; 2] = [source, destination].map(|end| end.parse().unwrap());
    let segment = ip(from.ip(), to.ip()).tcp(from.port(), to.port(), 0x0102_0304, 512);
    let segment = if syn {
        segment.options_raw(&[1, 2, 4, 0x05, 0xb4, 0, 0, 0]).unwrap().syn()
    } else {
        segment.ack(7)
    };
    let mut frame = Vec::new();
    segment.write(&mut frame, payload).unwrap();
    frame
}

/// An ICMP error of a type that quotes, about a packet of the same family.
fn error(source: &str, destination: &str, quoted: &[u8]) -> Vec<u8> {
    let [from, to]: [IpAddr; 2] = [source, destination].map(|end| end.parse().unwrap());
    let (step, quote, mtu) = (ip(from, to), &quoted[14..], [0, 0, 5, 0x78]);
    let mut frame = Vec::new();
    match from {
        IpAddr::V4(_) => step.icmpv4_raw(3, 4, mtu).write(&mut frame, quote),
        IpAddr::V6(_) => step.icmpv6_raw(2, 0, mtu).write(&mut frame, quote),
    }
    .unwrap();
    frame
}

/// Valid frames that either hook carries on.
fn valid() -> Vec<Vec<u8>> {
    let reply = tcp(PUBLIC, CLIENT, false, b"12345678");
    let reply_v6 = tcp(PUBLIC_V6, CLIENT_V6, false, b"12345678");
    vec![
        tcp(CLIENT, PUBLIC, false, b"payload"),
        tcp(CLIENT_V6, PUBLIC_V6, false, b"payload"),
        tcp(CLIENT, PUBLIC, true, &[]),
        tcp(CLIENT_V6, PUBLIC_V6, true, &[]),
        error("203.0.113.9", "192.0.2.10", &reply),
        error("2001:db8:2::9", "2001:db8::10", &reply_v6),
        tcp(INNER, CLIENT, false, b"payload"),
        tcp(INNER_V6, CLIENT_V6, false, b"payload"),
        tcp(INNER, CLIENT, true, &[]),
        tcp(INNER_V6, CLIENT_V6, true, &[]),
        tcp("100.64.0.2:45000", "169.254.20.10:80", true, &[]),
        tcp(INNER, "100.64.0.1:50000", false, b"payload"),
        tcp("100.64.0.2:45000", PUBLIC, true, &[]),
        error("100.64.0.2", "198.51.100.7", &tcp(CLIENT, INNER, false, b"12345678")),
        error("fdaa::2", "2001:db8:1::7", &tcp(CLIENT_V6, INNER_V6, false, b"12345678")),
    ]
}

/// A valid frame with some bytes changed, perhaps cut.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>());
    (any::<Index>(), vec(change, 0..4), option::weighted(0.2, any::<Index>())).prop_map(
        |(which, changes, cut)| {
            let mut frame = which.get(&valid()).clone();
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame
        },
    )
}

/// Whether every checksum that a rewrite touches is right, over the bytes that are there: of an
/// IPv4 header, of what it carries, and of a quoted IPv4 header.
fn sums(frame: &[u8], headers: &Headers) -> Vec<bool> {
    let right = |parts: &[&[u8]]| checksum::of(parts) == 0;
    let network = &frame[14..headers.transport];
    let transport = &frame[headers.transport..];
    let length = (transport.len() as u32).to_be_bytes();
    let mut sums = Vec::new();
    let addresses = if headers.v4() { &network[12..20] } else { &network[8..40] };
    let pseudo = [addresses, &length, &[0, 0, 0, headers.protocol()]].concat();
    if headers.v4() {
        sums.push(right(&[network]));
    }
    if headers.v4() && headers.protocol() != TCP {
        sums.push(right(&[transport]));
        sums.push(transport.len() >= 28 && right(&[&transport[8..28]]));
    } else {
        sums.push(right(&[&pseudo, transport]));
    }
    sums
}

/// What holds at both hooks.
fn holds(before: &[u8], after: &[u8], outcome: &Outcome) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        outcome.verdict.is_refusal(),
        matches!(outcome.action, Action::Drop | Action::Bounce)
    );
    match outcome.action {
        Action::Pass | Action::PassToListener | Action::PassProxied => {
            prop_assert_eq!(before, after)
        }
        Action::Drop => prop_assert!(before == after || outcome.verdict == Verdict::Failed),
        Action::Bounce => {
            prop_assert_eq!(outcome.verdict, Verdict::ConnectFromForwardedPort);
            prop_assert!([54, 74].contains(&after.len()) && after.len() <= before.len());
            let headers = Headers::parse(&Frame(after.to_vec())).unwrap();
            prop_assert!(sums(after, &headers).iter().all(|right| *right));
        }
        Action::Deliver | Action::Send | Action::SendBare => {
            let parsed = Headers::parse(&Frame(before.to_vec())).unwrap();
            prop_assert_eq!(sums(before, &parsed), sums(after, &parsed));
            prop_assert_eq!(before.len(), after.len());
            prop_assert_eq!(&before[..14], &after[..14]);
            let headers = parsed.transport + if parsed.protocol() == TCP { 60 } else { 52 };
            let headers = headers.min(before.len());
            prop_assert_eq!(&before[headers..], &after[headers..], "payload changed");
        }
    }
    prop_assert_eq!(
        outcome.ifindex != 0,
        matches!(outcome.action, Action::Deliver | Action::Send | Action::SendBare)
    );
    prop_assert!(outcome.passage == Passage::None || outcome.slot == 1);
    Ok(())
}

fn at_uplink(before: &[u8]) -> Result<(), TestCaseError> {
    let rows = rows();
    let mut frame = Frame(before.to_vec());
    let outcome = decide::uplink(&mut frame, &rows, UPLINK);
    holds(before, &frame.0, &outcome)?;
    prop_assert!(matches!(outcome.action, Action::Pass | Action::Drop | Action::Deliver));
    if outcome.action == Action::Deliver {
        let came = Headers::parse(&Frame(before.to_vec())).unwrap();
        let arrives = Headers::parse(&frame).unwrap();
        prop_assert!(!inside(&rows, &came.source) && !inside(&rows, &came.destination));
        let public = match outcome.verdict {
            Verdict::Tunnel => {
                Endpoint { address: came.destination, port: came.destination_port().into() }
            }
            _ => Quote::parse(&Frame(before.to_vec()), &came).unwrap().source,
        };
        let row = rows.tunnels.get(&public).copied().unwrap();
        prop_assert_eq!(arrives.source, came.source);
        prop_assert_eq!(arrives.destination, row.container.address);
        prop_assert_eq!(outcome.ifindex, row.ifindex);
        if outcome.verdict == Verdict::Tunnel {
            prop_assert_eq!(u32::from(arrives.destination_port()), row.container.port);
        } else {
            prop_assert_eq!(Quote::parse(&frame, &arrives).unwrap().source, row.container);
        }
    }
    Ok(())
}

fn at_container(before: &[u8]) -> Result<(), TestCaseError> {
    let rows = rows();
    let mut frame = Frame(before.to_vec());
    let outcome = decide::container(&mut frame, &rows, VETH);
    holds(before, &frame.0, &outcome)?;
    if outcome.verdict.is_refusal() {
        return Ok(());
    }
    let sent = Headers::parse(&Frame(before.to_vec())).unwrap();
    prop_assert_eq!(rows.addresses.get(&sent.source).unwrap().ifindex, VETH);
    let leaves = Headers::parse(&frame).unwrap();
    prop_assert_eq!(leaves.destination, sent.destination);
    match outcome.action {
        Action::Deliver => {
            let to = rows.addresses.get(&sent.destination).unwrap();
            prop_assert!(to.flags & AddressRow::SERVICE != 0 && to.ifindex == outcome.ifindex);
        }
        Action::Send => {
            prop_assert!(sent.destination.is_unicast() && !inside(&rows, &sent.destination));
            prop_assert!(["192.0.2.10", "2001:db8::10"].map(address).contains(&leaves.source));
            prop_assert!(!leaves.opens(), "a forwarded port connects out");
        }
        _ => prop_assert!(sent.v4() || outcome.verdict == Verdict::Listener),
    }
    Ok(())
}

fn inside(rows: &Rows, address: &Address) -> bool {
    let settings = &rows.settings;
    address.within(&settings.pool, &settings.pool_mask)
        || address.within(&settings.private, &settings.private_mask)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200)) {
        at_uplink(&bytes)?;
        at_container(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes_behind_an_ethernet_header(v4: bool, bytes in vec(any::<u8>(), 0..120)) {
        let mut frame = [&[2; 12][..], if v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] }, &bytes].concat();
        if let Some(version) = frame.get_mut(14) {
            *version = if v4 { 0x40 } else { 0x60 } | *version & 0x0f;
        }
        at_uplink(&frame)?;
        at_container(&frame)?;
    }

    #[test]
    fn damaged_frames(frame in damaged()) {
        at_uplink(&frame)?;
        at_container(&frame)?;
    }
}

/// So that the properties above are not of refusals alone.
#[test]
fn undamaged_frames_are_carried() {
    let rows = rows();
    for (index, frame) in valid().into_iter().enumerate() {
        let verdict = match index {
            0..6 => decide::uplink(&mut Frame(frame), &rows, UPLINK).verdict,
            _ => decide::container(&mut Frame(frame), &rows, VETH).verdict,
        };
        let connects = verdict == Verdict::ConnectFromForwardedPort;
        assert_eq!(connects, [8, 9].contains(&index), "{index}: {verdict:?}");
        assert!(
            connects || !verdict.is_refusal() && verdict != Verdict::NotOurs,
            "{index}: {verdict:?}"
        );
    }
}
