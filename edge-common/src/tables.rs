//! The rows that userspace writes and the programs read, and how a decision asks for them.

use core::ops::Deref;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::{Address, Endpoint},
    admit::{Bucket, ListKey, Pace, PaceRow, SourceKey},
    hosts::{BlockRow, HostRow, PathMtu, PeerRow, UnderlayRow},
};

/// The layout of everything in this file and in [`crate::hosts`]. Pinned tables lie under a path
/// that names it, so that a program never reads rows of another layout.
pub const LAYOUT: u32 = 6;

/// Most tunnels of one host: two rows for each family fit the tables.
pub const MAX_TUNNELS: u32 = 16_384;
/// Most addresses of one host: two for each container.
pub const MAX_ADDRESSES: u32 = 131_072;
/// Most members of clusters that a host knows.
pub const MAX_MEMBERS: u32 = 16_384;
/// Most proxied containers of one host.
pub const MAX_PROXIED: u32 = MAX_ADDRESSES / 2;
/// Flows of proxied containers whose way is remembered. One that is pushed out chooses again: the
/// same, unless the ways that connections begin by are others since it began.
pub const MAX_FLOWS: u32 = 65_536;
/// Most (address, port) pairs that userspace listeners serve.
pub const MAX_LISTENERS: u32 = 65_536;

/// The mark on a packet that [`crate::decide::container`] let through to a userspace listener;
/// the nftables table accepts nothing else from a container to the host itself.
pub const LISTENER_MARK: u32 = 0xed9e_0001;
/// The same of what a proxied container sends to the internet by this machine itself, by IPv6:
/// without its program nothing has it.
pub const PROXIED_MARK: u32 = 0xed9e_0002;

/// What holds for the whole host. One row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// [`LAYOUT`]; zero until the daemon has written the row.
    pub layout: u32,
    /// The largest TCP segment (bytes) that fits the way between uplink and container, IPv4.
    pub mss_v4: u32,
    /// The same for IPv6.
    pub mss_v6: u32,
    /// The region's number: part of every fdaa address, and of what is carried between hosts.
    pub region: u32,
    /// This machine's number in it.
    pub host: u32,
    /// How packets go to other hosts: `DIRECT`, `GENEVE`, or 0 without any.
    pub carriage: u32,
    /// How many of the keys count; with none, no key is sent or looked at.
    pub key_count: u32,
    /// Zero.
    pub reserved: u32,
    /// Region keys, as they lie in a packet: the first is sent, any is taken.
    pub keys: [[u32; 2]; Settings::KEYS],
    /// How often one sender is told by ICMP that its packets are refused; zero for never.
    pub complaints: Pace,
    /// The mask of an address block, as it lies in an IPv4 header.
    pub block_mask: u32,
    /// The service namespace's own address of the pool, as it lies in an IPv4 header: what the
    /// relay dials from.
    pub relay: u32,
    /// Where containers find DNS and the API.
    pub service: Address,
    /// The IPv4 range of the region's containers.
    pub pool: Address,
    /// Its mask.
    pub pool_mask: Address,
    /// The IPv6 prefix of all regions (fdaa::/16).
    pub private: Address,
    /// Its mask.
    pub private_mask: Address,
}

impl Settings {
    /// Most region keys at a time: one that goes and one that comes.
    pub const KEYS: usize = 2;
    /// Packets go to the next host as they are, over a link that the hosts share.
    pub const DIRECT: u32 = 1;
    /// Packets go in Geneve (RFC 8926).
    pub const GENEVE: u32 = 2;
    /// What [`Settings::complaints`] should be: 100 a second, 50 at once.
    pub const COMPLAINTS: Pace = Pace::new(100, 50);
}

/// One address of a container on this host (or of the service namespace).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressRow {
    /// The host-side veth.
    pub ifindex: u32,
    /// `SERVICE`, `EGRESS`, `I6PN`, `PROXIED`.
    pub flags: u32,
    /// The tenant.
    pub workspace: u32,
    /// Where its packets are counted; see [`crate::account`].
    pub account: u32,
    /// The container's own MAC address, and two zero bytes.
    pub mac: [u8; 8],
}

impl AddressRow {
    /// The service namespace: DNS, the API, the relay's sockets.
    pub const SERVICE: u32 = 1;
    /// May send to the internet.
    pub const EGRESS: u32 = 2;
    /// May talk to containers of its workspace.
    pub const I6PN: u32 = 4;
    /// What it sends to the internet goes by its proxy, as [`ProxyRow`] says, or not at all.
    pub const PROXIED: u32 = 8;
}

/// The ways to the gateways that have the addresses of a container's proxy, by the container's own
/// address. Without a row there is none, and what would go by it is refused.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ProxyRow {
    /// WireGuard interfaces, which have no link layer; zero is this machine itself. First those
    /// that connections may begin by, one for each address; then those that only lead on what has
    /// begun by them.
    pub ways: [u32; ProxyRow::WAYS],
    /// How many connections may begin by; if it is zero, none begins.
    pub fresh: u32,
    /// How many there are.
    pub count: u32,
    /// Bytes of the largest IP packet on these interfaces.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
}

impl ProxyRow {
    /// Most ways of a container: five addresses, and some that go.
    pub const WAYS: usize = 8;
    /// Nothing but this machine itself.
    pub const HERE: Self = Self { ways: [0; Self::WAYS], fresh: 1, count: 1, mtu: 0, reserved: 0 };
}

/// A flow of a proxied container: of its connections each keeps to its gateway, for that has their
/// NAT. In network byte order, as they lie in the headers.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowKey {
    /// The container's address; of an IPv6 one the sum of its words without carries.
    pub source: u32,
    /// The far end's, likewise.
    pub destination: u32,
    /// Source and destination port; zero in fragments, and where there are none.
    pub ports: u32,
    /// The IP protocol.
    pub protocol: u32,
}

/// The way that a flow of a proxied container has taken.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowWay {
    /// When it went there last, in nanoseconds of the kernel's clock, to the second; zero of TCP.
    pub seen: u64,
    /// One of [`ProxyRow::ways`].
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

/// A raw tunnel, by its public endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TunnelRow {
    /// Where it leads.
    pub container: Endpoint,
    /// The host that runs the container; 0 for this machine itself.
    pub host: u32,
    /// The container's host-side veth, on this machine.
    pub ifindex: u32,
    /// Its place in the traffic counters.
    pub slot: u32,
    /// `LISTED`, `PACED`; 0 for a tunnel without bounds.
    pub flags: u32,
    /// Where its workspace's packets are counted; see [`crate::account`].
    pub account: u32,
    /// The container's MAC address, and two zero bytes.
    pub mac: [u8; 8],
}

impl TunnelRow {
    /// Only clients on its list may send to it.
    pub const LISTED: u32 = 1;
    /// How often connections may open is bounded.
    pub const PACED: u32 = 2;
}

/// A forwarded port, by the container's endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ForwardRow {
    /// What the outside sees; zero for a tunnel that only userspace serves.
    pub public: Endpoint,
    /// The interface that replies leave by, rewritten; zero if they do not leave from here.
    pub uplink: u32,
    /// The gateway that replies go to as they are, where they do not leave from here; zero for a
    /// tunnel that only userspace serves.
    pub gateway: u32,
    /// Its place in the traffic counters.
    pub slot: u32,
    /// Where its workspace's packets are counted; see [`crate::account`].
    pub account: u32,
}

impl ForwardRow {
    /// Whether clients' packets come and go by the kernel, here or by a gateway.
    #[inline(always)]
    pub const fn is_raw(&self) -> bool {
        self.uplink | self.gateway != 0
    }
}

/// Who listens in userspace on a public (address, port).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ListenerRow {
    /// `RAW` or `TLS`.
    pub kind: u32,
}

impl ListenerRow {
    /// The one socket behind all raw ports; `sk_lookup` finds it.
    pub const RAW: u32 = 1;
    /// A socket of its own (TLS, redirect): let through, not steered.
    pub const OWN: u32 = 2;
}

/// A member of a cluster that has members here, by its IPv4 address as it lies in a header.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct MemberRow {
    /// Random: two members are of one cluster if they have the same.
    pub mark: u64,
}

/// Packets and bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Count {
    /// Packets as the hook saw them: XDP counts frames, TCX what GRO has merged.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

/// What the kernel carried for one tunnel.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Traffic {
    /// SYN-ACKs that the container sent: connections accepted, retransmissions included.
    pub connections: u64,
    /// From clients to the container.
    pub inbound: Count,
    /// From the container to clients.
    pub outbound: Count,
}

/// What XDP leaves in a frame's metadata for `tc_uplink`: this frame was judged and rewritten.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Judged {
    /// [`Judged::MAGIC`].
    pub magic: u32,
    /// The container's host-side veth.
    pub ifindex: u32,
    /// The container's MAC address.
    pub mac: [u8; 6],
    /// Where the packet is counted; see [`crate::account`].
    pub place: u16,
}

impl Judged {
    /// Only a program on this machine writes metadata, so this guards against other programs'.
    pub const MAGIC: u32 = 0xed9e_1d6e;

    /// As it lies in front of a frame.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; size_of::<Self>()] {
        zerocopy::transmute!(self)
    }

    /// See [`Judged::bytes`].
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        zerocopy::transmute!(bytes)
    }
}

/// What a decision may ask. Every answer may be missing.
pub trait Tables {
    /// The host's settings, once the daemon has written them.
    fn settings(&self) -> Option<&Settings>;
    /// The container (or service) on this host that owns an address. All of them lie within the
    /// settings' ranges, but for the service's own.
    fn address(&self, address: &Address) -> Option<&AddressRow>;
    /// The raw tunnel behind a public endpoint.
    fn tunnel(&self, public: &Endpoint) -> Option<&TunnelRow>;
    /// The forwarding of a container's endpoint.
    fn forward(&self, container: &Endpoint) -> Option<&ForwardRow>;
    /// The userspace listener behind a public endpoint.
    fn listener(&self, public: &Endpoint) -> Option<&ListenerRow>;
    /// Whether a network on the list of a tunnel holds a client.
    fn lists(&self, client: &ListKey) -> bool;
    /// How often connections to the tunnel of a slot may open.
    fn pace(&self, slot: u32) -> Option<&PaceRow>;
    /// The bucket of the tunnel of a slot.
    fn tunnel_bucket(&self, slot: u32) -> Option<impl Deref<Target = Bucket>>;
    /// The bucket of a source, if it is remembered.
    fn source_bucket(&self, source: &SourceKey) -> Option<impl Deref<Target = Bucket>>;
    /// Remembers a source; see [`Bucket::begun`].
    fn begin_source_bucket(&self, source: &SourceKey, bucket: u64);
    /// An interface that other hosts are reached by.
    fn underlay(&self, ifindex: u32) -> Option<&UnderlayRow>;
    /// Who has an address of the underlay.
    fn peer(&self, address: &Address) -> Option<&PeerRow>;
    /// A host of the region by its number; never this one.
    fn host(&self, number: u32) -> Option<&HostRow>;
    /// Whose address block this is; see [`Settings::block_mask`].
    fn block(&self, network: u32) -> Option<&BlockRow>;
    /// The cluster of a container, here or elsewhere, by its IPv4 address as it lies in a header.
    fn member(&self, address: u32) -> Option<&MemberRow>;
    /// The ways of a proxied container's egress.
    fn proxy(&self, container: &Address) -> Option<&ProxyRow>;
    /// The way that a flow of such a container has taken, if it is remembered.
    fn flow_way(&self, flow: &FlowKey) -> Option<FlowWay>;
    /// Remembers it.
    fn keep_flow_way(&self, flow: &FlowKey, way: FlowWay);
    /// What was learnt of the way to a host.
    fn path_mtu(&self, host: u32) -> Option<&PathMtu>;
    /// Remembers it.
    fn learn_path_mtu(&self, host: u32, learnt: PathMtu);
    /// Nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;
}

#[cfg(feature = "user")]
mod pod {
    //! Rows that may be copied to and from the kernel byte by byte.
    use super::{
        Address, AddressRow, BlockRow, Count, Endpoint, ForwardRow, HostRow, ListKey, ListenerRow,
        MemberRow, PaceRow, PathMtu, PeerRow, ProxyRow, Settings, Traffic, TunnelRow, UnderlayRow,
    };
    use crate::trace::{Filter, Notes};

    macro_rules! pod {
        ($($row:ty),+) => {$(
            // SAFETY: the row derives zerocopy's `IntoBytes` and `FromBytes`: it has no padding
            // and every bit pattern is a value of it.
            unsafe impl aya::Pod for $row {}
        )+};
    }

    pod!(
        Address,
        AddressRow,
        BlockRow,
        Count,
        Endpoint,
        Filter,
        ForwardRow,
        HostRow,
        ListKey,
        ListenerRow,
        MemberRow,
        Notes,
        PaceRow,
        PathMtu,
        PeerRow,
        ProxyRow,
        Settings,
        Traffic,
        TunnelRow,
        UnderlayRow
    );
}
