//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// A one's complement sum of words. Byte order does not matter as long as all words are read
/// alike, so everything here is in native order.
///
/// The carries gather in the upper half until the end (RFC 1071, section 2 (C)): each by itself
/// would be a branch, behind which all that follows is verified twice. There is room for those of
/// 65,536 words, which no packet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Of no words.
    pub const ZERO: Self = Self(0);

    /// With a word more; a 16-bit word counts as it is.
    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// The checksum of those words.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// In 32 bits.
    #[inline(always)]
    const fn carried(self) -> u32 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        (sum >> 32) as u32 + sum as u32
    }

    /// In 16 bits: of as many carries as there is room for, three steps leave none.
    #[inline(always)]
    const fn folded(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}

/// The difference that a change of bytes makes to a checksum: the sum of the complemented old
/// words and the new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(Sum);

impl Difference {
    /// No change.
    pub const NONE: Self = Self(Sum::ZERO);

    /// The change from one 32-bit word to another.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0.word(!old).word(new))
    }

    /// The change from one 16-bit word, at an even offset, to another.
    #[inline(always)]
    pub const fn half(self, old: u16, new: u16) -> Self {
        self.word(old as u32, new as u32)
    }

    /// Both changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(Sum(self.0.0 + other.0.0))
    }

    /// The sum as the kernel's `bpf_l4_csum_replace` takes it with size 0.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0.carried()
    }

    /// A sum that a NIC is to complete, which the field holds as it is, after the change.
    #[inline(always)]
    pub const fn apply_to_partial(self, sum: u16) -> u16 {
        self.0.word(sum as u32).folded()
    }

    /// The checksum field after the change: `HC' = ~(~HC + m)` (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !self.0.word(!checksum as u32).folded()
    }
}

/// The checksum of whole bytes, in native order; an odd last byte is padded with zero.
#[cfg(any(test, feature = "user"))]
pub fn of(parts: &[&[u8]]) -> u16 {
    let mut sum = Sum::ZERO;
    for part in parts {
        for pair in part.chunks(2) {
            let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
            sum = sum.word(u16::from_ne_bytes(word).into());
        }
    }
    !sum.folded()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn updating_equals_recomputing(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64),
            word in any::<u32>(),
            half in any::<u16>(),
        ) {
            let before = of(&[&bytes]);
            let old_word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let old_half = u16::from_ne_bytes([bytes[4], bytes[5]]);
            bytes[..4].copy_from_slice(&word.to_ne_bytes());
            bytes[4..6].copy_from_slice(&half.to_ne_bytes());
            let updated = Difference::NONE.word(old_word, word).half(old_half, half).apply(before);
            // 0 and 0xffff are the same number in one's complement.
            let same = |a: u16, b: u16| a == b || (a ^ b == 0xffff && (a == 0 || b == 0));
            prop_assert!(same(updated, of(&[&bytes])), "{updated:04x} {:04x}", of(&[&bytes]));
        }
    }
}
