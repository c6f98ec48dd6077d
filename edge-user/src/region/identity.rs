//! Who is who among the machines of a region.
//!
//! The region has an authority of its own, apart from the one for tunnels' names. A machine's
//! certificate says what it may be and its number, as a URI: `edge://r5/host/7`. Certificates
//! live for days; a machine renews its own over the connection that the old one authenticates.

mod authority;
mod files;
mod peer;

pub(super) use self::authority::fingerprint;
pub use self::{
    authority::{Authority, GATEWAY_NAME, RENEW_AFTER},
    files::{Credentials, Membership},
    peer::{Peer, public_key_hash},
};

use std::{io, path::PathBuf};

/// What is wrong with a key, a certificate or a file of either.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The region's name cannot be part of a certificate.
    #[error("{0:?} cannot name a region; use 1 to 63 characters of a-z, 0-9 and '-'")]
    BadRegion(String),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}; edge keeps the region's keys there, so it needs that directory for itself", path = path.display())]
    File {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: {why}; restore it from a backup, or {remedy}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What else helps.
        remedy: &'static str,
    },
    /// The authority is another region's.
    #[error("{path} is the authority of region {found}, not of {wanted}; give back the old name, or another state directory", path = path.display())]
    OtherRegion {
        /// The authority's certificate.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// The region asked for.
        wanted: String,
    },
    /// The certificate library refused.
    #[error("a certificate for {name} cannot be made: {source}")]
    Sign {
        /// Whose.
        name: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// The TLS library does not take a key or a certificate.
    #[error("TLS cannot use the certificate of {name}: {source}")]
    Tls {
        /// Whose.
        name: String,
        /// What the library said.
        #[source]
        source: rustls::Error,
    },
    /// A request to sign is none.
    #[error(
        "the machine's signing request cannot be used: {0}; run the same version of edge on both sides"
    )]
    Request(#[source] rcgen::Error),
}
