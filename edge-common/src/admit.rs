//! Who may send to a raw tunnel, and how often anybody may open a connection to it.
//!
//! A tunnel's row says by a flag whether any of this is to be looked at, so that a packet of a
//! tunnel without bounds costs one comparison. A list is asked about every packet, not only about
//! those that open connections: steering keeps no state, so whatever passes reaches the container.
//! Rates are asked about SYNs alone.

use core::ops::Deref;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::Address,
    packet::Headers,
    tables::{Tables, TunnelRow},
    verdict::Verdict,
    word::Word,
};

/// Most networks on the lists of all tunnels of a host together.
pub const MAX_LISTED: u32 = 65_536;
/// Sources whose pace is remembered; one more pushes out another that was silent for long, who
/// then begins with a full bucket.
///
/// The kernel pushes out first who was seen only once, so a flood of forged sources pushes out
/// each other and not who comes again and again. Each of them has a full bucket: a flood of many
/// sources is bounded by the whole tunnel's pace alone.
pub const MAX_SOURCES: u32 = 65_536;

/// A place on the list of a tunnel: its slot, and a client's address or the first bits of it.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ListKey {
    /// The tunnel's slot, and in the lowest bit whether the address is IPv4: no IPv6 network is to
    /// hold the addresses that are mapped into it.
    tag: u32,
    address: Address,
}

/// How often connections may open: one an interval, and a burst after a silence.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Pace {
    /// Nanoseconds that one connection takes; 0 is no bound.
    pub interval: u64,
    /// Nanoseconds that a bucket may run ahead of the clock when one more is let in.
    pub slack: u64,
}

/// What holds for a tunnel, by its slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PaceRow {
    /// For each source.
    pub source: Pace,
    /// For all of them together.
    pub tunnel: Pace,
    /// Tells the tunnel from others that had its slot: their sources are not its own.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// Whose bucket: a source of a tunnel.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SourceKey {
    /// See [`PaceRow::generation`].
    generation: u32,
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    prefix: Address,
}

/// A token bucket in one word (a generic cell rate algorithm): the nanosecond at which it will be
/// full again.
///
/// CPUs may look at the same time. What each lets in is added atomically, so that none of it is
/// forgotten: when the last token goes, at most one SYN too many passes for every other CPU, and
/// the next ones wait for it. Only who finds the bucket full stores; what others add within the
/// nanoseconds between its load and its store, which are fewer than a packet takes, is lost: again
/// one SYN for every other CPU, once after a silence.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Bucket(Word);

impl ListKey {
    /// Where a client would stand on a tunnel's list.
    #[inline(always)]
    pub const fn client(slot: u32, address: Address) -> Self {
        Self { tag: slot << 1 | address.is_v4() as u32, address }
    }

    /// Whose list it is.
    pub const fn slot(&self) -> u32 {
        self.tag >> 1
    }

    /// Where a network stands, and how many bits of the place count. The length is the family's
    /// own.
    pub const fn network(slot: u32, address: Address, length: u8) -> (u32, Self) {
        let mapping = if address.is_v4() { 96 } else { 0 };
        (u32::BITS + mapping + length as u32, Self::client(slot, address))
    }
}

impl Pace {
    /// So many a second and so many at once, each from 1 to 1,000,000. The interval is rounded up:
    /// the pace is never faster than what was asked for, and at most a thousandth slower.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000_u64.div_ceil(per_second as u64);
        Self { interval, slack: interval * (burst as u64 - 1) }
    }

    /// Whether it is a bound at all.
    #[inline(always)]
    pub const fn bounds(&self) -> bool {
        self.interval != 0
    }
}

impl SourceKey {
    /// The bucket of whoever has an address.
    #[inline(always)]
    pub const fn of(generation: u32, address: &Address) -> Self {
        let [a, b, c, d] = address.words;
        let words = if address.is_v4() { [a, b, c, d] } else { [a, b, 0, 0] };
        Self { generation, prefix: Address { words } }
    }

    /// The bucket of what a sender here is told by ICMP; no tunnel's client has such an address.
    /// The first 64 bits would be those of its whole workspace.
    #[inline(always)]
    pub(crate) const fn complaints(sender: &Address) -> Self {
        Self { generation: 0, prefix: *sender }
    }
}

impl Bucket {
    /// A bucket that was full and let one in.
    #[inline(always)]
    pub const fn begun(pace: &Pace, now: u64) -> u64 {
        now + pace.interval
    }

    /// Takes a token if there is one. Times are nanoseconds of one clock.
    #[inline(always)]
    pub fn take(&self, pace: &Pace, now: u64) -> bool {
        let full = self.0.load();
        if full <= now {
            self.0.store(Self::begun(pace, now));
            return true;
        }
        let enough = full - now <= pace.slack;
        if enough {
            self.0.add(pace.interval);
        }
        enough
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<u64> for Bucket {
    fn from(full: u64) -> Self {
        Self(Word::new(full))
    }
}

/// Why a packet to a tunnel is not let in.
#[inline(always)]
pub(crate) fn refusal<T: Tables>(
    headers: &Headers,
    tables: &T,
    row: &TunnelRow,
) -> Option<Verdict> {
    if row.flags & TunnelRow::LISTED != 0
        && !tables.lists(&ListKey::client(row.slot, headers.source))
    {
        return Some(Verdict::NotAllowed);
    }
    if row.flags & TunnelRow::PACED != 0 && headers.opens() {
        return too_fast(headers, tables, row.slot);
    }
    None
}

/// The source first: what it has too much must not be taken from the others.
#[inline(always)]
fn too_fast<T: Tables>(headers: &Headers, tables: &T, slot: u32) -> Option<Verdict> {
    let row = tables.pace(slot)?;
    let now = tables.now();
    let key = SourceKey::of(row.generation, &headers.source);
    if row.source.bounds() && !takes(tables, &key, &row.source, now) {
        return Some(Verdict::SourceRate);
    }
    if row.tunnel.bounds()
        && let Some(bucket) = tables.tunnel_bucket(slot)
        && !bucket.deref().take(&row.tunnel, now)
    {
        return Some(Verdict::TunnelRate);
    }
    None
}

/// Takes a token of a source's, if it has one.
#[inline(always)]
pub(crate) fn takes<T: Tables>(tables: &T, key: &SourceKey, pace: &Pace, now: u64) -> bool {
    if let Some(bucket) = tables.source_bucket(key) {
        return bucket.take(pace, now);
    }
    // Two CPUs may both find none: then the bucket has one token more. Without room for another
    // the packet passes, for it is not its source's fault.
    tables.begin_source_bucket(key, Bucket::begun(pace, now));
    true
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_pace_is_never_faster_than_what_was_asked_for() {
        for (per_second, burst) in [(1, 1), (3, 10), (999_983, 7), (1_000_000, 1_000_000)] {
            let (pace, bucket) = (Pace::new(per_second, burst), Bucket::default());
            let second = pace.interval * u64::from(per_second);
            assert!((SECOND..=SECOND + SECOND / 1000).contains(&second), "{per_second}: {second}");
            let begun = 5 * SECOND;
            let at_once = (0..2 * burst).filter(|_| bucket.take(&pace, begun)).count();
            assert_eq!(at_once, burst as usize, "{per_second}/{burst}");
            let steps = 3 * per_second.min(1000);
            let step = 3 * SECOND / u64::from(steps);
            let later = (1..=u64::from(steps)).filter(|n| bucket.take(&pace, begun + n * step));
            let tokens = u64::from(steps.min(3 * per_second));
            assert!(
                (tokens - 1..=tokens).contains(&(later.count() as u64)),
                "{per_second}/{burst}"
            );
        }
    }

    #[test]
    fn a_bucket_holds_no_more_than_a_burst_however_long_the_silence() {
        let (pace, bucket) = (Pace::new(10, 5), Bucket::default());
        for now in [SECOND, 1000 * SECOND, u64::MAX / 2] {
            assert_eq!((0..20).filter(|_| bucket.take(&pace, now)).count(), 5);
        }
    }

    /// What the type says of CPUs that look at the same time.
    #[test]
    fn contention_forgets_nothing() {
        const CPUS: usize = 4;
        const BURST: usize = 200_000;
        let pace = Pace::new(1, BURST as u32);
        for _ in 0..20 {
            let bucket = Bucket::from(Bucket::begun(&pace, SECOND));
            let together = std::sync::Barrier::new(CPUS);
            let taken: usize = std::thread::scope(|scope| {
                let take = || {
                    together.wait();
                    (0..BURST).filter(|_| bucket.take(&pace, SECOND)).count()
                };
                let cpus = [(); CPUS].map(|()| scope.spawn(take));
                cpus.map(|cpu| cpu.join().unwrap()).iter().sum()
            });
            assert!((BURST - 1..BURST - 1 + CPUS).contains(&taken), "{taken}");
        }
    }

    #[test]
    fn families_and_slots_have_places_of_their_own() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let v4 = ListKey::network(7, address("192.0.2.0"), 24);
        let v6 = ListKey::network(7, address("::"), 0);
        assert_eq!((v4.0, v6.0), (32 + 96 + 24, 32));
        let client = ListKey::client(7, address("192.0.2.1"));
        assert_eq!(client.tag, v4.1.tag);
        assert_ne!(client.tag, v6.1.tag, "::/0 would hold all of IPv4");
        assert_ne!(client.tag, ListKey::client(8, address("192.0.2.1")).tag);

        let source = |text: &str| SourceKey::of(1, &address(text));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::2"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    }
}
