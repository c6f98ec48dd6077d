//! A gang that one command spreads over hosts: which machine is to start how many members.
//!
//! A machine takes part if its operator said so. Its share is in the cluster's record, for all to
//! see who starts what; what is to be started, the launch, has a key of its own, for there may be
//! secrets in it. It is given to machines that have a share, and goes when the cluster is whole.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use tonic::Code;

/// Bytes of the largest launch: etcd takes a megabyte and a half, and a record is a third longer.
pub const MAX_LAUNCH: usize = 512 * 1024;

/// Members that a machine is to start for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The machine's number.
    pub host: u16,
    /// How many.
    pub count: u16,
    /// Which daemon there has taken it on, by a number that it made up: none does so twice.
    #[serde(default)]
    pub taker: Option<u64>,
}

/// Why a gang is not spread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpreadError {
    /// There are no other machines.
    #[error(
        "this machine is a region of its own (`edge up`), and has no others to spread a gang over; leave --spread out, or make a region with `edge gateway` and `edge host`"
    )]
    Alone,
    /// None of them takes part.
    #[error(
        "no other machine of the region starts members for others; start some with --runs-members, or leave --spread out"
    )]
    Nobody,
    /// They have not room for all.
    #[error(
        "the machines that take part have room for {room} more members, and {asked} are to go there; give more of them --runs-members, or a larger --here"
    )]
    Room {
        /// How many would find room.
        room: usize,
        /// How many are to.
        asked: usize,
    },
    /// The launch is too large.
    #[error(
        "command and environment have {0} bytes, and {MAX_LAUNCH} is the most that other machines are sent; shorten them, as with `env -i`"
    )]
    Large(usize),
    /// There is no such share, or not any more.
    #[error("host {host} is to start no members of cluster {cluster} (any more)")]
    NoShare {
        /// The machine.
        host: u16,
        /// The cluster's id.
        cluster: String,
    },
    /// Another daemon of the machine took it on.
    #[error("another daemon of host {0} has taken this on already")]
    Taken(u16),
}

impl SpreadError {
    /// As calls answer it.
    pub fn code(&self) -> Code {
        match self {
            Self::Large(_) => Code::InvalidArgument,
            Self::NoShare { .. } => Code::NotFound,
            Self::Taken(_) => Code::AlreadyExists,
            Self::Alone | Self::Nobody | Self::Room { .. } => Code::FailedPrecondition,
        }
    }
}

/// Lets so many members be started by machines with this much room, as evenly as it goes; where
/// it makes no difference, by those with the most room.
///
/// # Errors
/// If they do not find room, all of them.
pub fn place(asked: u16, rooms: &BTreeMap<u16, u16>) -> Result<Vec<Share>, SpreadError> {
    if rooms.is_empty() && asked > 0 {
        return Err(SpreadError::Nobody);
    }
    let mut shares = BTreeMap::<u16, u16>::new();
    for _ in 0..asked {
        let given = |host: &u16| shares.get(host).copied().unwrap_or_default();
        let open = rooms.iter().filter(|(host, room)| given(host) < **room);
        let next = open.min_by_key(|(host, room)| (given(host), Reverse(**room), **host));
        let Some((host, _)) = next else {
            let room = rooms.values().copied().map(usize::from).sum();
            return Err(SpreadError::Room { room, asked: asked.into() });
        };
        *shares.entry(*host).or_default() += 1;
    }
    let share = |(host, count)| Share { host, count, taker: None };
    Ok(shares.into_iter().map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(asked: u16, rooms: &[(u16, u16)]) -> Result<Vec<(u16, u16)>, SpreadError> {
        let shares = place(asked, &rooms.iter().copied().collect())?;
        Ok(shares.into_iter().map(|share| (share.host, share.count)).collect())
    }

    #[test]
    fn members_are_spread_evenly_as_far_as_there_is_room() {
        assert_eq!(placed(4, &[(2, 8), (3, 8)]), Ok(vec![(2, 2), (3, 2)]));
        assert_eq!(placed(3, &[(2, 1), (3, 8)]), Ok(vec![(2, 1), (3, 2)]));
        assert_eq!(placed(1, &[(2, 1), (3, 8)]), Ok(vec![(3, 1)]), "the one with more room");
        assert_eq!(placed(2, &[(2, 0), (3, 2)]), Ok(vec![(3, 2)]));
        assert_eq!(placed(0, &[]), Ok(Vec::new()));
    }

    #[test]
    fn all_are_placed_or_none() {
        assert_eq!(placed(1, &[]), Err(SpreadError::Nobody));
        let full = Err(SpreadError::Room { room: 3, asked: 4 });
        assert_eq!(placed(4, &[(2, 1), (3, 2)]), full);
        assert_eq!(placed(1, &[(2, 0)]), Err(SpreadError::Room { room: 0, asked: 1 }));
    }
}
