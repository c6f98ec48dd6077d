//! Telling a sender here that its packet is refused, by ICMP (RFC 792, RFC 4443), so that nobody
//! waits for what cannot come.

use crate::{
    address::Address,
    admit::{self, SourceKey},
    checksum::{add, fold},
    decide::{Action, Outcome},
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
/// Most bytes of the refused packet that are quoted: as many as the hooks make readable in one
/// piece, and a multiple of four.
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
) -> Outcome {
    let Some([kind, code]) = message(outcome.verdict, headers.v4) else { return outcome };
    if !settings.complaints.bounds() || headers.later || is_no_request(headers) {
        return outcome;
    }
    let key = SourceKey::complaints(&headers.source);
    if !admit::takes(tables, &key, &settings.complaints, tables.now()) {
        return outcome;
    }
    match write(packet, headers, [kind, code], outcome.mtu) {
        Some(()) => Outcome { action: Action::Bounce, ..outcome },
        None => Outcome::failed(),
    }
}

/// Type and code.
#[inline(always)]
const fn message(verdict: Verdict, v4: bool) -> Option<[u8; 2]> {
    Some(match (verdict, v4) {
        (Verdict::TooBig, true) => [3, 4],
        (Verdict::NoEgress | Verdict::BetweenContainers | Verdict::NoSuchContainer, true)
        | (Verdict::NoSuchHost, true) => [3, 13],
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
    match (headers.protocol, headers.destination_port) {
        (ICMP, kind) => matches!(kind, 3..=5 | 11 | 12),
        (ICMPV6, kind) => kind < 128 || kind == 137,
        _ => false,
    }
}

/// The complaint takes the place of the packet, whose first bytes it quotes.
#[inline(never)]
fn write<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    [kind, code]: [u8; 2],
    mtu: u32,
) -> Option<()> {
    let [destination_mac, source_mac] = [packet.read::<6>(0)?, packet.read::<6>(6)?];
    let there = packet.len() - NETWORK;
    // Whole words: what is cut off is payload.
    let quoted = if there < QUOTED { there & !3 } else { QUOTED };
    let mut sum = sum_of(packet, quoted)?;
    let network = if headers.v4 { 20 } else { 40 };
    packet.truncate(NETWORK + quoted)?;
    packet.make_room(network + HEADER)?;
    packet.write(0, source_mac)?;
    packet.write(6, destination_mac)?;

    let length = (HEADER + quoted) as u16;
    if headers.v4 {
        write_v4(packet, length, &headers.source)?;
    } else {
        write_v6(packet, length, &headers.source)?;
        let (from, to) = (&ROUTER_V6.words, &headers.source.words);
        for index in 0..4 {
            sum = add(add(sum, from[index]), to[index]);
        }
        sum = add(sum, u32::from(length.to_be()));
        sum = add(sum, u32::from(u16::from(ICMPV6).to_be()));
    }
    let [_, _, high, low] = mtu.to_be_bytes();
    let start = u32::from_ne_bytes([kind, code, 0, 0]);
    let check = (!fold(add(add(sum, start), u32::from_ne_bytes([0, 0, high, low])))).to_ne_bytes();
    packet.write(NETWORK + network, [kind, code, check[0], check[1], 0, 0, high, low])
}

/// The one's complement sum of so many bytes behind the Ethernet header, in native order.
#[inline(always)]
fn sum_of<P: Packet>(packet: &P, bytes: usize) -> Option<u32> {
    let mut sum = 0;
    for at in (0..QUOTED).step_by(4) {
        if at >= bytes {
            break;
        }
        sum = add(sum, u32::from_ne_bytes(packet.read::<4>(NETWORK + at)?));
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
    let sum = words.iter().fold(0, |sum, word| add(sum, *word));
    let [first, second] = (!fold(sum)).to_ne_bytes();
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
