//! Why a claim is refused.

use ipnet::Ipv4Net;
use tonic::{Code, Status};

use crate::{
    error::causes,
    region::{
        cluster::ClusterError, spread::SpreadError, store::StoreError, token::TokenError,
        workspaces::WorkspaceError,
    },
};

/// Why a claim is refused; nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The token lets nobody in.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// All numbers are taken.
    #[error("all 65535 host numbers of the region are taken; forget hosts that are gone for good")]
    NoHostLeft,
    /// The host has been forgotten, or joined anew with another key.
    #[error("host {0} of this key is not of the region any more; join it anew with a new token")]
    UnknownHost(u16),
    /// Somebody else's.
    #[error("{0} is not of this host; a host may change only what is its own")]
    NotYours(String),
    /// The name is taken.
    #[error(
        "container {name:?} exists already in workspace {workspace:?}, on host {host}; choose another name, or end that one"
    )]
    NameTaken {
        /// The container's name.
        name: String,
        /// The tenant.
        workspace: String,
        /// Who has it.
        host: u16,
    },
    /// Its workspace has no such proxy.
    #[error(
        "workspace {1:?} has no proxy {0:?}; make it on a gateway, with `edge proxy create`, or name another"
    )]
    NoProxy(String, String),
    /// The name cannot be part of a DNS name.
    #[error("{0:?} cannot name a container; use 1 to 63 characters of a-z, 0-9 and '-'")]
    BadName(String),
    /// An address that the host does not own.
    #[error(
        "address {address} of container {container} is not this host's: {why}; lease a block and take addresses of it"
    )]
    BadAddress {
        /// The container.
        container: String,
        /// The address.
        address: std::net::IpAddr,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another gateway lent the port at the same time.
    #[error("raw port {0} is another tunnel's; try again")]
    PortTaken(u16),
    /// No such container.
    #[error(
        "container {0} is not known to the region; it may have ended, or is yet to be made known"
    )]
    NoContainer(String),
    /// Another pool than before.
    #[error(
        "the pool {pool} does not hold block {block}, which host {host} has; keep a pool that does, or forget the host (`edge hosts forget {host}`) first"
    )]
    Outside {
        /// The new pool.
        pool: Ipv4Net,
        /// A block.
        block: Ipv4Net,
        /// Who has it.
        host: u16,
    },
    /// The pool is empty.
    #[error(
        "no block of {0} is left; end containers that are not needed, or give the region a wider pool"
    )]
    NoBlockLeft(Ipv4Net),
    /// The host has more than its share.
    #[error(
        "this host has {0} address blocks already, which is as many as one may have; return some"
    )]
    TooManyBlocks(usize),
    /// The block cannot be returned.
    #[error(
        "block {block} cannot be returned: container {container} has an address of it; end it first"
    )]
    BlockInUse {
        /// The block.
        block: Ipv4Net,
        /// Who uses it.
        container: String,
    },
    /// Nobody joins a cluster in this way.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A share of a cluster.
    #[error(transparent)]
    Share(#[from] SpreadError),
    /// The name of the workspace will not do.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ClaimError> for Status {
    fn from(error: ClaimError) -> Self {
        let code = match &error {
            ClaimError::Token(_) | ClaimError::UnknownHost(_) => Code::Unauthenticated,
            ClaimError::NoHostLeft | ClaimError::NoBlockLeft(_) | ClaimError::TooManyBlocks(_) => {
                Code::ResourceExhausted
            }
            ClaimError::NotYours(_) => Code::PermissionDenied,
            ClaimError::NameTaken { .. } => Code::AlreadyExists,
            ClaimError::BadName(_)
            | ClaimError::BadAddress { .. }
            | ClaimError::Workspace(WorkspaceError::InvalidName(_)) => Code::InvalidArgument,
            ClaimError::Cluster(error) => error.code(),
            ClaimError::Share(error) => error.code(),
            ClaimError::NoContainer(_) | ClaimError::NoProxy(..) => Code::NotFound,
            ClaimError::BlockInUse { .. } | ClaimError::Outside { .. } => Code::FailedPrecondition,
            ClaimError::PortTaken(_) | ClaimError::Store(_) | ClaimError::Workspace(_) => {
                Code::Unavailable
            }
        };
        Self::new(code, causes(&error))
    }
}
