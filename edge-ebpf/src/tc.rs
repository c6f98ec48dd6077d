//! TCX: frames that are skbs already, merged by GRO or made by a local sender.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_OK, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_tail},
    programs::TcContext,
};
use edge_common::{
    checksum::Difference,
    decide::{self, Action, Outcome},
    packet::{NETWORK, Packet},
    tables::{Judged, LISTENER_MARK},
    verdict::{Hook, Verdict},
};

use crate::{
    maps::{self, Maps},
    place,
};

/// `BPF_F_IPV6` of the kernel's `bpf_l4_csum_replace`: the difference is one of IPv6 addresses,
/// which no header checksum balances.
const BPF_F_IPV6: u64 = 1 << 7;
/// Ethernet, the longest IPv4 header and the longest TCP header, which is also enough for IPv6
/// with the Hop-by-Hop header of BIG TCP, and for a quote: what a decision may want to read.
const WANTED: u32 = NETWORK as u32 + 60 + 60;

/// `tc_uplink`.
#[inline(always)]
pub(crate) fn uplink(ctx: TcContext) -> i32 {
    let bytes = ctx.len().into();
    let mut skb = Skb { ctx };
    let outcome = match skb.judged() {
        // Where a NIC takes tags off, XDP cannot see that a frame was another network's.
        Some(_) if skb.is_tagged() => Outcome::failed(),
        Some(judged) => Outcome::deliver(Verdict::Delivered, judged.ifindex, judged.mac),
        None => {
            skb.pull();
            decide::uplink(&mut skb, &Maps)
        }
    };
    skb.finish(Hook::TcUplink, outcome, bytes)
}

/// `tc_container`.
#[inline(always)]
pub(crate) fn container(ctx: TcContext) -> i32 {
    let bytes = ctx.len().into();
    let mut skb = Skb { ctx };
    skb.pull();
    let ifindex = skb.ifindex();
    let outcome = decide::container(&mut skb, &Maps, ifindex);
    skb.finish(Hook::TcContainer, outcome, bytes)
}

struct Skb {
    ctx: TcContext,
}

impl Skb {
    /// Carries the decision out, then counts what really happened.
    #[inline(always)]
    fn finish(mut self, hook: Hook, mut outcome: Outcome, bytes: u64) -> i32 {
        let code = match outcome.action {
            Action::Pass => TC_ACT_OK as i64,
            Action::PassToListener => {
                self.ctx.set_mark(LISTENER_MARK);
                TC_ACT_OK as i64
            }
            Action::Drop => TC_ACT_SHOT as i64,
            Action::Deliver => {
                let [a, b, c, d, e, f, _, _] = outcome.mac;
                if self.write(0, [a, b, c, d, e, f]).is_some() {
                    // SAFETY: a plain helper call without pointers.
                    unsafe { bpf_redirect_peer(outcome.ifindex, 0) }
                } else {
                    outcome = Outcome::failed();
                    TC_ACT_SHOT as i64
                }
            }
            // SAFETY: no next hop is given, so the kernel looks it up; nothing is dereferenced.
            Action::Send => unsafe {
                bpf_redirect_neigh(outcome.ifindex, core::ptr::null_mut(), 0, 0)
            },
            // SAFETY: a plain helper call without pointers.
            Action::Bounce => unsafe { bpf_redirect(self.ifindex(), 0) },
        };
        maps::count(&self.ctx, hook, &outcome, bytes);
        code as i32
    }

    /// Makes the headers readable in one piece; GSO skbs are never flattened beyond them.
    #[inline(always)]
    fn pull(&self) {
        let linear = self.ctx.data_end() - self.ctx.data();
        let len = self.ctx.len();
        let wanted = if len < WANTED { len } else { WANTED };
        if (linear as u32) < wanted {
            // What could not be pulled is found truncated by the parser.
            let _unread = self.ctx.skb.pull_data(wanted);
        }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// What `xdp_uplink` left in front of the frame.
    #[inline(always)]
    fn judged(&self) -> Option<Judged> {
        // SAFETY: the kernel passes a valid context.
        let meta = unsafe { (*self.ctx.skb.skb).data_meta } as usize;
        if meta + size_of::<Judged>() > self.ctx.data() {
            return None;
        }
        // SAFETY: the bytes up to the frame were just found to be there; metadata is aligned to 4.
        let judged = unsafe { *(meta as *const Judged) };
        (judged.magic == Judged::MAGIC).then_some(judged)
    }

    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        place::of(self.ctx.data(), self.ctx.data_end(), at)
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` found the bytes within the linear part.
        self.at::<N>(at).map(|bytes| unsafe { *bytes })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as in `read`; the kernel unshares the head of a skb for a program that writes.
        self.at::<N>(at).map(|place| unsafe { *place = bytes })
    }

    #[inline(always)]
    fn fix_checksum(
        &mut self,
        at: usize,
        difference: Difference,
        pseudo: bool,
        v6: bool,
    ) -> Option<()> {
        let flags = match (pseudo, v6) {
            (true, true) => u64::from(BPF_F_PSEUDO_HDR) | BPF_F_IPV6,
            (true, false) => u64::from(BPF_F_PSEUDO_HDR),
            _ => 0,
        };
        self.ctx.skb.l4_csum_replace(at, 0, difference.raw().into(), flags).ok()
    }

    /// The kernel alone knows whether a skb's checksum is left for the NIC to finish. What its
    /// helper makes of the addresses tells, and spares calling it again: most of a rewrite's cost.
    #[inline(always)]
    fn fix_checksum_of_both(
        &mut self,
        at: usize,
        addresses: Difference,
        covered: Difference,
        v6: bool,
    ) -> Option<()> {
        let before = u16::from_ne_bytes(self.read(at)?);
        self.fix_checksum(at, addresses, true, v6)?;
        let after = u16::from_ne_bytes(self.read(at)?);
        let finished = after == addresses.apply(before);
        let partial = after == addresses.apply_to_partial(before);
        match (finished, partial) {
            (true, false) => self.write(at, covered.apply(after).to_ne_bytes()),
            (false, true) => Some(()),
            _ => self.fix_checksum(at, covered, false, v6),
        }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        // SAFETY: the kernel passes a valid context.
        let done = unsafe { bpf_skb_change_tail(self.ctx.skb.skb, len as u32, 0) };
        (done == 0).then_some(())
    }
}
