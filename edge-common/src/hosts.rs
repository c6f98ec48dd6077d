//! The rows that say where other hosts of the region are, and what they own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;

/// Most hosts of a region: their number has 16 bits.
pub const MAX_HOSTS: u32 = 65_536;
/// Most address blocks: as many /26 as 100.64.0.0/10 has.
pub const MAX_BLOCKS: u32 = 65_536;
/// Most addresses of the underlay.
pub const MAX_PEERS: u32 = 131_072;
/// Most interfaces towards the underlay.
pub const MAX_UNDERLAYS: u32 = 64;
/// Most ways to one host, of which a flow takes one.
pub const MAX_PATHS: usize = 4;

/// An interface that encapsulated packets, or in a region without encapsulation bare ones, are
/// taken on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UnderlayRow {
    /// Zero.
    pub flags: u32,
}

/// Who has an address of the underlay.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PeerRow {
    /// The host's number.
    pub host: u32,
    /// `OWN`, `GATEWAY`.
    pub flags: u32,
}

impl PeerRow {
    /// This machine's own address.
    pub const OWN: u32 = 1;
    /// May bring packets of clients and of its relay.
    pub const GATEWAY: u32 = 2;
}

/// A host of the region, other than this one, by its number. Present while the host is of the
/// region, whether it is heard of or not: flows need no control plane.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HostRow {
    /// [`HostRow::GATEWAY`].
    pub flags: u32,
    /// Bytes of the largest packet between containers that goes this way.
    pub mtu: u32,
    /// How many of the ways there are, at least one.
    pub path_count: u32,
    /// What a gateway's relay dials from, as it lies in an IPv4 header; else zero.
    pub relay: u32,
    /// Ways to it.
    pub paths: [Path; MAX_PATHS],
}

impl HostRow {
    /// Takes tunnels' replies.
    pub const GATEWAY: u32 = 1;
}

/// One way to a host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Path {
    /// The interface to send by.
    pub ifindex: u32,
    /// This machine's address on the underlay.
    pub local: Address,
    /// The host's; without encapsulation the next hop, an IPv6 address.
    pub remote: Address,
}

/// Whose address block it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlockRow {
    /// The host's number; also this machine's own.
    pub host: u32,
}

/// What the underlay said of the way to a host. Written by the programs.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PathMtu {
    /// When to forget it, in nanoseconds of [`crate::tables::Tables::now`].
    pub until: u64,
    /// Bytes of the largest packet between containers.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
}
