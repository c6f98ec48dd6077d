//! Why a namespace did not become a container, in the words that its owner reads.

use std::io;

use crate::{
    host::wiring::WiringError,
    region::{addresses::AddressError, affiliation::AffiliationError, store::StoreError},
};

/// Why a namespace did not become a container; nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else has the name.
    #[error(
        "container {0:?} exists already in workspace {1:?}; choose another name, or end that one"
    )]
    NameTaken(String, String),
    /// The namespace is a container already.
    #[error("the namespace is container {0:?} already; end that one first")]
    NamespaceTaken(String),
    /// It is the host's own.
    #[error("the namespace is the daemon's own; attach one made by `ip netns add` or a runtime")]
    OwnNamespace,
    /// The namespace cannot be opened.
    #[error("{0}: {1}; name a network namespace, as /run/netns/NAME")]
    NoNamespace(String, #[source] io::Error),
    /// Its workspace has no such proxy.
    #[error(
        "workspace {1:?} has no proxy {0:?}; make it with `edge proxy create`, or name another: `edge proxy list`"
    )]
    NoProxy(String, String),
    /// The region does not take it: its name or that of its workspace will not do.
    #[error(transparent)]
    Region(#[from] AffiliationError),
    /// No address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No wire.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// It cannot be recorded.
    #[error(transparent)]
    Record(#[from] StoreError),
}
