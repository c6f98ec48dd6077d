//! A cluster: containers that begin together, know each other in one order, and end together.
//!
//! Its record is written by compare-and-swap, by whoever joins it; a member's rank is its place
//! in it. It is whole when it has as many members as were asked for: only then do programs start.
//! It is over when a member ends otherwise than well.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tonic::Code;

use super::{
    names,
    spread::{Share, SpreadError},
};

/// Most members of a cluster: their addresses are in the environment of each.
pub const MAX_SIZE: u16 = 256;

/// A cluster, under its workspace and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// `cu-` and 12 characters, unique for ever.
    pub id: String,
    /// Unique among the clusters of its workspace that are not over.
    pub name: String,
    /// The tenant.
    pub workspace: String,
    /// How many members make it whole.
    pub size: u16,
    /// Random: what the kernel tells its members from others by.
    pub mark: u64,
    /// By rank.
    pub members: Vec<ClusterMember>,
    /// Why it is over, if it is.
    #[serde(default)]
    pub over: Option<String>,
    /// Of a gang that one command spreads: which other machines start members.
    #[serde(default)]
    pub shares: Vec<Share>,
}

/// A container of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Its id.
    pub container: String,
    /// Its host's number.
    pub host: u16,
    /// Its address of the pool.
    pub ipv4: Ipv4Addr,
    /// Its private address.
    pub i6pn: Ipv6Addr,
    /// Its program has ended well: its absence harms nobody.
    #[serde(default)]
    pub finished: bool,
}

/// Why nobody joins a cluster in this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A size that no cluster has.
    #[error("a cluster of {0} members cannot be; ask for 1 to {MAX_SIZE}")]
    Size(u32),
    /// A name that cannot be part of a DNS name.
    #[error("{0:?} cannot name a cluster; use 1 to 63 characters of a-z, 0-9 and '-'")]
    Name(String),
    /// More members at once than fit.
    #[error(
        "cluster {name:?} has room for {room} more of its {size} members, not for {asked}; start fewer, or choose another name"
    )]
    Room {
        /// The cluster.
        name: String,
        /// How many may still join.
        room: usize,
        /// How many it has when it is whole.
        size: u16,
        /// How many asked.
        asked: usize,
    },
    /// Others gather in another number.
    #[error(
        "cluster {name:?} gathers {size} members, not {asked}; give the same size everywhere, or choose another name"
    )]
    OtherSize {
        /// The cluster.
        name: String,
        /// What it gathers.
        size: u16,
        /// What was asked for.
        asked: u16,
    },
    /// It has begun.
    #[error("cluster {0:?} is whole already; choose another name, or end it first")]
    Whole(String),
    /// Its members are named already.
    #[error("cluster {0:?} is started by one command, on all its machines; choose another name")]
    Spread(String),
    /// Others gather under the name of a gang that is to be started as a whole.
    #[error("cluster {0:?} gathers already, without --spread; choose another name")]
    Gathers(String),
    /// The one that was meant is over.
    #[error("cluster {0:?} is over; start it anew")]
    Over(String),
    /// Its members are not started everywhere.
    #[error("cluster {name:?}: {source}")]
    NotSpread {
        /// The cluster.
        name: String,
        /// Why.
        source: SpreadError,
    },
    /// It cannot be reached by the others.
    #[error("container {0} does not take part in the private network; start it with --i6pn")]
    NotPrivate(String),
}

impl ClusterError {
    /// As calls answer it.
    pub fn code(&self) -> Code {
        match self {
            Self::Size(_) | Self::Name(_) | Self::NotPrivate(_) => Code::InvalidArgument,
            Self::Whole(_) | Self::Spread(_) | Self::Gathers(_) => Code::AlreadyExists,
            Self::Room { .. } | Self::OtherSize { .. } | Self::Over(_) => Code::FailedPrecondition,
            Self::NotSpread { source, .. } => source.code(),
        }
    }
}

impl ClusterRecord {
    /// One that nobody has joined yet.
    ///
    /// # Errors
    /// If no cluster has this name or size.
    pub fn new(workspace: &str, name: &str, size: u16) -> Result<Self, ClusterError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=63).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(ClusterError::Name(name.to_owned()));
        }
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(ClusterError::Size(size.into()));
        }
        Ok(Self {
            id: names::id("cu"),
            name: name.to_owned(),
            workspace: workspace.to_owned(),
            size,
            mark: rand::random_range(1..=u64::MAX),
            members: Vec::new(),
            over: None,
            shares: Vec::new(),
        })
    }

    /// Lets these join, with the next ranks. The same again is the same call again; answers
    /// whether anything is new.
    ///
    /// # Errors
    /// If they do not fit. Nothing has changed then.
    pub fn admit(&mut self, size: u16, new: &[ClusterMember]) -> Result<bool, ClusterError> {
        if !new.is_empty() && new.iter().all(|one| self.rank(&one.container).is_some()) {
            return Ok(false);
        }
        if self.is_whole() {
            return Err(ClusterError::Whole(self.name.clone()));
        }
        if self.size != size {
            let (name, size, asked) = (self.name.clone(), self.size, size);
            return Err(ClusterError::OtherSize { name, size, asked });
        }
        let room = usize::from(self.size) - self.members.len();
        if new.len() > room {
            let (name, asked) = (self.name.clone(), new.len());
            return Err(ClusterError::Room { name, room, size, asked });
        }
        self.members.extend_from_slice(new);
        Ok(true)
    }

    /// A container's place in it.
    pub fn rank(&self, container: &str) -> Option<usize> {
        self.members.iter().position(|member| member.container == container)
    }

    /// Whether all have come.
    pub fn is_whole(&self) -> bool {
        self.members.len() == usize::from(self.size)
    }

    /// Whether all have come, and none has gone otherwise than well.
    pub fn is_running(&self) -> bool {
        self.is_whole() && self.over.is_none()
    }

    /// A member has ended: well, or for the reason why the cluster is over. Of several reasons
    /// the first one stays. Answers whether anything is new.
    pub fn end(&mut self, container: &str, failure: Option<&str>) -> bool {
        let Some(rank) = self.rank(container) else { return false };
        let member = &mut self.members[rank];
        if member.finished || self.over.is_some() {
            return false;
        }
        match failure {
            None => member.finished = true,
            Some(why) => {
                let ClusterMember { container, host, .. } = member;
                let text = format!("rank {rank} (container {container} on host {host}) {why}");
                self.over = Some(text);
            }
        }
        true
    }

    /// Whether all have ended well, so that there is nothing left to tell.
    pub fn is_finished(&self) -> bool {
        self.is_whole() && self.members.iter().all(|member| member.finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> Vec<ClusterMember> {
        let member = |name: &&str| ClusterMember {
            container: (*name).to_owned(),
            host: 1,
            ipv4: Ipv4Addr::new(100, 64, 0, 2),
            i6pn: Ipv6Addr::LOCALHOST,
            finished: false,
        };
        names.iter().map(member).collect()
    }

    fn gathered(names: &[&str]) -> ClusterRecord {
        let mut cluster = ClusterRecord::new("main", "train", 3).unwrap();
        assert_eq!(cluster.admit(3, &members(names)), Ok(true));
        cluster
    }

    #[test]
    fn ranks_are_given_in_the_order_of_coming_and_once() {
        let mut cluster = gathered(&["co-a", "co-b"]);
        assert!(!cluster.is_whole());
        assert_eq!(cluster.admit(3, &members(&["co-a", "co-b"])), Ok(false), "the same call");
        assert_eq!(cluster.admit(3, &members(&["co-c"])), Ok(true));
        let ranks = ["co-a", "co-b", "co-c", "co-d"].map(|name| cluster.rank(name));
        assert_eq!(ranks, [Some(0), Some(1), Some(2), None]);
        assert!(cluster.is_whole());
        let whole = cluster.admit(3, &members(&["co-d"])).unwrap_err();
        assert_eq!(whole, ClusterError::Whole("train".to_owned()));
        assert_eq!(cluster.admit(3, &members(&["co-c"])), Ok(false), "after a daemon's restart");
    }

    #[test]
    fn who_does_not_fit_is_told_why() {
        let mut cluster = gathered(&["co-a", "co-b"]);
        let before = cluster.clone();
        let crowd = cluster.admit(3, &members(&["co-c", "co-d"])).unwrap_err();
        assert!(crowd.to_string().contains("room for 1 more of its 3"), "{crowd}");
        let other = cluster.admit(4, &members(&["co-c"])).unwrap_err();
        assert!(other.to_string().contains("gathers 3 members, not 4"), "{other}");
        assert_eq!(cluster, before);
        for (name, size) in [("Train", 2), ("", 2), ("a.b", 2), ("train", 0), ("train", 257)] {
            assert!(ClusterRecord::new("main", name, size).is_err(), "{name:?} of {size}");
        }
    }

    #[test]
    fn the_first_failure_is_the_reason_and_a_good_end_is_none() {
        let mut cluster = gathered(&["co-a", "co-b", "co-c"]);
        assert!(cluster.end("co-a", None));
        assert!(!cluster.end("co-a", Some("has gone")), "it had ended well before");
        assert!(cluster.is_running());
        assert!(!cluster.end("co-x", Some("is of another cluster")));
        assert!(cluster.end("co-c", Some("ended with exit code 3")));
        assert!(!cluster.end("co-b", Some("was ended")));
        let why = "rank 2 (container co-c on host 1) ended with exit code 3";
        assert_eq!(cluster.over.as_deref(), Some(why));
        assert!(!cluster.is_running() && !cluster.is_finished());

        let mut cluster = gathered(&["co-a", "co-b", "co-c"]);
        let ended = ["co-a", "co-b", "co-c"].map(|name| cluster.end(name, None));
        assert_eq!(ended, [true; 3]);
        assert!(cluster.is_finished());
    }
}
