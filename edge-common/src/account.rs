//! Whose packets a decision counts, and how they travelled: the place in the counters' table.
//!
//! Rows hold an account, which is the first of [`Lane::COUNT`] places; an outcome holds the place.
//! A packet is its sender's if that is a container here, else its receiver's, be that a container
//! or the one behind a tunnel.

use crate::{
    tables::{Count, Settings},
    verdict::{Hook, Verdict},
};

/// Most accounts of a machine: [`NOBODY`], [`SHARED`] and the workspaces'. Each takes 9 KiB of every
/// CPU, used or not.
pub const MAX_ACCOUNTS: u32 = 64;
/// How many rows the counters' table has: one for each place and hook; see [`row`].
pub const MAX_ROWS: u32 = MAX_ACCOUNTS * Lane::COUNT * Hook::COUNT;
/// The account of packets of which no row says whose they are.
pub const NOBODY: u32 = 0;
/// The account of the workspaces for which none was left.
pub const SHARED: u32 = Lane::COUNT;

/// A row of the counters' table: by verdict. As long as a mask, so that no index is outside.
pub type Counts = [Count; 64];

const _: () = assert!(Verdict::COUNT as usize <= size_of::<Counts>() / size_of::<Count>());

/// Where a hook's row of a place stands in the counters' table.
#[inline(always)]
pub const fn row(place: u32, hook: Hook) -> u32 {
    place * Hook::COUNT + hook as u32
}

/// How a packet travels between the region's machines.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Not at all: what another machine of the region has no part in.
    Local = 0,
    /// As it is.
    Direct = Settings::DIRECT,
    /// In Geneve.
    Encapsulated = Settings::GENEVE,
}

impl Lane {
    /// All lanes, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Local, Self::Direct, Self::Encapsulated];

    /// How many there are.
    pub const COUNT: u32 = 3;

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Direct => "direct",
            Self::Encapsulated => "encapsulated",
        }
    }

    /// How this region's packets go to other machines.
    #[inline(always)]
    pub(crate) const fn between(settings: &Settings) -> Self {
        if settings.carriage == Settings::DIRECT { Self::Direct } else { Self::Encapsulated }
    }

    /// The place of an account's packets that travel so.
    #[inline(always)]
    pub const fn of(self, account: u32) -> u32 {
        account + self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_dense_and_each_account_has_its_own_places() {
        assert_eq!(Lane::ALL.len(), Lane::COUNT as usize);
        for (number, lane) in (0..).zip(Lane::ALL) {
            assert_eq!(lane.of(NOBODY), number);
            assert_eq!(lane.of(SHARED), Lane::COUNT + number);
        }
    }
}
