//! What can be wrong with the gateway's certificate authority.

use std::{io, path::PathBuf};

/// Why the authority cannot be opened, or cannot issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The domain is not a DNS name.
    #[error("{0:?} is not a DNS name; give the gateway a domain like r5.example.com")]
    BadDomain(String),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}; edge keeps its certificate authority there, so it needs that directory for itself", path = path.display())]
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
    #[error("{path} is damaged: {why}; restore it from a backup, or remove {remove} and start again to have it made anew{note}", path = path.display(), note = if *.is_ca { " (clients must then trust the new ca.pem)" } else { "" })]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The files to remove, by name.
        remove: String,
        /// Whether the authority itself is concerned, not only a certificate of it.
        is_ca: bool,
    },
    /// The authority was made for another domain.
    #[error("{path} may sign for {found} only, not for {wanted}; remove ca.pem, ca-key.pem, wildcard.pem and wildcard-key.pem beside it and start again, or give back the old domain", path = path.display())]
    OtherDomain {
        /// The authority's certificate.
        path: PathBuf,
        /// What its name constraints permit.
        found: String,
        /// The gateway's domain.
        wanted: String,
    },
    /// The authority's life is over.
    #[error(
        "the certificate authority of {domain} expired on {date}; remove ca.pem and ca-key.pem, start again, and have clients trust the new ca.pem"
    )]
    Expired {
        /// The gateway's domain.
        domain: String,
        /// Its last day.
        date: time::Date,
    },
    /// The name lies outside the domain.
    #[error("{name} is not a name under {domain}, and this authority may sign no other")]
    ForeignName {
        /// The name asked for.
        name: String,
        /// The gateway's domain.
        domain: String,
    },
    /// The certificate library refused.
    #[error("a certificate for {name} cannot be made: {source}")]
    Sign {
        /// The name asked for.
        name: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// The TLS library does not take the new key.
    #[error("the new key of {name} cannot be used: {source}")]
    Key {
        /// The name asked for.
        name: String,
        /// What the library said.
        #[source]
        source: rustls::Error,
    },
}
