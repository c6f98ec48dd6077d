//! Damaged copies of a table's frames: nobody says what is right about them, but the kernel's
//! programs must say what the native run says.

use edge_common::{
    decide::{self, Action, Outcome, Passage},
    native::{Early, Frame, Rows},
    verdict::Hook,
};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::{
    Case,
    scene::{Owner, SENDER},
};

/// Which table the frames are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the uplink.
    In,
    /// From a container.
    Out,
}

/// A frame of the table with up to three bytes changed, perhaps cut. Most changes fall into the
/// headers: behind them lies nothing to be judged.
pub fn damaged(table: Vec<Case>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>());
    let cut = option::weighted(0.1, any::<Index>());
    (any::<Index>(), vec(change, 1..4), cut).prop_map(move |(which, changes, cut)| {
        let mut frame = which.get(&table).frame.clone();
        for (at, byte) in changes {
            let headers = frame.len().min(110);
            if headers > 12 {
                frame[12 + at.index(headers - 12)] = byte;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        frame
    })
}

/// What the native run makes of a frame, as a row that the kernel is held to.
pub fn judged(hook: Hook, frame: &[u8], rows: &Rows) -> Case {
    let mut after = Frame(frame.to_vec());
    let outcome = match hook {
        Hook::XdpUplink => {
            let mut early = Early(after);
            let outcome = decide::uplink(&mut early, rows, SENDER);
            after = early.0;
            outcome
        }
        Hook::TcUplink => decide::uplink(&mut after, rows, SENDER),
        Hook::TcContainer => decide::container(&mut after, rows, SENDER),
    };
    let next_hop = outcome.next_hop(rows).copied().unwrap_or_default();
    let Outcome { verdict, action, ifindex, mac, passage, slot, place, .. } = outcome;
    let [a, b, c, d, e, f, _, _] = mac;
    let receiver = Owner { ifindex, mac: [a, b, c, d, e, f] };
    Case {
        name: format!("{frame:02x?}"),
        frame: frame.to_vec(),
        verdict,
        action,
        receiver: (action == Action::Deliver).then_some(receiver),
        leaves_by: ifindex,
        next_hop,
        mtu: 0,
        is_deferred: false,
        tunnel: (passage != Passage::None).then_some((passage, slot)),
        place,
        after: after.0,
    }
}
