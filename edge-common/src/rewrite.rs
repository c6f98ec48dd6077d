//! Changing an endpoint in a packet, with every checksum that covers it.

use crate::{
    address::{Address, Endpoint},
    checksum::Difference,
    packet::{Headers, NETWORK, Packet},
};

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender: a reply leaves under the public address.
    Source,
    /// The receiver: a client's packet goes to the container.
    Destination,
}

const IPV4_CHECKSUM: usize = NETWORK + 10;
const TCP_CHECKSUM: usize = 16;

/// Rewrites one end of a TCP packet without fragments or IPv4 options. `None` if a write failed.
#[inline(always)]
pub fn tcp<P: Packet>(packet: &mut P, headers: &Headers, end: End, new: &Endpoint) -> Option<()> {
    let (old, old_port, port_at) = match end {
        End::Source => (&headers.source, headers.source_port(), headers.transport),
        End::Destination => {
            (&headers.destination, headers.destination_port(), headers.transport + 2)
        }
    };
    let checksum = headers.transport + TCP_CHECKSUM;
    let addresses = address(packet, headers.v4(), end, old, &new.address)?;
    let port = new.port as u16;
    packet.write(port_at, port.to_be_bytes())?;
    let ports = Difference::NONE.half(old_port.to_be(), port.to_be());
    packet.fix_checksum_of_both(checksum, addresses, ports, !headers.v4())
}

/// Rewrites the address at one end of the outer IP header, mends the IPv4 header's own checksum
/// and returns the difference for whatever pseudo header covers the address.
#[inline(always)]
pub fn address<P: Packet>(
    packet: &mut P,
    v4: bool,
    end: End,
    old: &Address,
    new: &Address,
) -> Option<Difference> {
    if v4 {
        let difference = Difference::NONE.word(old.words[3], new.words[3]);
        let at = NETWORK + if matches!(end, End::Source) { 12 } else { 16 };
        packet.write(at, new.words[3].to_ne_bytes())?;
        let checksum = u16::from_ne_bytes(packet.read::<2>(IPV4_CHECKSUM)?);
        packet.write(IPV4_CHECKSUM, difference.apply(checksum).to_ne_bytes())?;
        return Some(difference);
    }
    let at = NETWORK + if matches!(end, End::Source) { 8 } else { 24 };
    write_v6(packet, at, old, new)
}

/// Writes an IPv6 address and returns the difference.
#[inline(always)]
pub fn write_v6<P: Packet>(
    packet: &mut P,
    at: usize,
    old: &Address,
    new: &Address,
) -> Option<Difference> {
    packet.write(at, new.words[0].to_ne_bytes())?;
    packet.write(at + 4, new.words[1].to_ne_bytes())?;
    packet.write(at + 8, new.words[2].to_ne_bytes())?;
    packet.write(at + 12, new.words[3].to_ne_bytes())?;
    Some(
        Difference::NONE
            .word(old.words[0], new.words[0])
            .word(old.words[1], new.words[1])
            .word(old.words[2], new.words[2])
            .word(old.words[3], new.words[3]),
    )
}

/// The TCP option that carries the largest segment (RFC 9293, section 3.2).
const MSS: u8 = 2;
/// Options that are looked at: every stack sends the MSS first or after padding.
const MAX_OPTIONS: usize = 8;

/// Lowers the MSS of a SYN to `limit` bytes; a SYN without the option is left as it is, since
/// its sender then takes 536 (RFC 9293, section 3.7.1). Like a receiving stack, it looks no
/// further than an option that cannot be. `None` if a read or write failed.
#[inline(always)]
pub fn clamp_mss<P: Packet>(packet: &mut P, headers: &Headers, limit: u32) -> Option<()> {
    let [words, _] = packet.read::<2>(headers.transport + 12)?;
    let end = headers.transport + usize::from(words >> 4) * 4;
    let mut at = headers.transport + 20;
    for _ in 0..MAX_OPTIONS {
        if at + 4 > end {
            break;
        }
        let [kind, length] = packet.read::<2>(at)?;
        let step = match (kind, length) {
            (0, _) => break,
            (1, _) => 1,
            (MSS, 4) => return lower(packet, headers, at, limit),
            (_, 0 | 1) => break,
            _ => length,
        };
        // Else the next option would be verified for each way to it.
        at = packet.forget(at as u32 + u32::from(step)) as usize;
    }
    Some(())
}

#[inline(always)]
fn lower<P: Packet>(packet: &mut P, headers: &Headers, at: usize, limit: u32) -> Option<()> {
    let old = u16::from_be_bytes(packet.read::<2>(at + 2)?);
    if u32::from(old) <= limit {
        return Some(());
    }
    let new = limit as u16;
    packet.write(at + 2, new.to_be_bytes())?;
    // At an odd offset the halves of the sum are swapped (RFC 1071, section 2 (B)).
    let odd = (at - headers.transport) % 2 == 1;
    let (from, to) = if odd {
        (old.to_be().swap_bytes(), new.to_be().swap_bytes())
    } else {
        (old.to_be(), new.to_be())
    };
    let difference = Difference::NONE.half(from, to);
    packet.fix_checksum(headers.transport + TCP_CHECKSUM, difference, false, !headers.v4())
}
