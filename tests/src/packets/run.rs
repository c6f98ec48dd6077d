//! Running one table three ways: natively, in XDP and in TCX. All three must say the same.

use std::{fmt::Write as _, fs, path::PathBuf, process};

use edge_common::{
    decide::{self, Action, Outcome, Passage},
    native::{Frame, Rows},
    tables::{Count, Judged, LISTENER_MARK, Traffic},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::Datapath;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{
    Case,
    damage::{self, Way},
    scene::{self, SENDER, SLOT, SLOT_V6, UPLINK, padded},
};
use crate::privilege;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// `struct __sk_buff`, and where its mark is.
const SKB_LEN: usize = 192;
const SKB_MARK: usize = 8;

/// The shortest frame that `BPF_PROG_TEST_RUN` takes: a whole Ethernet header, and for a skb also
/// a whole IP header. Shorter ones are left to the native run.
fn shortest(hook: Hook, frame: &[u8]) -> usize {
    match (hook, frame.get(12..14)) {
        (Hook::XdpUplink, _) => 14,
        (_, Some([0x08, 0x00])) => 14 + 20,
        (_, Some([0x86, 0xdd])) => 14 + 40,
        _ => 14 + 1,
    }
}

/// A loaded data path of a test's own with the scene's rows; its folder for pins goes with it.
pub struct Kernel {
    /// The programs and tables.
    pub datapath: Datapath,
    pins: PathBuf,
}

impl Kernel {
    /// Loads it; the name tells tests apart.
    pub fn load(name: &str) -> Self {
        Self::load_with(name, &scene::rows())
    }

    /// The same with other rows.
    pub fn load_with(name: &str, rows: &Rows) -> Self {
        privilege::require();
        let pins = PathBuf::from(format!("/sys/fs/bpf/edge-test-{}-{name}", process::id()));
        let datapath = Datapath::load(&pins).expect("the kernel takes the programs");
        scene::install(rows, &datapath).expect("rows fit the tables");
        Self { datapath, pins }
    }

    /// Runs a hook over the case; nothing if the frame is too short for the kernel to take.
    fn run(&self, hook: Hook, case: &Case) -> Option<Seen> {
        if case.frame.len() < shortest(hook, &case.frame) {
            return None;
        }
        let context = [0; SKB_LEN];
        let context = (hook != Hook::XdpUplink).then_some(&context[..]);
        let before = self.counted(hook);
        let out = self.datapath.test_run(hook, &case.frame, context, 1).expect("a test run");
        let mark = out
            .context
            .get(SKB_MARK..SKB_MARK + 4)
            .map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let counted = self.counted(hook).since(&before);
        Some(Seen { code: out.code, frame: out.frame, mark, counted })
    }

    fn counted(&self, hook: Hook) -> Counted {
        let verdicts = self.datapath.verdicts().expect("counters");
        let verdicts = verdicts.into_iter().filter(|(one, ..)| *one == hook);
        let traffic = [SLOT, SLOT_V6].map(|slot| self.datapath.traffic(slot).expect("counters"));
        Counted {
            verdicts: verdicts.map(|(_, verdict, count)| (verdict, count)).collect(),
            traffic,
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Only folders are left in it: tests that attach also detach. This runs while tests
        // unwind.
        fs::remove_dir_all(&self.pins).ok();
    }
}

/// What a hook did.
#[derive(Debug, PartialEq)]
struct Seen {
    code: u32,
    frame: Vec<u8>,
    mark: u32,
    counted: Counted,
}

/// What the counters say that a hook did.
#[derive(Debug, PartialEq)]
struct Counted {
    verdicts: Vec<(Verdict, Count)>,
    traffic: [Traffic; 2],
}

impl Counted {
    fn since(&self, before: &Self) -> Self {
        let minus =
            |a: Count, b: Count| Count { packets: a.packets - b.packets, bytes: a.bytes - b.bytes };
        let verdicts = self.verdicts.iter().zip(&before.verdicts);
        let verdicts = verdicts.map(|((verdict, a), (_, b))| (*verdict, minus(*a, *b)));
        let traffic = [0, 1].map(|family| {
            let (a, b) = (self.traffic[family], before.traffic[family]);
            Traffic {
                connections: a.connections - b.connections,
                inbound: minus(a.inbound, b.inbound),
                outbound: minus(a.outbound, b.outbound),
            }
        });
        Self { verdicts: verdicts.filter(|(_, count)| count.packets != 0).collect(), traffic }
    }

    fn expected(case: &Case) -> Self {
        let count = Count { packets: 1, bytes: case.frame.len() as u64 };
        let mut traffic = [Traffic::default(); 2];
        if let Some((passage, slot)) = case.tunnel {
            let row = &mut traffic[usize::from(slot == SLOT_V6)];
            match passage {
                Passage::None => {}
                Passage::In => row.inbound = count,
                Passage::Out => row.outbound = count,
                Passage::Accept => *row = Traffic { connections: 1, outbound: count, ..*row },
            }
        }
        Self { verdicts: vec![(case.verdict, count)], traffic }
    }
}

/// Runs all rows of an uplink table.
pub fn uplink(kernel: &Kernel, cases: &[Case]) {
    verify(cases, |case, rows| {
        let native = native(case, |frame| decide::uplink(frame, rows));
        let xdp = differs(kernel.run(Hook::XdpUplink, case), || in_xdp(case));
        let tcx = differs(kernel.run(Hook::TcUplink, case), || in_tcx(case));
        [("native", native), ("xdp_uplink", xdp), ("tc_uplink", tcx)].to_vec()
    });
}

/// Whether the kernel's programs make of a frame what the native run makes of it.
pub fn alike(kernel: &Kernel, way: Way, frame: &[u8]) -> Result<(), String> {
    let case = damage::judged(way, frame, &scene::rows());
    let found = match way {
        Way::In => [
            differs(kernel.run(Hook::XdpUplink, &case), || in_xdp(&case)),
            differs(kernel.run(Hook::TcUplink, &case), || in_tcx(&case)),
        ],
        Way::Out => [differs(kernel.run(Hook::TcContainer, &case), || in_tcx(&case)), None],
    };
    found.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// Runs rows whose frames fill several of XDP's buffers.
pub fn jumbo(kernel: &Kernel, cases: &[Case]) {
    verify(cases, |case, rows| {
        let native = native(case, |frame| decide::uplink(frame, rows));
        let xdp = differs(kernel.run(Hook::XdpUplink, case), || in_xdp(case));
        [("native", native), ("xdp_uplink", xdp)].to_vec()
    });
}

/// Runs all rows of a container table.
pub fn container(kernel: &Kernel, cases: &[Case]) {
    verify(cases, |case, rows| {
        let native = native(case, |frame| decide::container(frame, rows, SENDER));
        let tcx = differs(kernel.run(Hook::TcContainer, case), || in_tcx(case));
        [("native", native), ("tc_container", tcx)].to_vec()
    });
}

/// Fails once, with every row that is not as expected.
fn verify(cases: &[Case], run: impl Fn(&Case, &Rows) -> Vec<(&'static str, Option<String>)>) {
    let rows = scene::rows();
    let mut report = String::new();
    for case in cases {
        let mut found = run(case, &rows);
        if !matches!(case.action, Action::Pass | Action::PassToListener | Action::Drop) {
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

fn native(case: &Case, decide: impl Fn(&mut Frame) -> Outcome) -> Option<String> {
    let mut frame = Frame(case.frame.clone());
    let outcome = decide(&mut frame);
    let (ifindex, mac) = match (case.action, case.receiver) {
        (Action::Send, _) => (UPLINK, [0; 8]),
        (_, Some(receiver)) => (receiver.ifindex, padded(receiver.mac)),
        _ => (0, [0; 8]),
    };
    let (passage, slot) = case.tunnel.unwrap_or((Passage::None, 0));
    let expected =
        Outcome { verdict: case.verdict, action: case.action, ifindex, mac, passage, slot };
    differs(Some((outcome, frame.0)), || (expected, case.after.clone()))
}

/// What XDP leaves to the kernel, or to `tc_uplink`, whose `BPF_PROG_TEST_RUN` cannot be given
/// metadata: that it delivers what is marked is the end-to-end tests' to show.
fn in_xdp(case: &Case) -> Seen {
    let (code, frame) = match (case.action, case.receiver) {
        (Action::Deliver, Some(receiver)) => {
            let (ifindex, mac) = (receiver.ifindex.to_ne_bytes(), padded(receiver.mac));
            let meta = [&Judged::MAGIC.to_ne_bytes()[..], &ifindex, &mac].concat();
            (XDP_PASS, [meta, case.after.clone()].concat())
        }
        (Action::Drop, _) => (XDP_DROP, case.after.clone()),
        _ => (XDP_PASS, case.after.clone()),
    };
    Seen { code, frame, mark: 0, counted: Counted::expected(case) }
}

fn in_tcx(case: &Case) -> Seen {
    let code = match case.action {
        Action::Pass | Action::PassToListener => TC_ACT_OK,
        Action::Drop => TC_ACT_SHOT,
        Action::Deliver | Action::Send | Action::Bounce => TC_ACT_REDIRECT,
    };
    let mut frame = case.after.clone();
    if let Some(receiver) = case.receiver {
        frame[..6].copy_from_slice(&receiver.mac);
    }
    let mark = if case.action == Action::PassToListener { LISTENER_MARK } else { 0 };
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
        _ => return Some("it is neither IPv4 nor IPv6".to_owned()),
    };
    (Some(found) != right).then(|| format!("checksum {found:04x} should be {right:04x?}"))
}
