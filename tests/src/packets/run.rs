//! Running one table three ways: natively, in XDP and in TCX. All three must say the same.

use std::fmt::Write as _;

use edge_common::{
    decide::{self, Action, Outcome, Passage},
    native::{Frame, Rows},
    tables::{Judged, LISTENER_MARK, PROXIED_MARK},
    verdict::{Hook, Verdict},
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{
    Case, bounds,
    damage::{self, Way},
    kernel::{Counted, Kernel, Seen},
    scene::{SENDER, padded},
};
use crate::model::{self, Host, Ledger};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Runs all rows of an uplink table.
pub fn uplink(kernel: &Kernel, rows: &Rows, cases: &[Case]) {
    check(Way::In, rows, cases, |case| {
        let native = native(case, rows, |frame| decide::uplink(frame, rows, SENDER));
        let xdp = differs(kernel.run(Hook::XdpUplink, case), || in_xdp(case));
        let tcx = differs(kernel.run(Hook::TcUplink, case), || in_tcx(case));
        [("native", native), ("xdp_uplink", xdp), ("tc_uplink", tcx)].to_vec()
    });
}

/// Whether the kernel's programs make of a frame what the native run makes of it.
pub fn alike(kernel: &Kernel, rows: &Rows, way: Way, frame: &[u8]) -> Result<(), String> {
    let judged = |hook| damage::judged(hook, frame, rows);
    let tcx = |hook| {
        let case = judged(hook);
        differs(kernel.run(hook, &case), || in_tcx(&case))
    };
    let found = match way {
        Way::In => {
            let early = judged(Hook::XdpUplink);
            let xdp = differs(kernel.run(Hook::XdpUplink, &early), || in_xdp(&early));
            [xdp, tcx(Hook::TcUplink)]
        }
        Way::Out => [tcx(Hook::TcContainer), None],
    };
    found.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// Runs rows whose frames fill several of XDP's buffers.
pub fn jumbo(kernel: &Kernel, rows: &Rows, cases: &[Case]) {
    check(Way::In, rows, cases, |case| {
        let native = native(case, rows, |frame| decide::uplink(frame, rows, SENDER));
        let xdp = differs(kernel.run(Hook::XdpUplink, case), || in_xdp(case));
        [("native", native), ("xdp_uplink", xdp)].to_vec()
    });
}

/// Runs all rows of a container table.
pub fn container(kernel: &Kernel, rows: &Rows, cases: &[Case]) {
    check(Way::Out, rows, cases, |case| {
        let native = native(case, rows, |frame| decide::container(frame, rows, SENDER));
        let tcx = differs(kernel.run(Hook::TcContainer, case), || in_tcx(case));
        [("native", native), ("tc_container", tcx)].to_vec()
    });
}

/// Runs the rows of an uplink table one after the other, each way with tables of its own: what
/// becomes of one depends on those before it.
pub fn in_turn(name: &str, cases: &[Case]) {
    let rows = bounds::rows();
    let [xdp, tcx] = ["xdp", "tcx"].map(|hook| Kernel::load_bounded(&format!("{name}-{hook}")));
    check(Way::In, &rows, cases, |case| {
        let native = native(case, &rows, |frame| decide::uplink(frame, &rows, SENDER));
        let xdp = differs(xdp.run(Hook::XdpUplink, case), || in_xdp(case));
        let tcx = differs(tcx.run(Hook::TcUplink, case), || in_tcx(case));
        [("native", native), ("xdp_uplink", xdp), ("tc_uplink", tcx)].to_vec()
    });
}

/// Fails once, with every row that is not as expected. Whose a packet is, and how it travelled,
/// the model says.
fn check(
    way: Way,
    rows: &Rows,
    cases: &[Case],
    run: impl Fn(&Case) -> Vec<(&'static str, Option<String>)>,
) {
    let (host, mut report) = (Host::from(rows), String::new());
    for case in cases {
        let (frame, reach) = (&case.frame, usize::MAX);
        let answer = match way {
            Way::In => {
                let hook = model::Hook { ingress: SENDER, reach, sends: true };
                model::uplink(&host, &mut Ledger::default(), frame, hook)
            }
            Way::Out => model::container(&host, SENDER, frame, reach),
        };
        let case = &Case { place: answer.place(), ..case.clone() };
        let mut found = run(case);
        let passes =
            matches!(case.action, Action::Pass | Action::PassToListener | Action::PassProxied);
        if !(passes || case.action == Action::Drop) {
            found.push(("checksums", wrong_checksum(&case.after)));
        }
        for (way, difference) in found {
            if let Some(difference) = difference {
                writeln!(report, "{}, {way}: {difference}", case.name).ok();
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

fn native(case: &Case, rows: &Rows, decide: impl Fn(&mut Frame) -> Outcome) -> Option<String> {
    let mut frame = Frame(case.frame.clone());
    let outcome = decide(&mut frame);
    let (ifindex, mac) = match (case.action, case.receiver) {
        (Action::Send | Action::SendBare, _) => (case.leaves_by, [0; 8]),
        (_, Some(receiver)) => (receiver.ifindex, padded(receiver.mac)),
        _ => (0, [0; 8]),
    };
    let (passage, slot) = case.tunnel.unwrap_or((Passage::None, 0));
    let next_hop = outcome.next_hop(rows).copied().unwrap_or_default();
    // Which way it is the next hop says.
    let way = if next_hop == case.next_hop { outcome.way } else { u32::MAX };
    let (verdict, action) = (case.verdict, case.action);
    let place = case.place;
    let expected = Outcome { verdict, action, ifindex, mac, way, passage, slot, place };
    differs(Some((outcome, frame.0)), || (expected, case.after.clone()))
}

/// What XDP leaves to the kernel, or to `tc_uplink`, whose `BPF_PROG_TEST_RUN` cannot be given
/// metadata: that it delivers what is marked is the end-to-end tests' to show.
fn in_xdp(case: &Case) -> Seen {
    let sends = matches!(case.action, Action::Send | Action::SendBare | Action::Bounce);
    if sends || case.is_deferred {
        // XDP cannot, and leaves it to TCX as it came.
        let deferred = Case::passes(&case.name, case.frame.clone(), Verdict::Deferred);
        return in_xdp(&Case { place: case.place, ..deferred });
    }
    let (code, frame) = match (case.action, case.receiver) {
        (Action::Deliver, Some(receiver)) => {
            let place = u16::try_from(case.place).expect("a small number").to_ne_bytes();
            let (magic, ifindex) = (Judged::MAGIC.to_ne_bytes(), receiver.ifindex.to_ne_bytes());
            let meta = [&magic[..], &ifindex, &receiver.mac, &place].concat();
            (XDP_PASS, [meta, case.after.clone()].concat())
        }
        (Action::Drop, _) => (XDP_DROP, case.after.clone()),
        _ => (XDP_PASS, case.after.clone()),
    };
    Seen { code, frame, mark: 0, counted: Counted::expected(case) }
}

fn in_tcx(case: &Case) -> Seen {
    let code = match case.action {
        Action::Pass | Action::PassToListener | Action::PassProxied => TC_ACT_OK,
        Action::Drop => TC_ACT_SHOT,
        Action::Deliver | Action::Send | Action::SendBare | Action::Bounce => TC_ACT_REDIRECT,
    };
    let mut frame = case.after.clone();
    if let Some(receiver) = case.receiver {
        frame[..6].copy_from_slice(&receiver.mac);
    }
    let mark = match case.action {
        Action::PassToListener => LISTENER_MARK,
        Action::PassProxied => PROXIED_MARK,
        _ => 0,
    };
    Seen { code, frame, mark, counted: Counted::expected(case) }
}

fn differs<T: PartialEq + std::fmt::Debug>(
    seen: Option<T>,
    expected: impl FnOnce() -> T,
) -> Option<String> {
    let seen = seen?;
    let expected = expected();
    (seen != expected).then(|| format!("\n  is        {seen:02x?}\n  should be {expected:02x?}"))
}

/// The first checksum of a frame that is not what `etherparse` computes; a quoted packet's are
/// not looked at.
pub fn wrong_checksum(frame: &[u8]) -> Option<String> {
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Some(error.to_string()),
    };
    let (found, right) = match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(transport)) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return Some("the IPv4 header's checksum is wrong".to_owned());
            }
            match transport {
                TransportSlice::Tcp(tcp) => (
                    tcp.checksum(),
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).ok(),
                ),
                TransportSlice::Icmpv4(icmp) => {
                    let mut header = icmp.header();
                    header.update_checksum(icmp.payload());
                    (icmp.checksum(), Some(header.checksum))
                }
                _ => return None,
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(transport)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    (tcp.checksum(), tcp.calc_checksum_ipv6(source, destination).ok())
                }
                TransportSlice::Icmpv6(icmp) => {
                    let right = icmp.icmp_type().calc_checksum(source, destination, icmp.payload());
                    (icmp.checksum(), right.ok())
                }
                _ => return None,
            }
        }
        (Some(_), None) => return None,
        _ => return Some("it is neither IPv4 nor IPv6".to_owned()),
    };
    (Some(found) != right).then(|| format!("checksum {found:04x} should be {right:04x?}"))
}
