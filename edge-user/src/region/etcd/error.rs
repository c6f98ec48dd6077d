//! What can go wrong with etcd, and what to do about it.

use std::{error::Error as StdError, path::PathBuf, time::Duration};

use etcd_client::Error;
use tonic::{Code, ConnectError};

use super::Place;

/// Why etcd does not serve the region.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No answer; nothing was written.
    #[error(
        "the region's etcd {place} does not answer: {cause}; \
         check that it runs, that most of its members do, that this machine reaches it and, over \
         TLS, that it takes this gateway's certificate"
    )]
    Unreachable {
        /// Where it should be.
        place: String,
        /// The last attempt's end.
        cause: String,
    },
    /// The answer to a write was lost.
    #[error(
        "the region's etcd {place} did not say whether it wrote: {cause}; \
         it may have: read the entry before writing it again"
    )]
    Uncertain {
        /// Where it is.
        place: String,
        /// How the answer was lost.
        cause: String,
    },
    /// It does not know this gateway, or not well enough.
    #[error(
        "the region's etcd {place} does not let this gateway in: {cause}; \
         check user, password and certificate, and that the user's role may read and write \
         all keys under {prefix}"
    )]
    Denied {
        /// Where it is.
        place: String,
        /// What the role must allow.
        prefix: String,
        /// What it said.
        cause: String,
    },
    /// It said no; nothing was written.
    #[error("the region's etcd {place} refuses: {cause}; {remedy}")]
    Refused {
        /// Where it is.
        place: String,
        /// What it said.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Another version of edge wrote the region's state.
    #[error(
        "the region's state in etcd {place} has layout {found}, and this edge reads layout \
         {known}; run the version of edge that wrote it, or choose another prefix"
    )]
    Layout {
        /// Where it is.
        place: String,
        /// The layout that was found.
        found: String,
        /// The layout that this binary reads and writes.
        known: u64,
    },
    /// A file that the connection needs.
    #[error("{path}, {what} for etcd, cannot be used: {cause}; {remedy}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Options that do not go together.
    #[error("the options for etcd {place} do not go together: {cause}")]
    Options {
        /// Where it is.
        place: String,
        /// Which, and what to write instead.
        cause: &'static str,
    },
}

impl EtcdError {
    /// Whether it may be over in a while.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Uncertain { .. })
    }
}

/// How one request ended.
#[derive(Debug)]
pub(super) struct Failure {
    cause: String,
    kind: Kind,
    pub(super) fate: Fate,
    /// Set by who knows the request.
    pub(super) may_repeat: bool,
}

/// What became of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never came to etcd, or etcd turned it away at the door.
    NotSent,
    /// It may have been carried out.
    Unknown,
    /// etcd said no, and will say so again.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Silence,
    LeaseGone,
    Denied,
    Full,
    TooLarge,
    Other,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (cause, code) = match &error {
            // What it displays is the cause alone; its own text has the metadata as well.
            Error::GRpcStatus(status) => (told(status), Some(status.code())),
            other => (other.to_string(), None),
        };
        let (kind, fate) = match code {
            _ if cause.contains("lease not found") => (Kind::LeaseGone, Fate::Refused),
            _ if cause.contains("database space exceeded") => (Kind::Full, Fate::Refused),
            _ if is_too_large(&cause) => (Kind::TooLarge, Fate::Refused),
            _ if is_denial(&cause) => (Kind::Denied, Fate::Refused),
            Some(Code::PermissionDenied | Code::Unauthenticated) => (Kind::Denied, Fate::Refused),
            _ if never_connected(&error) || turned_away(&cause) => (Kind::Silence, Fate::NotSent),
            Some(
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented,
            ) => (Kind::Other, Fate::Refused),
            Some(_) => (Kind::Silence, Fate::Unknown),
            None => match error {
                Error::TransportError(_) | Error::IoError(_) | Error::WatchError(_) => {
                    (Kind::Silence, Fate::Unknown)
                }
                _ => (Kind::Other, Fate::Refused),
            },
        };
        Self { cause, kind, fate, may_repeat: false }
    }
}

impl Failure {
    /// No answer within this time.
    pub(super) fn silence(time: Duration) -> Self {
        let cause = format!("no answer within {time:?}");
        Self { cause, kind: Kind::Silence, fate: Fate::Unknown, may_repeat: false }
    }

    /// etcd ended a watch, for this reason.
    pub(super) fn cancelled(reason: &str) -> Self {
        let kind = match reason {
            // A new token comes with the next request.
            reason if reason.contains("invalid auth token") => Kind::Silence,
            reason if is_denial(reason) => Kind::Denied,
            _ => Kind::Silence,
        };
        let cause = format!("it ended the watch: {reason}");
        Self { cause, kind, fate: Fate::Unknown, may_repeat: false }
    }

    /// Whether a lease is no more.
    pub(super) fn is_lease_gone(&self) -> bool {
        self.kind == Kind::LeaseGone
    }

    /// A question failed.
    pub(super) fn asked(self, place: &Place) -> EtcdError {
        let Self { cause, kind, .. } = self;
        let (prefix, place) = (place.prefix().to_owned(), place.to_string());
        let remedy = match kind {
            Kind::Silence => return EtcdError::Unreachable { place, cause },
            Kind::Denied => return EtcdError::Denied { place, prefix, cause },
            Kind::Full => {
                "compact and defragment it, then disarm its alarm (etcdctl alarm disarm); \
                 set --auto-compaction-retention"
            }
            Kind::TooLarge => "start it with larger --max-txn-ops and --max-request-bytes",
            Kind::LeaseGone | Kind::Other => "run etcd 3.4 or later, and look into its log",
        };
        EtcdError::Refused { place, cause, remedy }
    }

    /// A write failed.
    pub(super) fn wrote(self, place: &Place) -> EtcdError {
        if self.fate == Fate::Unknown {
            return EtcdError::Uncertain { place: place.to_string(), cause: self.cause };
        }
        self.asked(place)
    }
}

/// What the server said, and below it what the connection did.
fn told(status: &tonic::Status) -> String {
    let mut deepest: &dyn StdError = status;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let message = status.message();
    let deepest = deepest.to_string();
    if status.source().is_none() || deepest.contains(message) && !message.is_empty() {
        return if message.is_empty() { status.code().to_string() } else { message.to_owned() };
    }
    format!("{message}: {deepest}")
}

fn is_too_large(cause: &str) -> bool {
    ["too many operations", "is too large", "larger than max"]
        .iter()
        .any(|said| cause.contains(said))
}

fn is_denial(cause: &str) -> bool {
    ["authentication failed", "user name is empty", "permission denied", "user name not found"]
        .iter()
        .any(|said| cause.contains(said))
}

/// Before it looks at a request.
fn turned_away(cause: &str) -> bool {
    ["etcdserver: no leader", "etcdserver: too many requests"]
        .iter()
        .any(|said| cause.contains(said))
}

fn never_connected(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
