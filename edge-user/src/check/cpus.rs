//! Sets of processors, as the kernel writes and reads them.

use std::{collections::BTreeSet, fmt};

/// Some processors, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cpus(pub(super) BTreeSet<u32>);

impl Cpus {
    /// Those that are on; at least one.
    pub(super) fn online() -> Self {
        let list = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let cpus = list.and_then(|list| Self::from_list(list.trim()));
        cpus.unwrap_or_else(|| Self(BTreeSet::from([0])))
    }

    /// Of a list, as `0-3,8`.
    pub(super) fn from_list(list: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in list.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
        }
        Some(Self(cpus))
    }

    /// Of a mask, as `3` or `1,00000000`: words of 32 bits, the lowest last.
    pub(super) fn from_mask(mask: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (word, hex) in (0..).zip(mask.rsplit(',')) {
            let bits = u32::from_str_radix(hex, 16).ok()?;
            cpus.extend((0..32).filter(|bit| bits >> bit & 1 != 0).map(|bit| 32 * word + bit));
        }
        Some(Self(cpus))
    }

    /// As a mask.
    pub(super) fn mask(&self) -> String {
        let words = self.0.last().map_or(0, |last| last / 32);
        let word = |word| {
            let of = |cpu: &&u32| **cpu / 32 == word;
            self.0.iter().filter(of).fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32))
        };
        let mut mask = format!("{:x}", word(words));
        mask.extend((0..words).rev().map(|at| format!(",{:08x}", word(at))));
        mask
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) if first != last => {
                write!(f, "{} processors from {first} to {last}", self.count())
            }
            (Some(one), _) => write!(f, "processor {one}"),
            _ => write!(f, "no processor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_say_the_same() {
        for (list, mask) in [
            ("0-1", "3"),
            ("0,2-3", "d"),
            ("31", "80000000"),
            ("0-33", "3,ffffffff"),
            ("64", "1,00000000,00000000"),
            ("", "0"),
        ] {
            let cpus = Cpus::from_list(list).unwrap();
            assert_eq!(cpus.mask(), mask, "{list}");
            assert_eq!(Cpus::from_mask(mask), Some(cpus));
        }
        assert_eq!(Cpus::from_mask("00000000,0000000f"), Cpus::from_list("0-3"));
        assert_eq!(Cpus::from_list("x"), None);
        assert_eq!(Cpus::from_mask("g"), None);
    }
}
