//! TLS between the machines of a region: version 1.3, both sides known by the region's authority.
//!
//! Two exceptions, both for a machine that joins: it shows no certificate, and it knows the
//! authority by its hash only.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::identity::{Authority, Credentials, IdentityError, RENEW_AFTER, fingerprint};

/// The listener's: asks for a machine's certificate, and takes none as well.
///
/// # Errors
/// When the TLS library does not take the authority.
pub fn listener(authority: &Arc<Authority>) -> Result<Arc<ServerConfig>, IdentityError> {
    let failed = |source| IdentityError::Tls { name: authority.region().to_owned(), source };
    let verifier = WebPkiClientVerifier::builder_with_provider(
        roots(authority.certificate()).map_err(failed)?,
        provider(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(|error| failed(rustls::Error::General(error.to_string())))?;
    let first = Arc::new(authority.listener()?);
    let shown = Mutex::new((first, Instant::now()));
    let resolver = Shown { authority: authority.clone(), shown };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A member's: shows what the machine holds at the time.
///
/// # Errors
/// When the TLS library does not take the authority.
pub fn member(
    held: Arc<Held>,
    authority: &CertificateDer<'static>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let failed = |source| IdentityError::Tls { name: "the region".to_owned(), source };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_root_certificates(roots(authority).map_err(failed)?)
        .with_client_cert_resolver(held);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would show the certificate of the first one.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// A joining machine's: trusts the authority that has this hash.
///
/// # Errors
/// When the TLS library refuses.
pub fn joining(pin: Arc<Pin>) -> Result<Arc<ClientConfig>, IdentityError> {
    let failed = |source| IdentityError::Tls { name: "the region".to_owned(), source };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(pin)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The certificate that a machine shows; replaced when it is renewed.
#[derive(Debug)]
pub struct Held(RwLock<Arc<CertifiedKey>>);

impl Held {
    /// Shows these.
    ///
    /// # Errors
    /// When the TLS library does not take the key.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, IdentityError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified(credentials)?)))))
    }

    /// Shows these from now on.
    ///
    /// # Errors
    /// When the TLS library does not take the key.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), IdentityError> {
        let new = Arc::new(certified(credentials)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The listener's certificate, made anew in time.
struct Shown {
    authority: Arc<Authority>,
    shown: Mutex<(Arc<CertifiedKey>, Instant)>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Shown").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.1.elapsed() > Duration::try_from(RENEW_AFTER).unwrap_or_default() {
            match self.authority.listener() {
                Ok(new) => *shown = (Arc::new(new), Instant::now()),
                Err(error) => tracing::error!(%error, "the listener's certificate is not renewed"),
            }
        }
        Some(shown.0.clone())
    }
}

/// Verifies a gateway by the hash of its authority.
#[derive(Debug)]
pub struct Pin {
    wanted: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
    mismatch: Mutex<bool>,
}

impl Pin {
    /// Takes the authority with this SHA-256.
    pub fn new(wanted: Vec<u8>) -> Arc<Self> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { wanted, algorithms, mismatch: Mutex::new(false) })
    }

    /// Whether a gateway had another authority.
    pub fn mismatched(&self) -> bool {
        *self.mismatch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|shown| fingerprint(shown) == self.wanted);
        let Some(authority) = pinned else {
            *self.mismatch.lock().unwrap_or_else(PoisonError::into_inner) = true;
            return Err(CertificateError::UnknownIssuer.into());
        };
        let roots = roots(&authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn certified(credentials: &Credentials) -> Result<CertifiedKey, IdentityError> {
    let key = aws_lc_rs::sign::any_ecdsa_type(&credentials.key()).map_err(|source| {
        IdentityError::Tls { name: format!("host {}", credentials.membership.host), source }
    })?;
    Ok(CertifiedKey::new(vec![credentials.certificate.clone()], key))
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
