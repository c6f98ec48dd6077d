//! Answering a refused SYN, so that its sender learns at once.

use crate::{
    checksum::Sum,
    packet::{ACK, Headers, NETWORK, Packet, RST, TCP},
};

pub(crate) const TTL: u8 = 64;
const TCP_LEN: usize = 20;

/// Turns a SYN into the RST that answers it (RFC 9293, section 3.10.7.1: sequence number 0,
/// acknowledging the SYN), ready to go back where it came from. `None` if a write failed.
#[inline(always)]
pub fn reset<P: Packet>(packet: &mut P, headers: &Headers) -> Option<()> {
    let sequence = u32::from_be_bytes(packet.read::<4>(headers.transport + 4)?);
    let network_len = if headers.v4() { 20 } else { 40 };
    let destination_mac = packet.read::<6>(0)?;
    let source_mac = packet.read::<6>(6)?;
    packet.truncate(NETWORK + network_len + TCP_LEN)?;
    packet.write(0, source_mac)?;
    packet.write(6, destination_mac)?;

    let (source, destination) = (&headers.destination.words, &headers.source.words);
    let length = (TCP_LEN as u16).to_be();
    let mut sum = Sum::ZERO.word(length.into()).word(u16::from(TCP).to_be().into());
    if headers.v4() {
        let length = ((network_len + TCP_LEN) as u16).to_be_bytes();
        let words = [
            u32::from_ne_bytes([0x45, 0, length[0], length[1]]),
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([TTL, TCP, 0, 0]),
            source[3],
            destination[3],
        ];
        let check = words.into_iter().fold(Sum::ZERO, Sum::word).checksum();
        packet.write(NETWORK, words[0].to_ne_bytes())?;
        packet.write(NETWORK + 4, words[1].to_ne_bytes())?;
        packet.write(NETWORK + 8, [TTL, TCP, check[0], check[1]])?;
        packet.write(NETWORK + 12, source[3].to_ne_bytes())?;
        packet.write(NETWORK + 16, destination[3].to_ne_bytes())?;
        sum = sum.word(source[3]).word(destination[3]);
    } else {
        packet.write(NETWORK, [0x60, 0, 0, 0, 0, TCP_LEN as u8, TCP, TTL])?;
        for index in 0..4 {
            packet.write(NETWORK + 8 + 4 * index, source[index].to_ne_bytes())?;
            packet.write(NETWORK + 24 + 4 * index, destination[index].to_ne_bytes())?;
            sum = sum.word(source[index]).word(destination[index]);
        }
    }

    let from = headers.destination_port().to_be_bytes();
    let to = headers.source_port().to_be_bytes();
    let acknowledged = sequence.wrapping_add(1).to_be_bytes();
    let ports = [from[0], from[1], to[0], to[1]];
    let offset = [(TCP_LEN as u8 / 4) << 4, RST | ACK, 0, 0];
    for word in [ports, acknowledged, offset] {
        sum = sum.word(u32::from_ne_bytes(word));
    }
    let check = sum.checksum();
    let at = NETWORK + network_len;
    packet.write(at, ports)?;
    packet.write(at + 4, [0, 0, 0, 0])?;
    packet.write(at + 8, acknowledged)?;
    packet.write(at + 12, offset)?;
    packet.write(at + 16, [check[0], check[1], 0, 0])
}
