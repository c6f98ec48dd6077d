//! What the data path must make of a frame, said a second time and by other means: headers are
//! read by `etherparse`, tables are maps of the standard library, checksums are computed whole.
//!
//! Nothing here calls the code that it judges; the two share the rows' types and the names of
//! the verdicts. Where this differs from `edge-common`, one of them is wrong.

mod bounds;
mod carry;
mod complain;
mod container;
mod errors;
mod from_host;
mod host;
mod narrow;
mod read;
mod region;
mod rewrite;
mod sums;
mod uplink;

use std::net::Ipv6Addr;

use edge_common::{account::Lane, verdict::Verdict};

pub use bounds::Ledger;
pub use carry::{source_port, way};
pub use container::container;
pub use host::Host;
pub use uplink::{Hook, uplink};

/// What becomes of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The one name of what is decided.
    pub verdict: Verdict,
    /// Where the frame goes.
    pub fate: Fate,
    /// What it counts as for a tunnel.
    pub passage: Passage,
    /// Whose it is: the account that the rows say; 0 if none does.
    pub account: u32,
    /// How it came, or goes, between machines.
    pub lane: Lane,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Bytes of the largest packet that would have gone; 0 if that is not why it did not.
    pub largest: u32,
    /// Where checksums stand that were wrong before and must stay wrong by as much. In one's
    /// complement 0 and 0xffff are one number, and which of them it is says nothing there.
    pub wrong_sums: Vec<usize>,
    /// Whether it would be another after other frames.
    pub is_in_turn: bool,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// On, unchanged.
    Pass,
    /// On, unchanged, marked for the userspace listener.
    PassToListener,
    /// On, unchanged, marked for a proxy that this machine serves.
    PassProxied,
    /// Nowhere.
    Drop,
    /// Into the namespace behind a host-side veth.
    Deliver {
        /// The veth's index.
        veth: u32,
        /// The MAC address inside.
        mac: [u8; 6],
    },
    /// Out by an interface.
    Send {
        /// Its index.
        uplink: u32,
        /// The next hop, if the routing table is not to name it.
        next_hop: Option<Ipv6Addr>,
    },
    /// Out by an interface without a link layer.
    SendBare {
        /// Its index.
        interface: u32,
    },
    /// Back to its sender.
    Bounce,
}

/// Which of a tunnel's counters move, by the slot of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Passage {
    /// None.
    None,
    /// What clients send.
    In(u32),
    /// What the container sends.
    Out(u32),
    /// What the container sends, and one connection.
    Accept(u32),
}

impl Answer {
    /// Where it is counted, as the kernel's tables have it.
    pub fn place(&self) -> u32 {
        self.lane.of(self.account)
    }

    /// Whether a frame is the one afterwards.
    pub fn is_frame(&self, other: &[u8]) -> bool {
        if self.frame == other {
            return true;
        }
        let mut other = other.to_vec();
        for at in &self.wrong_sums {
            if sums::same(&self.frame, &other, *at) {
                other[*at..*at + 2].copy_from_slice(&self.frame[*at..*at + 2]);
            }
        }
        self.frame == other
    }

    /// What XDP leaves to TCX, as it came.
    fn deferred(frame: &[u8]) -> Self {
        Self::pass(frame, Verdict::Deferred)
    }

    fn unchanged(frame: &[u8], verdict: Verdict, fate: Fate) -> Self {
        Self {
            verdict,
            fate,
            passage: Passage::None,
            account: 0,
            lane: Lane::Local,
            frame: frame.to_vec(),
            largest: 0,
            wrong_sums: Vec::new(),
            is_in_turn: false,
        }
    }

    /// The same verdict and fate, with a frame that was rewritten.
    fn rewritten(rewrite: rewrite::Rewrite<'_>, verdict: Verdict, fate: Fate) -> Self {
        let unchanged = Self::unchanged(&[], verdict, fate);
        Self { frame: rewrite.after, wrong_sums: rewrite.wrong_sums, ..unchanged }
    }

    fn pass(frame: &[u8], verdict: Verdict) -> Self {
        Self::unchanged(frame, verdict, Fate::Pass)
    }

    fn refuse(frame: &[u8], verdict: Verdict) -> Self {
        Self::unchanged(frame, verdict, Fate::Drop)
    }
}
