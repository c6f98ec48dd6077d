//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The difference that a change of bytes makes to a checksum: a one's complement sum of the
/// complemented old words and the new ones. Byte order does not matter as long as all words are
/// read alike, so everything here is in native order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(u32);

impl Difference {
    /// No change.
    pub const NONE: Self = Self(0);

    /// The change from one 32-bit word to another.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(add(add(self.0, !old), new))
    }

    /// The change from one 16-bit word, at an even offset, to another.
    #[inline(always)]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(add(add(self.0, !(old as u32)), new as u32))
    }

    /// Both changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The sum as the kernel's `bpf_l4_csum_replace` takes it with size 0.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// A sum that a NIC is to complete, which the field holds as it is, after the change.
    #[inline(always)]
    pub const fn apply_to_partial(self, sum: u16) -> u16 {
        fold(add(sum as u32, self.0))
    }

    /// The checksum field after the change: `HC' = ~(~HC + m)` (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(add(!checksum as u32, self.0))
    }
}

/// 32-bit one's complement addition.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a.wrapping_add(b);
    sum.wrapping_add((sum < a) as u32)
}

/// Folds a 32-bit one's complement sum into 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The checksum of whole bytes, in native order; an odd last byte is padded with zero.
#[cfg(any(test, feature = "user"))]
pub fn of(parts: &[&[u8]]) -> u16 {
    let mut sum = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
            sum = add(sum, u16::from_ne_bytes(word).into());
        }
    }
    !fold(sum)
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
