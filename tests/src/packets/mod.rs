//! Frames, and what every implementation of the decisions must make of them: the same code runs
//! natively, in XDP and in TCX, and a table says once what is expected of all three.

pub mod around;
pub mod bounds;
pub mod build;
pub mod container;
pub mod damage;
pub mod errors;
pub mod from_hosts;
pub mod kernel;
pub mod plan;
pub mod private;
pub mod raw;
pub mod region;
pub mod run;
pub mod scene;
pub mod to_hosts;
pub mod uplink;

use std::net::IpAddr;

use edge_common::{
    address::Address,
    decide::{Action, Passage},
    verdict::Verdict,
};

use plan::{Plan, icmp};
use scene::{Owner, UPLINK, WIREGUARD};

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
    /// Whether XDP leaves it to TCX, although that does not send it.
    pub is_deferred: bool,
    /// What counts for a tunnel: which way, and its slot.
    pub tunnel: Option<(Passage, u32)>,
    /// Where it is counted, as an outcome says it; filled in when the table runs.
    pub place: u32,
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
            is_deferred: false,
            tunnel: None,
            place: 0,
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

    /// The same, marked for a proxy that this machine serves.
    pub fn proxied_here(name: &str, frame: Vec<u8>) -> Self {
        Self::same(name, frame, Verdict::Proxied, Action::PassProxied)
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

    /// It leaves by a WireGuard interface.
    pub fn sent_bare(name: &str, frame: Vec<u8>, after: Vec<u8>, verdict: Verdict) -> Self {
        let same = Self::same(name, frame, verdict, Action::SendBare);
        Self { after, leaves_by: WIREGUARD.0, ..same }
    }

    /// It goes back as its own answer.
    pub fn bounced(name: &str, frame: Vec<u8>, after: Vec<u8>, verdict: Verdict) -> Self {
        Self { after, ..Self::same(name, frame, verdict, Action::Bounce) }
    }

    /// It leaves by another interface, perhaps to a next hop.
    #[must_use]
    pub fn leaving_by(self, interface: u32, next_hop: Option<&str>) -> Self {
        let next_hop = next_hop.map_or_else(Address::default, scene::address);
        Self { leaves_by: interface, next_hop, ..self }
    }

    /// XDP leaves it to TCX, which then refuses it.
    #[must_use]
    pub fn deferred(self) -> Self {
        Self { is_deferred: true, ..self }
    }

    /// It counts for a tunnel.
    #[must_use]
    pub fn counted(self, passage: Passage, slot: u32) -> Self {
        Self { tunnel: Some((passage, slot)), ..self }
    }
}

/// Refused, and its sender is told so by ICMP.
pub fn told(name: &str, plan: &Plan, verdict: Verdict) -> Case {
    told_of(name, &plan.build(), verdict, 0)
}

/// The same of any frame; with the MTU that would have been small enough.
pub fn told_of(name: &str, frame: &[u8], verdict: Verdict, mtu: u32) -> Case {
    let v4 = frame[12..14] == [0x08, 0x00];
    let (kind, code) = match (verdict, v4) {
        (Verdict::TooBig, true) => (3, 4),
        (Verdict::TooBig, false) => (2, 0),
        // Administratively prohibited; no route; address unreachable.
        (_, true) => (3, 13),
        (Verdict::NoSuchHost, false) => (1, 0),
        (Verdict::NoSuchContainer, false) => (1, 3),
        (_, false) => (1, 1),
    };
    let source = if v4 {
        let octets: [u8; 4] = frame[26..30].try_into().expect("four bytes");
        IpAddr::from(octets)
    } else {
        let octets: [u8; 16] = frame[22..38].try_into().expect("sixteen bytes");
        IpAddr::from(octets)
    };
    let router = if v4 { "169.254.1.1" } else { "fe80::1" };
    let quoted = (frame.len() - 14).min(120) & !3;
    let answer = icmp(router, &source.to_string(), kind, code, &frame[14..14 + quoted]);
    // The answer is made for whoever is asked: here it goes to who asked.
    let mut answer = answer.mtu(mtu).answer();
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&frame[..6]);
    Case { mtu, ..Case::bounced(name, frame.to_vec(), answer, verdict) }
}

/// Refused, and nobody is told.
pub fn refused(name: &str, plan: &Plan, verdict: Verdict) -> Case {
    Case::refused(name, plan.build(), verdict)
}

fn not_ours(name: &str, plan: &Plan) -> Case {
    Case::passes(name, plan.build(), Verdict::NotOurs)
}

fn egress(name: &str, plan: &Plan) -> Case {
    Case::passes(name, plan.build(), Verdict::Egress)
}
