//! Telling a sender here that its packet is refused, by ICMP (RFC 792, RFC 4443), so that nobody
//! waits for what cannot come.

use crate::{
    address::Address,
    admit::{self, SourceKey},
    checksum::Sum,
    decide::{Action, Outcome, current},
    packet::{Headers, ICMP, ICMPV6, NETWORK, Packet},
    refuse::TTL,
    tables::{Settings, Tables},
    verdict::Verdict,
};

/// Who complains: every container's router.
const ROUTER: Address = Address::v4([169, 254, 1, 1]);
/// See [`ROUTER`]: fe80::1.
const ROUTER_V6: Address =
    Address::v6([u32::from_ne_bytes([0xfe, 0x80, 0, 0]), 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);
/// Most bytes of the refused packet that are quoted: enough for its headers, and a multiple of four.
pub(crate) const QUOTED: usize = 120;
const HEADER: usize = 8;

/// Turns a refused packet into the complaint about it, if its sender is to be told; at a bounded
/// rate for each.
#[inline(always)]
pub(crate) fn about<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    outcome: Outcome,
    mtu: u32,
) -> Outcome {
    let Some([kind, code]) = message(outcome.verdict, headers.v4()) else { return outcome };
    if !settings.complaints.bounds() || headers.later() || is_no_request(headers) {
        return outcome;
    }
    let message = Message::new(kind, code, headers.v4(), mtu).forgotten(packet);
    match tell(packet, tables, &headers.source, message) {
        Told::Yes => Outcome { action: Action::Bounce, ..outcome },
        Told::No => outcome,
        Told::Failed => Outcome::failed(),
    }
}

/// Whether a sender was told.
#[repr(u32)]
enum Told {
    Yes,
    /// It hears too much already.
    No,
    Failed,
}

/// A function of its own in the kernel, which is verified once for all refusals.
#[inline(never)]
fn tell<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    sender: &Address,
    message: Message,
) -> Told {
    let Some(settings) = current(tables) else { return Told::No };
    let key = SourceKey::complaints(sender);
    if !admit::takes(tables, &key, &settings.complaints, tables.now()) {
        return Told::No;
    }
    if write(packet, sender, message).is_some() { Told::Yes } else { Told::Failed }
}

/// Type and code.
#[inline(always)]
const fn message(verdict: Verdict, v4: bool) -> Option<[u8; 2]> {
    Some(match (verdict, v4) {
        (Verdict::TooBig, true) => [3, 4],
        (Verdict::NoEgress | Verdict::BetweenContainers | Verdict::NoSuchContainer, true)
        | (Verdict::NoSuchHost | Verdict::ProxyAway, true) => [3, 13],
        (Verdict::TooBig, false) => [2, 0],
        (Verdict::NoSuchHost, false) => [1, 0],
        (Verdict::NoSuchContainer, false) => [1, 3],
        (
            Verdict::OtherWorkspace
            | Verdict::NoI6pn
            | Verdict::OtherRegion
            | Verdict::NoIpv6Egress
            | Verdict::NoEgress,
            false,
        ) => [1, 1],
        _ => return None,
    })
}

/// An ICMP message that is not to be answered by another: errors, and redirects (RFC 1122,
/// section 3.2.2; RFC 4443, section 2.4 (e)).
#[inline(always)]
const fn is_no_request(headers: &Headers) -> bool {
    match (headers.protocol(), headers.destination_port()) {
        (ICMP, kind) => matches!(kind, 3..=5 | 11 | 12),
        (ICMPV6, kind) => kind < 128 || kind == 137,
        _ => false,
    }
}

/// What is said, in one word.
#[derive(Clone, Copy)]
struct Message(u32);

impl Message {
    const V4: u32 = 1 << 31;

    /// Codes have five bits at most, MTUs sixteen.
    #[inline(always)]
    const fn new(kind: u8, code: u8, v4: bool, mtu: u32) -> Self {
        let family = if v4 { Self::V4 } else { 0 };
        Self(family | (kind as u32) << 24 | (code as u32) << 16 | mtu & 0xffff)
    }

    #[inline(always)]
    const fn v4(self) -> bool {
        self.0 & Self::V4 != 0
    }

    /// The ICMP header, with a checksum still to be filled in.
    #[inline(always)]
    const fn header(self) -> [u8; 8] {
        let [kind, code, high, low] = self.0.to_be_bytes();
        [kind & 0x7f, code, 0, 0, 0, 0, high, low]
    }

    /// See [`Packet::forget`].
    #[inline(always)]
    fn forgotten<P: Packet>(self, packet: &P) -> Self {
        Self(packet.forget(self.0))
    }
}

/// The complaint takes the place of the packet, whose first bytes it quotes.
#[inline(always)]
fn write<P: Packet>(packet: &mut P, sender: &Address, message: Message) -> Option<()> {
    let [destination_mac, source_mac] = [packet.read::<6>(0)?, packet.read::<6>(6)?];
    let there = packet.frame_len() - NETWORK;
    // Whole words: what is cut off is payload.
    let quoted = if there < QUOTED { there & !3 } else { QUOTED };
    let quoted = (packet.forget(quoted as u32) & 0x7f) as usize;
    // Cut, a frame is in one piece: before, only its headers need to be.
    packet.truncate(NETWORK + quoted)?;
    let mut sum = sum_of(packet, quoted)?;
    let network = if message.v4() { 20 } else { 40 };
    packet.make_room(network + HEADER)?;
    packet.write(0, source_mac)?;
    packet.write(6, destination_mac)?;

    let length = (HEADER + quoted) as u16;
    if message.v4() {
        write_v4(packet, length, sender)?;
    } else {
        write_v6(packet, length, sender)?;
        let (from, to) = (&ROUTER_V6.words, &sender.words);
        for index in 0..4 {
            sum = sum.word(from[index]).word(to[index]);
        }
        sum = sum.word(length.to_be().into()).word(u16::from(ICMPV6).to_be().into());
    }
    let header = message.header();
    let [a, b, _, _, c, d, e, f] = header;
    let sum = sum.word(u32::from_ne_bytes([a, b, 0, 0])).word(u32::from_ne_bytes([c, d, e, f]));
    let check = sum.checksum();
    packet.write(NETWORK + network, [a, b, check[0], check[1], c, d, e, f])
}

/// The sum of so many bytes behind the Ethernet header.
#[inline(always)]
fn sum_of<P: Packet>(packet: &P, bytes: usize) -> Option<Sum> {
    let mut sum = Sum::ZERO;
    for at in (0..QUOTED).step_by(4) {
        if at >= bytes {
            break;
        }
        sum = sum.word(u32::from_ne_bytes(packet.read::<4>(NETWORK + at)?));
    }
    Some(sum)
}

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, length: u16, to: &Address) -> Option<()> {
    let [high, low] = (20 + length).to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, 0, high, low]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([TTL, ICMP, 0, 0]),
        ROUTER.last(),
        to.last(),
    ];
    let [first, second] = words.into_iter().fold(Sum::ZERO, Sum::word).checksum();
    packet.write(NETWORK, [0x45, 0, high, low, 0, 0, 0x40, 0])?;
    packet.write(NETWORK + 8, [TTL, ICMP, first, second])?;
    packet.write(NETWORK + 12, ROUTER.last().to_ne_bytes())?;
    packet.write(NETWORK + 16, to.last().to_ne_bytes())
}

#[inline(always)]
fn write_v6<P: Packet>(packet: &mut P, length: u16, to: &Address) -> Option<()> {
    let [high, low] = length.to_be_bytes();
    packet.write(NETWORK, [0x60, 0, 0, 0, high, low, ICMPV6, TTL])?;
    for index in 0..4 {
        packet.write(NETWORK + 8 + 4 * index, ROUTER_V6.words[index].to_ne_bytes())?;
        packet.write(NETWORK + 24 + 4 * index, to.words[index].to_ne_bytes())?;
    }
    Some(())
}
