//! Why a client is not served, in one enum: metric label, alert, and the words of log and
//! listing.

use std::net::IpAddr;

use crate::{
    places::Crowd,
    region::bounds::{Rate, Source},
};

/// Why a client is not served although its tunnel lives, or before its tunnel is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    /// Not on the tunnel's list.
    #[error("{0} is not on the tunnel's list; add its network to --allow")]
    NotAllowed(IpAddr),
    /// New connections of one source come too fast.
    #[error(
        "{0} opens more than {1} connections a second; raise --new-connections-per-source, or reuse connections"
    )]
    SourceRate(Source, Rate),
    /// New connections of the whole tunnel come too fast.
    #[error("the tunnel is opened more than {0} times a second; raise --new-connections")]
    TunnelRate(Rate),
    /// One source has too many connections.
    #[error(
        "{0} has {1} connections, all that one source may have; raise --max-connections-per-source"
    )]
    SourceConnections(Source, u32),
    /// The tunnel has too many connections.
    #[error("the tunnel has {0} connections, all that it may have; raise --max-connections")]
    Connections(u32),
    /// Newer clients of the same source took its place before it had finished its handshake.
    #[error("its source began too many handshakes after this one")]
    SourceHandshakes,
    /// Newer clients took its place before it had finished its handshake.
    #[error("too many handshakes were begun after this one; raise --unfinished-handshakes")]
    Handshakes,
    /// All connections that the limit on open files leaves room for are in use.
    #[error("{0} connections are open, all there is room for; raise the limit on open files")]
    OpenFiles(usize),
}

impl Denial {
    /// All metric labels.
    pub(super) const LABELS: [&str; 8] = [
        "not_allowed",
        "source_rate",
        "tunnel_rate",
        "source_connections",
        "connections",
        "source_handshakes",
        "handshakes",
        "open_files",
    ];

    /// The metric label.
    pub(super) fn label(&self) -> &'static str {
        Self::LABELS[match self {
            Self::NotAllowed(_) => 0,
            Self::SourceRate(..) => 1,
            Self::TunnelRate(_) => 2,
            Self::SourceConnections(..) => 3,
            Self::Connections(_) => 4,
            Self::SourceHandshakes => 5,
            Self::Handshakes => 6,
            Self::OpenFiles(_) => 7,
        }]
    }

    /// The description of the fatal alert that a TLS client gets (RFC 8446, section 6.2):
    /// `access_denied` tells it not to come again, `internal_error` that it is none of its
    /// own doing. A reset would look like a broken network, which clients retry at once.
    pub(super) fn alert(&self) -> u8 {
        const ACCESS_DENIED: u8 = 49;
        const INTERNAL_ERROR: u8 = 80;
        match self {
            Self::NotAllowed(_) => ACCESS_DENIED,
            _ => INTERNAL_ERROR,
        }
    }
}

impl From<Crowd> for Denial {
    fn from(crowd: Crowd) -> Self {
        match crowd {
            Crowd::All => Self::Handshakes,
            Crowd::Each => Self::SourceHandshakes,
        }
    }
}
