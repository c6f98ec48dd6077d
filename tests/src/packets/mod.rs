//! Frames, and what every implementation of the decisions must make of them: the same code runs
//! natively, in XDP and in TCX, and a table says once what is expected of all three.

pub mod around;
pub mod bounds;
pub mod build;
pub mod container;
pub mod damage;
pub mod errors;
pub mod kernel;
pub mod plan;
pub mod raw;
pub mod region;
pub mod run;
pub mod scene;
pub mod uplink;

use edge_common::{
    address::Address,
    decide::{Action, Passage},
    verdict::Verdict,
};

use plan::Plan;
use scene::{Owner, UPLINK};

/// One row of a packet table.
#[derive(Debug, Clone)]
pub struct Case {
    /// What a failure is called.
    pub name: String,
    /// The frame that comes in.
    pub frame: Vec<u8>,
    /// The one name of what is decided.
    pub verdict: Verdict,
    /// What becomes of the frame.
    pub action: Action,
    /// Whom it is delivered to.
    pub receiver: Option<Owner>,
    /// The interface that it leaves by.
    pub leaves_by: u32,
    /// The next hop, if it is not the routing table's to name.
    pub next_hop: Address,
    /// Bytes of the largest packet that the way would have carried.
    pub mtu: u32,
    /// What counts for a tunnel: which way, and its slot.
    pub tunnel: Option<(Passage, u32)>,
    /// The frame afterwards.
    pub after: Vec<u8>,
}

impl Case {
    fn same(name: &str, frame: Vec<u8>, verdict: Verdict, action: Action) -> Self {
        let (name, after) = (name.to_owned(), frame.clone());
        Self {
            name,
            frame,
            verdict,
            action,
            receiver: None,
            leaves_by: UPLINK,
            next_hop: Address::default(),
            mtu: 0,
            tunnel: None,
            after,
        }
    }

    /// The kernel goes on with the frame as it came.
    pub fn passes(name: &str, frame: Vec<u8>, verdict: Verdict) -> Self {
        Self::same(name, frame, verdict, Action::Pass)
    }

    /// The same, marked for the userspace listener.
    pub fn to_listener(name: &str, frame: Vec<u8>) -> Self {
        Self::same(name, frame, Verdict::Listener, Action::PassToListener)
    }

    /// It ends, unchanged.
    pub fn refused(name: &str, frame: Vec<u8>, verdict: Verdict) -> Self {
        Self::same(name, frame, verdict, Action::Drop)
    }

    /// It goes into a container, or into the service namespace.
    pub fn delivered(
        name: &str,
        frame: Vec<u8>,
        after: Vec<u8>,
        verdict: Verdict,
        receiver: Owner,
    ) -> Self {
        let receiver = Some(receiver);
        Self { after, receiver, ..Self::same(name, frame, verdict, Action::Deliver) }
    }

    /// It leaves by the uplink.
    pub fn sent(name: &str, frame: Vec<u8>, after: Vec<u8>, verdict: Verdict) -> Self {
        Self { after, ..Self::same(name, frame, verdict, Action::Send) }
    }

    /// It goes back as its own answer.
    pub fn bounced(name: &str, frame: Vec<u8>, after: Vec<u8>, verdict: Verdict) -> Self {
        Self { after, ..Self::same(name, frame, verdict, Action::Bounce) }
    }

    /// It counts for a tunnel.
    #[must_use]
    pub fn counted(self, passage: Passage, slot: u32) -> Self {
        Self { tunnel: Some((passage, slot)), ..self }
    }
}

fn refused(name: &str, plan: &Plan, verdict: Verdict) -> Case {
    Case::refused(name, plan.build(), verdict)
}

fn not_ours(name: &str, plan: &Plan) -> Case {
    Case::passes(name, plan.build(), Verdict::NotOurs)
}

fn egress(name: &str, plan: &Plan) -> Case {
    Case::passes(name, plan.build(), Verdict::Egress)
}
