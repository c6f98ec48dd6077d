//! What a machine knows of its ways to others by WireGuard, for all who only look.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// One by one.
    pub all: Vec<Path>,
    /// Packets that an interface dropped on their way into WireGuard, by its name: the daemon was
    /// not there, or not fast enough.
    pub unsent: BTreeMap<String, u64>,
}

/// One of them, as its own end counts.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// The number of the machine at the other end.
    pub machine: u16,
    /// What that is here.
    pub toward: Toward,
    /// When the last handshake was: at most two minutes ago while something is sent.
    pub shaken: Option<Instant>,
    /// Bytes to there, with what WireGuard adds to a packet.
    pub sent: u64,
    /// Bytes of packets from there, without it.
    pub received: u64,
    /// How long the last answer to a probe took; only gateways are asked.
    pub round_trip: Option<Duration>,
}

/// What a machine is to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toward {
    /// It sends what this one's containers send under an address.
    Gateway,
    /// This one sends under its addresses what that one's containers send.
    Host,
}

impl Toward {
    /// As metrics and `--json` call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Host => "host",
        }
    }
}

impl Path {
    /// How long the last handshake is ago.
    pub fn handshake_age(&self) -> Option<Duration> {
        self.shaken.map(|at| at.elapsed())
    }
}
