//! Which certificate a tunnel's clients see: one of its own, or the operator's wildcard.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use prometheus::{PullingGauge, Registry};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    authority::{Authority, Leaf},
    authority_error::AuthorityError,
    operator_files::{OperatorFileError, OperatorFiles},
};

/// Where the gateway's certificates come from.
pub struct Certificates(Source);

enum Source {
    Own(Box<Authority>),
    Operator(Arc<OperatorFiles>),
}

impl Certificates {
    /// Each tunnel gets a certificate of its own from the gateway's authority.
    pub fn own(authority: Authority) -> Self {
        Self(Source::Own(Box::new(authority)))
    }

    /// All tunnels share the certificate in `certificate` (PEM, leaf first), whose private key
    /// is in `key` (PEM). Both are read again when they change on disk; what cannot be used
    /// is logged, and the last good pair stays.
    ///
    /// Must be called within a tokio runtime: a task watches the files until `self` is dropped.
    ///
    /// # Errors
    /// When the files cannot be read, do not belong together, do not cover `*.domain`, or are
    /// not valid today.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        domain: &str,
    ) -> Result<Self, OperatorFileError> {
        OperatorFiles::open(certificate, key, domain).map(|files| Self(Source::Operator(files)))
    }

    /// Whether one certificate serves several tunnels, so that browsers may send one tunnel's
    /// requests over an HTTP/2 connection to another (RFC 9113, section 9.1.1).
    pub fn shared(&self) -> bool {
        matches!(self.0, Source::Operator(_))
    }

    /// Registers when somebody has to renew a certificate: the operator's, or that of edge's own
    /// authority. Those which the authority issues renew themselves.
    ///
    /// # Errors
    /// If the registry has a metric of this name.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let expiry: Box<dyn Fn() -> f64 + Send + Sync> = match &self.0 {
            Source::Own(authority) => {
                let expiry = authority.expiry();
                Box::new(move || expiry)
            }
            Source::Operator(files) => {
                let files = Arc::downgrade(files);
                Box::new(move || files.upgrade().map_or(f64::NAN, |files| files.expiry()))
            }
        };
        registry.register(Box::new(PullingGauge::new(
            "edge_certificate_expiry_timestamp_seconds",
            "When the operator's certificate that is served expires, or that of edge's own \
             authority, in seconds since 1970",
            expiry,
        )?))
    }

    fn issue(&self, name: &str) -> Result<Leaf, AuthorityError> {
        match &self.0 {
            Source::Own(authority) => authority.certificate_for(name),
            // Always asked for anew: the files may have changed.
            Source::Operator(files) => {
                Ok(Leaf { key: files.current(), renew_at: SystemTime::UNIX_EPOCH })
            }
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Source::Own(_) => "Certificates(own authority)",
            Source::Operator(_) => "Certificates(operator's files)",
        })
    }
}

/// The certificate of one name, renewed when it is due and dropped with its tunnel.
#[derive(Debug)]
pub(super) struct NameCertificate {
    certificates: Arc<Certificates>,
    name: String,
    issued: Mutex<Option<Leaf>>,
}

impl NameCertificate {
    pub(super) fn new(certificates: Arc<Certificates>, name: String) -> Self {
        Self { certificates, name, issued: Mutex::new(None) }
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = issued.as_ref().filter(|leaf| leaf.renew_at > SystemTime::now()) {
            return Some(leaf.key.clone());
        }
        match self.certificates.issue(&self.name) {
            Ok(leaf) => *issued = Some(leaf),
            Err(error) => {
                tracing::error!(name = self.name, %error, "no new certificate for a tunnel")
            }
        }
        // One that should be renewed is still better than none.
        issued.as_ref().map(|leaf| leaf.key.clone())
    }
}

impl ResolvesServerCert for NameCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}
