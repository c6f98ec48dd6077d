//! TCX: frames that are skbs already, merged by GRO or made by a local sender.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_PSEUDO_HDR, TC_ACT_OK,
        TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
        bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{
        bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room,
        bpf_skb_change_tail,
    },
    programs::TcContext,
};
use edge_common::{
    checksum::Difference,
    decide::{self, Action, Arrival, Outcome},
    geneve::{HEADER, PORT},
    packet::{NETWORK, Packet, TCP, UDP},
    tables::{Judged, LISTENER_MARK, PROXIED_MARK},
    verdict::{Hook, Verdict},
};

use crate::{
    halves,
    maps::{self, Maps},
    place, trace,
};

/// `BPF_F_IPV6` of the kernel's `bpf_l4_csum_replace`: the difference is one of IPv6 addresses,
/// which no header checksum balances.
const BPF_F_IPV6: u64 = 1 << 7;
const AF_INET6: u32 = 10;
/// Ethernet, the longest IPv4 header and the longest TCP header, which is also enough for IPv6
/// with the Hop-by-Hop header of BIG TCP: what a decision may want to read.
const WANTED: u32 = NETWORK as u32 + 60 + 60;
/// The same behind what hosts put around a packet: IPv6, UDP, and Geneve with a key.
const WANTED_INSIDE: u32 = WANTED + 40 + 8 + 20;

/// `tc_uplink`, and the same told of.
#[inline(always)]
pub(crate) fn uplink<const TRACED: bool>(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if TRACED {
        trace_begin(skb, Hook::TcUplink, WANTED_INSIDE);
    }
    let done = arriving::<TRACED>(skb);
    let code = match halves::second(done) {
        Some(arrival) => {
            if TRACED {
                trace_inside(skb, arrival);
            }
            brought::<TRACED>(skb, arrival)
        }
        None => done,
    };
    if TRACED {
        trace::end();
    }
    code as i32
}

/// All but what another host brought.
#[inline(never)]
fn arriving<const TRACED: bool>(skb: *mut __sk_buff) -> u64 {
    let mut skb = Skb { ctx: TcContext::new(skb) };
    let bytes = skb.ctx.len().into();
    let outcome = match skb.judged() {
        // Where a NIC takes tags off, XDP cannot see that a frame was another network's.
        Some(_) if skb.is_tagged() => Outcome::failed(),
        Some(Judged { ifindex, mac: [a, b, c, d, e, f], place, .. }) => {
            Outcome::deliver(Verdict::Delivered, ifindex, [a, b, c, d, e, f, 0, 0]).at(place.into())
        }
        None => {
            skb.pull::<true>(WANTED_INSIDE);
            let ifindex = skb.ifindex();
            match decide::arriving(&mut skb, &Maps, ifindex) {
                Ok(outcome) => outcome,
                Err(arrival) => return halves::go_on(arrival),
            }
        }
    };
    halves::done(skb.finish::<TRACED>(Hook::TcUplink, outcome, bytes) as u32)
}

/// What another host brought.
#[inline(never)]
fn brought<const TRACED: bool>(skb: *mut __sk_buff, arrival: Arrival) -> u64 {
    let mut skb = Skb { ctx: TcContext::new(skb) };
    let bytes = skb.ctx.len().into();
    let arrival = Arrival(skb.forget(arrival.0));
    let outcome = decide::brought(&mut skb, &Maps, arrival);
    halves::done(skb.finish::<TRACED>(Hook::TcUplink, outcome, bytes) as u32)
}

/// `tc_container`.
#[inline(always)]
pub(crate) fn container(ctx: TcContext) -> i32 {
    sent::<false>(ctx)
}

/// The same, told of.
#[inline(always)]
pub(crate) fn container_traced(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    trace_begin(skb, Hook::TcContainer, WANTED);
    let code = sent_apart(skb);
    trace::end();
    code as i32
}

/// A function of its own, so that its stack does not lie beside that of what tells of it.
#[inline(never)]
fn sent_apart(skb: *mut __sk_buff) -> u64 {
    halves::done(sent::<true>(TcContext::new(skb)) as u32)
}

/// What a container sent.
#[inline(always)]
fn sent<const TRACED: bool>(ctx: TcContext) -> i32 {
    let bytes = ctx.len().into();
    let mut skb = Skb { ctx };
    skb.pull::<false>(WANTED);
    let ifindex = skb.ifindex();
    let outcome = decide::container(&mut skb, &Maps, ifindex);
    skb.finish::<TRACED>(Hook::TcContainer, outcome, bytes)
}

/// Notes what a frame says before anything of it is changed.
#[inline(never)]
fn trace_begin(skb: *mut __sk_buff, hook: Hook, wanted: u32) {
    let skb = Skb { ctx: TcContext::new(skb) };
    // Where bytes are moved, XDP's note is lost.
    if skb.judged().is_none() {
        skb.pull::<true>(wanted);
    }
    trace::begin(&skb, hook, skb.ifindex(), skb.ctx.len().into());
}

/// Notes what the packet in it says.
#[inline(never)]
fn trace_inside(skb: *mut __sk_buff, arrival: Arrival) {
    let skb = Skb { ctx: TcContext::new(skb) };
    trace::inside(&skb, Arrival(skb.forget(arrival.0)));
}

struct Skb {
    ctx: TcContext,
}

/// Out by an interface, to a next hop or to the one that the routing table names.
#[inline(always)]
fn send(outcome: &Outcome) -> i64 {
    let Some(next_hop) = outcome.next_hop(&Maps) else {
        // SAFETY: no next hop is given, so the kernel looks it up; nothing is dereferenced.
        return unsafe { bpf_redirect_neigh(outcome.ifindex, core::ptr::null_mut(), 0, 0) };
    };
    let mut hop = bpf_redir_neigh {
        nh_family: AF_INET6,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next_hop.words },
    };
    // SAFETY: the helper reads what is pointed at, which is as long as it is told.
    unsafe { bpf_redirect_neigh(outcome.ifindex, &raw mut hop, size_of_val(&hop) as i32, 0) }
}

impl Skb {
    /// Carries the decision out, then counts what really happened.
    #[inline(always)]
    fn finish<const TRACED: bool>(mut self, hook: Hook, mut outcome: Outcome, bytes: u64) -> i32 {
        let code = match outcome.action {
            Action::Pass => TC_ACT_OK as i64,
            Action::PassToListener => {
                self.ctx.set_mark(LISTENER_MARK);
                TC_ACT_OK as i64
            }
            Action::PassProxied => {
                self.ctx.set_mark(PROXIED_MARK);
                TC_ACT_OK as i64
            }
            Action::Drop => TC_ACT_SHOT as i64,
            Action::Deliver => {
                let [a, b, c, d, e, f, _, _] = outcome.mac;
                if self.write(0, [a, b, c, d, e, f]).is_some() {
                    // SAFETY: a plain helper call without pointers.
                    unsafe { bpf_redirect_peer(outcome.ifindex, 0) }
                } else {
                    outcome = Outcome::failed().at(outcome.place);
                    TC_ACT_SHOT as i64
                }
            }
            Action::Send => send(&outcome),
            // The kernel takes the Ethernet header away.
            // SAFETY: a plain helper call without pointers.
            Action::SendBare => unsafe { bpf_redirect(outcome.ifindex, 0) },
            // SAFETY: a plain helper call without pointers.
            Action::Bounce => unsafe { bpf_redirect(self.ifindex(), 0) },
        };
        // Else all that follows would be verified for each verdict.
        let verdict = self.forget(outcome.verdict as u32);
        maps::count::<_, TRACED>(&self.ctx, hook, verdict, &outcome, bytes);
        code as i32
    }

    /// Makes the headers readable in one piece. Most skbs have them so, and their payload in pages:
    /// to pull some of that would copy the head and touch every page, for each packet of a stream.
    /// `INSIDE`: what hosts put around a packet may be there, too.
    #[inline(always)]
    fn pull<const INSIDE: bool>(&self, most: u32) {
        let linear = self.data_end() - self.data();
        let len = self.ctx.len();
        let wanted = if len < most { len } else { most };
        if (linear as u32) < wanted && !self.has_headers::<INSIDE>() {
            // What could not be pulled is found truncated by the parser.
            let _unread = self.ctx.skb.pull_data(wanted);
        }
    }

    /// Whether the headers of TCP or UDP can be read, and, `INSIDE`, those within Geneve.
    #[inline(always)]
    fn has_headers<const INSIDE: bool>(&self) -> bool {
        let Some(outer) = self.transport(NETWORK) else { return false };
        if !self.has_transport(outer) {
            return false;
        }
        if !INSIDE || outer.0 != UDP {
            return true;
        }
        let Some([_, _, high, low]) = self.read::<4>(outer.1) else { return false };
        if u16::from_be_bytes([high, low]) != PORT {
            return true;
        }
        let Some([options, _]) = self.read::<2>(outer.1 + 8) else { return false };
        let inside = outer.1 + 8 + HEADER + usize::from(options & 0x3f) * 4;
        self.transport(inside).is_some_and(|inner| self.has_transport(inner))
    }

    /// The protocol in an IP packet without IPv6 extension headers, and where it begins.
    #[inline(always)]
    fn transport(&self, network: usize) -> Option<(u8, usize)> {
        let [first, _] = self.read::<2>(network)?;
        match first >> 4 {
            4 => {
                let [_, protocol] = self.read::<2>(network + 8)?;
                Some((protocol, network + usize::from(first & 0xf) * 4))
            }
            6 => {
                let [protocol, _] = self.read::<2>(network + 6)?;
                Some((protocol, network + 40))
            }
            _ => None,
        }
    }

    /// Whether all of a header of TCP or UDP can be read.
    #[inline(always)]
    fn has_transport(&self, (protocol, at): (u8, usize)) -> bool {
        match protocol {
            TCP => {
                let Some([offset, _]) = self.read::<2>(at + 12) else { return false };
                self.read::<2>(at - 2 + usize::from(offset >> 4) * 4).is_some()
            }
            UDP => self.read::<8>(at).is_some(),
            _ => false,
        }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// Behind the Ethernet header.
    #[inline(always)]
    fn adjust_room(&mut self, bytes: i32, flags: u64) -> Option<()> {
        // SAFETY: the kernel passes a valid context and checks length and flags.
        let done = unsafe { bpf_skb_adjust_room(self.ctx.skb.skb, bytes, BPF_ADJ_ROOM_MAC, flags) };
        (done == 0).then_some(())
    }

    /// What `xdp_uplink` left in front of the frame.
    #[inline(always)]
    fn judged(&self) -> Option<Judged> {
        // SAFETY: the kernel passes a valid context.
        let meta = unsafe { place::field::<{ offset_of!(__sk_buff, data_meta) }, _>(self.skb()) };
        if meta + size_of::<Judged>() > self.data() {
            return None;
        }
        // SAFETY: the bytes up to the frame were just found to be there.
        let judged = Judged::from_bytes(unsafe { place::read(meta as *const _) });
        (judged.magic == Judged::MAGIC).then_some(judged)
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { place::field::<{ offset_of!(__sk_buff, data) }, _>(self.skb()) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { place::field::<{ offset_of!(__sk_buff, data_end) }, _>(self.skb()) }
    }

    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        place::of(self.data(), self.data_end(), at)
    }
}

impl Packet for Skb {
    const SENDS: bool = true;

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` found the bytes within the linear part.
        self.at::<N>(at).map(|bytes| unsafe { place::read(bytes) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as in `read`; the kernel unshares the head of a skb for a program that writes.
        self.at::<N>(at).map(|to| unsafe { place::write(to, bytes) })
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
    fn forget(&self, word: u32) -> u32 {
        place::forget(word, self.ctx.len() as usize)
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

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.ctx.len() as usize
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx.skb.skb).gso_size as usize }
    }

    #[inline(always)]
    fn make_room(&mut self, bytes: usize) -> Option<()> {
        self.adjust_room(bytes as i32, 0)
    }

    #[inline(always)]
    fn make_room_around(&mut self, v4: bool, tunnel: usize) -> Option<()> {
        let (network, family) = if v4 {
            (20, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
        } else {
            (40, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
        };
        // Segments stay as large as their sender wants them, and their checksums its own.
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | family;
        let flags = u64::from(flags) | (tunnel as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        self.adjust_room((network + 8 + tunnel) as i32, flags)
    }

    #[inline(always)]
    fn take_away(&mut self, bytes: usize, v4: bool) -> Option<()> {
        let family = if v4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 };
        self.adjust_room(-(bytes as i32), (BPF_F_ADJ_ROOM_FIXED_GSO | family).into())
    }
}
