//! Telling of decisions: what the traced programs have beyond the plain ones.
//!
//! Each program is compiled twice. The plain one has nothing of this; the traced one takes its
//! place while somebody listens. A packet's notes lie in a table, beside the programs' stacks.

use aya_ebpf::{
    helpers::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use edge_common::{
    decide::{Arrival, Outcome},
    packet::Packet,
    trace::{Event, Filter, Notes},
    verdict::Hook,
};

use crate::maps::Maps;

/// Some seven thousand events.
const RING_BYTES: u32 = 1 << 20;
/// So many bytes that nobody has fetched wake the daemon, which looks by itself every now and then.
const WAKING: u64 = RING_BYTES as u64 / 8;
/// Wake it once, even if several CPUs step over that at the same time.
const WAKING_SPAN: u64 = 32 * size_of::<Event>() as u64;
/// `BPF_RB_AVAIL_DATA`, `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP` of the kernel.
const AVAILABLE: u64 = 0;
const NO_WAKEUP: u64 = 1;
const WAKEUP: u64 = 2;

/// Events on their way to the daemon.
#[map]
static TRACE_EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Which are told; one row.
#[map]
static TRACE_FILTER: Array<Filter> = Array::with_max_entries(1, 0);

/// Written here, a row for each CPU.
#[map]
static TRACE_NOTES: PerCpuArray<Notes> = PerCpuArray::with_max_entries(1, 0);

/// A packet begins, of so many bytes.
#[inline(always)]
pub(crate) fn begin<P: Packet>(packet: &P, hook: Hook, ifindex: u32, bytes: u64) {
    let (Some(filter), Some(notes)) = (TRACE_FILTER.get(0), notes()) else { return };
    notes.begin(filter, hook, ifindex);
    if notes.wanted != 0 {
        notes.event.bytes = bytes as u32;
        notes.event.read(packet);
    }
}

/// It is one that another host brought.
#[inline(always)]
pub(crate) fn inside<P: Packet>(packet: &P, arrival: Arrival) {
    if let Some(notes) = notes()
        && notes.wanted != 0
    {
        notes.event.read_inside(packet, arrival);
    }
}

/// What became of it.
#[inline(always)]
pub(crate) fn decided(outcome: &Outcome) {
    if let Some(notes) = notes() {
        notes.event.decided(outcome);
    }
}

/// Tells of it, if somebody wants to hear.
#[inline(never)]
pub(crate) fn end() {
    let (Some(filter), Some(notes)) = (TRACE_FILTER.get(0), notes()) else { return };
    if notes.wanted == 0 {
        return;
    }
    notes.event.look_up(&Maps);
    // SAFETY: a plain helper call without pointers.
    notes.event.time = unsafe { bpf_ktime_get_boot_ns() };
    if notes.end(filter) && TRACE_EVENTS.output::<Event>(&notes.event, wakes()).is_err() {
        notes.lost += 1;
    }
}

/// Whether the daemon is woken: each time would cost the packet's time, and the machine's.
#[inline(always)]
fn wakes() -> u64 {
    let waiting = TRACE_EVENTS.query(AVAILABLE);
    if (WAKING..WAKING + WAKING_SPAN).contains(&waiting) { WAKEUP } else { NO_WAKEUP }
}

#[inline(always)]
fn notes() -> Option<&'static mut Notes> {
    // SAFETY: the row is this CPU's own, and a program is not interrupted by another one of edge's
    // on the same CPU; no caller keeps the reference beyond its own few lines.
    TRACE_NOTES.get_ptr_mut(0).map(|row| unsafe { &mut *row })
}
