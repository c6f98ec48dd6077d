//! XDP: frames straight from a NIC, before there is a skb.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    helpers::{
        bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
    programs::XdpContext,
};
use edge_common::{
    checksum::Difference,
    decide::{self, Action, Arrival, Outcome},
    packet::{NETWORK, Packet},
    tables::Judged,
    verdict::Hook,
};

use crate::{
    halves,
    maps::{self, Maps},
    place, trace,
};

/// `xdp_uplink`, and the same told of.
#[inline(always)]
pub(crate) fn uplink<const TRACED: bool>(ctx: XdpContext) -> u32 {
    if TRACED {
        trace_begin(ctx.ctx);
    }
    let done = arriving::<TRACED>(ctx.ctx);
    let code = match halves::second(done) {
        Some(arrival) => {
            if TRACED {
                trace_inside(ctx.ctx, arrival);
            }
            brought::<TRACED>(ctx.ctx, arrival)
        }
        None => done,
    };
    if TRACED {
        trace::end();
    }
    code as u32
}

/// All but what another host brought.
#[inline(never)]
fn arriving<const TRACED: bool>(ctx: *mut xdp_md) -> u64 {
    let mut frame = Frame { ctx: XdpContext::new(ctx) };
    let bytes = frame.whole();
    let ifindex = frame.ifindex();
    match decide::arriving(&mut frame, &Maps, ifindex) {
        Ok(outcome) => halves::done(frame.finish::<TRACED>(outcome, bytes)),
        Err(arrival) => halves::go_on(arrival),
    }
}

/// What another host brought.
#[inline(never)]
fn brought<const TRACED: bool>(ctx: *mut xdp_md, arrival: Arrival) -> u64 {
    let mut frame = Frame { ctx: XdpContext::new(ctx) };
    let bytes = frame.whole();
    let arrival = Arrival(frame.forget(arrival.0));
    let outcome = decide::brought(&mut frame, &Maps, arrival);
    halves::done(frame.finish::<TRACED>(outcome, bytes))
}

/// Notes what a frame says before anything of it is changed.
#[inline(never)]
fn trace_begin(ctx: *mut xdp_md) {
    let frame = Frame { ctx: XdpContext::new(ctx) };
    trace::begin(&frame, Hook::XdpUplink, frame.ifindex(), frame.whole());
}

/// Notes what the packet in it says.
#[inline(never)]
fn trace_inside(ctx: *mut xdp_md, arrival: Arrival) {
    let frame = Frame { ctx: XdpContext::new(ctx) };
    trace::inside(&frame, Arrival(frame.forget(arrival.0)));
}

struct Frame {
    ctx: XdpContext,
}

impl Frame {
    /// Carries the decision out, then counts what really happened.
    #[inline(always)]
    fn finish<const TRACED: bool>(mut self, mut outcome: Outcome, bytes: u64) -> u32 {
        let code = match outcome.action {
            Action::Pass | Action::PassToListener | Action::PassProxied => XDP_PASS,
            Action::Deliver => {
                // A frame redirected into a veth loses GRO: `tc_uplink` delivers what GRO has
                // merged.
                let [a, b, c, d, e, f, _, _] = outcome.mac;
                let (ifindex, mac, place) =
                    (outcome.ifindex, [a, b, c, d, e, f], outcome.place as u16);
                if self.leave(Judged { magic: Judged::MAGIC, ifindex, mac, place }).is_some() {
                    XDP_PASS
                } else {
                    outcome = Outcome::failed().at(outcome.place);
                    XDP_DROP
                }
            }
            // Nothing is sent from here: see `Packet::SENDS`.
            Action::Drop | Action::Send | Action::SendBare | Action::Bounce => XDP_DROP,
        };
        let verdict = outcome.verdict as u32;
        maps::count::<_, TRACED>(&self.ctx, Hook::XdpUplink, verdict, &outcome, bytes);
        code
    }

    /// Bytes of the whole frame. A large one may lie in several buffers, of which the program
    /// reads the first; the kernel is asked only if an IP packet does not end there.
    #[inline(always)]
    fn whole(&self) -> u64 {
        let first = self.linear();
        let end = match self.read::<8>(12) {
            Some([0x08, 0x00, _, _, high, low, _, _]) => {
                NETWORK + usize::from(u16::from_be_bytes([high, low]))
            }
            Some([0x86, 0xdd, _, _, _, _, high, low]) => {
                NETWORK + 40 + usize::from(u16::from_be_bytes([high, low]))
            }
            _ => usize::MAX,
        };
        if end <= first {
            return first as u64;
        }
        // SAFETY: the kernel passes a valid context.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn leave(&mut self, judged: Judged) -> Option<()> {
        // Another program, or a driver, may have left metadata of its own: this takes its place.
        let present = self.data() - self.metadata();
        let missing = size_of::<Judged>() as i32 - present as i32;
        // SAFETY: the kernel passes a valid context and checks the length.
        if unsafe { bpf_xdp_adjust_meta(self.ctx.ctx, -missing) } != 0 {
            return None;
        }
        let meta = self.metadata();
        if meta + size_of::<Judged>() > self.data() {
            return None;
        }
        // SAFETY: the bytes up to the frame were just found to be there.
        unsafe { place::write(meta as *mut _, judged.bytes()) };
        Some(())
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { place::field::<{ offset_of!(xdp_md, data) }, _>(self.ctx.ctx) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { place::field::<{ offset_of!(xdp_md, data_end) }, _>(self.ctx.ctx) }
    }

    #[inline(always)]
    fn metadata(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { place::field::<{ offset_of!(xdp_md, data_meta) }, _>(self.ctx.ctx) }
    }

    /// Bytes of the first buffer.
    #[inline(always)]
    fn linear(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        place::of(self.data(), self.data_end(), at)
    }
}

impl Packet for Frame {
    const SENDS: bool = false;

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` found the bytes within the frame.
        self.at::<N>(at).map(|bytes| unsafe { place::read(bytes) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as in `read`.
        self.at::<N>(at).map(|to| unsafe { place::write(to, bytes) })
    }

    #[inline(always)]
    fn fix_checksum(
        &mut self,
        at: usize,
        difference: Difference,
        _pseudo: bool,
        _v6: bool,
    ) -> Option<()> {
        let old = u16::from_ne_bytes(self.read(at)?);
        self.write(at, difference.apply(old).to_ne_bytes())
    }

    /// Here no checksum is left for the NIC to finish: both are one.
    #[inline(always)]
    fn fix_checksum_of_both(
        &mut self,
        at: usize,
        addresses: Difference,
        covered: Difference,
        v6: bool,
    ) -> Option<()> {
        self.fix_checksum(at, addresses.and(covered), false, v6)
    }

    #[inline(always)]
    fn forget(&self, word: u32) -> u32 {
        place::forget(word, self.linear())
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let excess = self.linear().checked_sub(len)?;
        // SAFETY: the kernel passes a valid context and checks the length.
        let done = unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, -(excess as i32)) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.whole() as usize
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        0
    }

    #[inline(always)]
    fn make_room(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn make_room_around(&mut self, _v4: bool, _tunnel: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn take_away(&mut self, bytes: usize, _v4: bool) -> Option<()> {
        let link = self.read::<12>(0)?;
        // SAFETY: the kernel passes a valid context and checks the length.
        let done = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, bytes as i32) };
        if done != 0 {
            return None;
        }
        self.write(0, link)
    }
}
