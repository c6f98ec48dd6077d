//! The decisions: what becomes of a frame at an uplink, and of one that a container sent.

use crate::{
    account::NOBODY,
    address::{Address, Endpoint},
    packet::{Headers, Packet, SYN},
    rewrite,
    tables::{LAYOUT, ListenerRow, Settings, Tables},
    verdict::Verdict,
};
pub use crate::{
    container::container,
    from_host::{Arrival, brought},
    uplink::{arriving, uplink},
};

/// What a hook has to carry out and to count. Flat and always written whole: the verifier refuses
/// to copy what a variant would leave unwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The one name of what was decided.
    pub verdict: Verdict,
    /// What becomes of the frame.
    pub action: Action,
    /// Where it goes: a host-side veth for `Deliver`, an uplink for `Send`, a WireGuard interface
    /// for `SendBare`; else 0.
    pub ifindex: u32,
    /// For `Deliver`: the container's own MAC address, and two zero bytes.
    pub mac: [u8; 8],
    /// For `Send`: the way to a host whose far end is the next hop; 0 where the routing table
    /// names it. See [`Outcome::next_hop`].
    pub way: u32,
    /// Whether it is a tunnel's traffic.
    pub passage: Passage,
    /// The tunnel's place in the counters, if it is.
    pub slot: u32,
    /// The place of its workspace and lane in the counters; see [`crate::account`].
    pub place: u32,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel goes on with it.
    Pass,
    /// The kernel goes on with it, marked for the userspace listener.
    PassToListener,
    /// The same, marked for a proxy's IPv6 that this machine itself serves.
    PassProxied,
    /// It ends here.
    Drop,
    /// Into a container on this host.
    Deliver,
    /// Out by an interface, to the next hop.
    Send,
    /// Out by an interface that has no link layer.
    SendBare,
    /// Back where it came from: the frame has become its own answer.
    Bounce,
}

/// Which way a packet of a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// No tunnel's traffic.
    None,
    /// Towards the container.
    In,
    /// Towards the client.
    Out,
    /// Towards the client, accepting its connection.
    Accept,
}

impl Outcome {
    #[inline(always)]
    pub(crate) const fn new(verdict: Verdict, action: Action) -> Self {
        let (passage, place) = (Passage::None, NOBODY);
        Self { verdict, action, ifindex: 0, mac: [0; 8], way: 0, passage, slot: 0, place }
    }

    #[inline(always)]
    pub(crate) fn drop(verdict: Verdict) -> Self {
        apart();
        Self::new(verdict, Action::Drop)
    }

    #[inline(always)]
    pub(crate) const fn pass(verdict: Verdict) -> Self {
        Self::new(verdict, Action::Pass)
    }

    /// Into the container behind a host-side veth.
    #[inline(always)]
    pub const fn deliver(verdict: Verdict, ifindex: u32, mac: [u8; 8]) -> Self {
        Self { ifindex, mac, ..Self::new(verdict, Action::Deliver) }
    }

    #[inline(always)]
    pub(crate) const fn send(verdict: Verdict, ifindex: u32) -> Self {
        Self { ifindex, ..Self::new(verdict, Action::Send) }
    }

    /// The same, counted there.
    #[inline(always)]
    pub const fn at(self, place: u32) -> Self {
        Self { place, ..self }
    }

    /// By a host's way, as it is.
    #[inline(always)]
    pub(crate) const fn by(self, host: u32, path: usize) -> Self {
        Self { way: (host << 8) | (path as u32 + 1), ..self }
    }

    /// For `Send`: the IPv6 address of the next hop, if the routing table is not to name it.
    #[inline(always)]
    pub fn next_hop<'row, T: Tables>(&self, tables: &'row T) -> Option<&'row Address> {
        let path = (self.way & 0xff) as usize;
        if path == 0 {
            return None;
        }
        let row = tables.host(self.way >> 8)?;
        row.paths.get(path - 1).map(|path| &path.remote)
    }

    /// What XDP leaves to TCX: nothing of the frame was changed.
    #[inline(always)]
    pub(crate) const fn deferred() -> Self {
        Self::pass(Verdict::Deferred)
    }

    /// The same frame, when its hook could not do what was decided.
    #[inline(always)]
    pub fn failed() -> Self {
        Self::drop(Verdict::Failed)
    }
}

/// Keeps apart what few packets come to. The machine has no conditional moves: where a branch leads
/// to an outcome and nothing else, the compiler would have every packet write that outcome first,
/// then branch.
#[inline(always)]
fn apart() {
    #[cfg(target_arch = "bpf")]
    // SAFETY: no instruction.
    unsafe {
        core::arch::asm!("", options(nomem, nostack, preserves_flags));
    }
}

/// Why a tunnel cannot carry this packet.
#[inline(always)]
pub(crate) const fn unfit(headers: &Headers) -> Option<Verdict> {
    if headers.fragment() {
        return Some(Verdict::Fragment);
    }
    if headers.options() { Some(Verdict::IpOptions) } else { None }
}

/// Lowers the largest segment that a SYN asks for.
#[inline(always)]
pub(crate) fn clamp<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
) -> Option<()> {
    if headers.flags() & SYN == 0 {
        return Some(());
    }
    let limit = if headers.v4() { settings.mss_v4 } else { settings.mss_v6 };
    rewrite::clamp_mss(packet, headers, limit)
}

/// Which way a tunnel's reply counts.
#[inline(always)]
pub(crate) const fn outward(headers: &Headers) -> Passage {
    if headers.accepts() { Passage::Accept } else { Passage::Out }
}

/// Whether an address belongs to containers, here or elsewhere, or to what serves them.
#[inline(always)]
pub(crate) fn inside(settings: &Settings, address: &Address) -> bool {
    // Of IPv4 the last words differ, so the others are seldom looked at.
    if address.last() & settings.pool_mask.last() == settings.pool.last()
        && address.within(&settings.pool, &settings.pool_mask)
    {
        return true;
    }
    address.within(&settings.private, &settings.private_mask)
        || address.last() == settings.service.last() && *address == settings.service
}

/// Whose block an IPv4 address of the pool is in.
#[inline(always)]
pub(crate) fn block_owner<T: Tables>(
    tables: &T,
    settings: &Settings,
    address: &Address,
) -> Option<u32> {
    tables.block(address.last() & settings.block_mask).map(|row| row.host)
}

#[inline(always)]
pub(crate) fn current<T: Tables>(tables: &T) -> Option<&Settings> {
    tables.settings().filter(|settings| settings.layout == LAYOUT)
}

/// What `sk_lookup` asks: may the one listener behind the raw ports claim this connection?
#[inline(always)]
pub fn claims<T: Tables>(tables: &T, local: &Endpoint) -> bool {
    matches!(tables.listener(local), Some(row) if row.kind == ListenerRow::RAW)
}
