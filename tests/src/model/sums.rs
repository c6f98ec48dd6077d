//! Checksums, computed whole by `etherparse` from what they cover.

use std::{net::IpAddr, ops::Range};

use etherparse::checksum::Sum16BitWords;

/// A checksum in a frame.
pub(super) struct Sum {
    /// Where its field stands.
    pub(super) at: usize,
    /// What it covers, itself included.
    pub(super) covers: Range<usize>,
    /// The protocol that its pseudo header names, if it has one (RFC 9293, section 3.1; RFC 8200,
    /// section 8.1). The addresses are the frame's own.
    pub(super) pseudo: Option<u8>,
}

impl Sum {
    /// Mends it in the frame afterwards: right if it was right before, else wrong by as much.
    /// Says whether it was right.
    pub(super) fn carry(&self, before: &[u8], after: &mut [u8]) -> bool {
        let (was, was_right, is_right) = (field(before, self.at), self.of(before), self.of(after));
        let new = if was == was_right {
            is_right
        } else {
            let error = u32::from(was) + 0xffff - u32::from(was_right);
            ((u32::from(is_right) + error) % 0xffff) as u16
        };
        after[self.at..self.at + 2].copy_from_slice(&new.to_be_bytes());
        was == was_right
    }

    /// What it should be.
    fn of(&self, frame: &[u8]) -> u16 {
        let mut sum = Sum16BitWords::new()
            .add_slice(&frame[self.covers.start..self.at])
            .add_slice(&frame[self.at + 2..self.covers.end]);
        if let Some(protocol) = self.pseudo {
            let addresses = if frame[12..14] == [0x08, 0x00] { 26..34 } else { 22..54 };
            sum = sum
                .add_slice(&frame[addresses])
                .add_4bytes((self.covers.len() as u32).to_be_bytes())
                .add_2bytes([0, protocol]);
        }
        sum.ones_complement().to_be()
    }
}

/// What a transport header's checksum covers: to the end of the packet, as the IP header tells
/// it, if that lies within the frame and behind `changed`; else to the end of the frame.
pub(super) fn covered(frame: &[u8], transport: usize, changed: usize) -> Range<usize> {
    let length = |at| usize::from(field(frame, at));
    let end = if frame[12..14] == [0x08, 0x00] { 14 + length(16) } else { 54 + length(18) };
    let end = if end > frame.len() || end < changed { frame.len() } else { end };
    transport..end
}

/// Whether two frames have the same number, in one's complement, at an offset.
pub(super) fn same(one: &[u8], other: &[u8], at: usize) -> bool {
    other.len() >= at + 2 && field(one, at) % 0xffff == field(other, at) % 0xffff
}

fn field(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The bytes of an address on the wire.
pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
