//! HTTP/2 frames as bytes (RFC 9113, section 4): heads, boundaries, and the farewell.

use bytes::{BufMut, BytesMut};

/// Length of a frame's head.
pub(super) const HEAD: usize = 9;
/// What a client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const HEADERS: u8 = 0x1;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// A frame's first nine bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Payload bytes that follow.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Stream identifier without the reserved bit.
    pub(super) stream: u32,
}

/// Collects a head that may arrive byte by byte.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    bytes: [u8; HEAD],
    filled: usize,
}

/// Follows the boundaries between the frames of a byte stream without keeping any of it.
#[derive(Debug, Default)]
pub(super) struct Boundaries {
    head: HeadReader,
    left: usize,
    begun: bool,
}

impl Head {
    fn parse(bytes: &[u8; HEAD]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_uint(self.length as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }
}

impl HeadReader {
    /// Takes bytes off the front of `input`; the head and its bytes once it is whole.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Option<(Head, [u8; HEAD])> {
        let amount = input.len().min(HEAD - self.filled);
        let (taken, rest) = input.split_at(amount);
        self.bytes[self.filled..self.filled + amount].copy_from_slice(taken);
        self.filled += amount;
        *input = rest;
        if self.filled < HEAD {
            return None;
        }
        self.filled = 0;
        Some((Head::parse(&self.bytes), self.bytes))
    }

    fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

impl Boundaries {
    /// Notes that `bytes` were sent.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        while !bytes.is_empty() {
            if self.left == 0 {
                self.left = self.head.read(&mut bytes).map_or(0, |(head, _)| head.length);
            } else {
                let amount = bytes.len().min(self.left);
                self.left -= amount;
                bytes = &bytes[amount..];
            }
        }
    }

    /// Whether a frame has just ended, or none has begun.
    pub(super) fn between_frames(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }

    /// How many of `bytes`, which come next, may be sent without touching the next frame.
    pub(super) fn to_boundary(&self, bytes: &[u8]) -> usize {
        let wanted = match (self.between_frames(), self.left) {
            (true, _) => 0,
            (false, 0) => HEAD - self.head.filled,
            (false, left) => left,
        };
        wanted.min(bytes.len())
    }

    /// Whether anything was sent at all.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }
}

/// A GOAWAY frame (RFC 9113, section 6.8), after the SETTINGS frame that must come first if
/// `first` says that nothing was sent yet.
pub(super) fn goaway(first: bool, last_stream: u32, code: u32, why: &str) -> BytesMut {
    let mut out = BytesMut::new();
    if first {
        Head { length: 0, kind: SETTINGS, flags: 0, stream: 0 }.write(&mut out);
    }
    Head { length: 8 + why.len(), kind: GOAWAY, flags: 0, stream: 0 }.write(&mut out);
    out.put_u32(last_stream);
    out.put_u32(code);
    out.put_slice(why.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        Head { length, kind: 0, flags: 0, stream: 1 }.write(&mut out);
        out.resize(HEAD + length, 0xff);
        out.to_vec()
    }

    proptest! {
        #[test]
        fn boundaries_are_found_wherever_the_stream_is_cut(
            lengths in prop::collection::vec(0_usize..300, 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<_> = lengths.iter().map(|length| frame(*length)).collect();
            let stream = frames.concat();
            let ends: Vec<_> = frames.iter().scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            }).collect();
            let cut = cut.index(stream.len() + 1);
            let mut boundaries = Boundaries::default();
            boundaries.sent(&stream[..cut]);
            prop_assert_eq!(boundaries.between_frames(), cut == 0 || ends.contains(&cut));
            let mut at = cut;
            while !boundaries.between_frames() {
                let amount = boundaries.to_boundary(&stream[at..]);
                prop_assert!(amount > 0);
                boundaries.sent(&stream[at..at + amount]);
                at += amount;
            }
            prop_assert_eq!(at, ends.into_iter().find(|end| *end >= cut).filter(|_| cut > 0).unwrap_or(0));
        }
    }
}
