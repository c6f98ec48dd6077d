//! The decisions without a kernel, compared with what the model says.

use std::net::IpAddr;

use edge_common::{
    decide::{self, Action, Outcome},
    native::{Early, Frame, Rows},
    verdict::Hook,
};

use crate::model::{self, Answer, Fate, Host, Ledger, Passage};

/// Whether a frame that came in by an interface is judged and changed as the model says. Rows and
/// ledger know what came before.
///
/// # Errors
/// What differs.
pub fn compare_native(
    rows: &Rows,
    host: &Host,
    ledger: &mut Ledger,
    hook: Hook,
    ingress: u32,
    frame: &[u8],
) -> Result<(), String> {
    let answer = judge(host, ledger, hook, ingress, frame, usize::MAX);
    let mut after = Frame(frame.to_vec());
    let outcome = match hook {
        Hook::XdpUplink => {
            let mut early = Early(after);
            let outcome = decide::uplink(&mut early, rows, ingress);
            after = early.0;
            outcome
        }
        Hook::TcUplink => decide::uplink(&mut after, rows, ingress),
        Hook::TcContainer => decide::container(&mut after, rows, ingress),
    };
    let found = (outcome.verdict, fate(&outcome, rows), passage(&outcome), outcome.place);
    let expected = (answer.verdict, answer.fate, answer.passage, answer.place());
    if found != expected {
        return Err(format!("natively: {found:?}, the model says {expected:?}"));
    }
    if answer.is_frame(&after.0) {
        return Ok(());
    }
    Err(format!("natively: {:?}{}", answer.verdict, differing(&after.0, &answer.frame)))
}

/// What the model says of a frame of which `reach` bytes can be seen.
pub(super) fn judge(
    host: &Host,
    ledger: &mut Ledger,
    hook: Hook,
    ingress: u32,
    frame: &[u8],
    reach: usize,
) -> Answer {
    match hook {
        Hook::XdpUplink | Hook::TcUplink => {
            let sends = hook == Hook::TcUplink;
            model::uplink(host, ledger, frame, model::Hook { ingress, reach, sends })
        }
        Hook::TcContainer => model::container(host, ingress, frame, reach),
    }
}

fn fate(outcome: &Outcome, rows: &Rows) -> Fate {
    match outcome.action {
        Action::Pass => Fate::Pass,
        Action::PassToListener => Fate::PassToListener,
        Action::PassProxied => Fate::PassProxied,
        Action::Drop => Fate::Drop,
        Action::Deliver => {
            let [a, b, c, d, e, f, _, _] = outcome.mac;
            Fate::Deliver { veth: outcome.ifindex, mac: [a, b, c, d, e, f] }
        }
        Action::Send => {
            let next_hop = outcome.next_hop(rows).map(|hop| match (*hop).into() {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            });
            Fate::Send { uplink: outcome.ifindex, next_hop }
        }
        Action::SendBare => Fate::SendBare { interface: outcome.ifindex },
        Action::Bounce => Fate::Bounce,
    }
}

fn passage(outcome: &Outcome) -> Passage {
    match outcome.passage {
        decide::Passage::None => Passage::None,
        decide::Passage::In => Passage::In(outcome.slot),
        decide::Passage::Out => Passage::Out(outcome.slot),
        decide::Passage::Accept => Passage::Accept(outcome.slot),
    }
}

/// Byte by byte, for people.
pub(super) fn differing(found: &[u8], expected: &[u8]) -> String {
    if found.len() != expected.len() {
        return format!(": {} bytes, the model says {}", found.len(), expected.len());
    }
    let bytes = found.iter().zip(expected).enumerate().filter(|(_, (a, b))| a != b);
    let bytes =
        bytes.map(|(at, (a, b))| format!("\n  byte {at} is {a:02x}, the model says {b:02x}"));
    bytes.collect()
}
