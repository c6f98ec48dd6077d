//! The gateway's own certificate authority, for regions whose operator brings no certificate.
//!
//! Made at first start and kept in four files. Its certificate carries X.509 name constraints
//! (RFC 5280, section 4.2.1.10) that permit nothing but the gateway's domain, so whoever trusts
//! it trusts it for tunnels and for nothing else, even if its key is stolen.

use std::{fs, io, path::Path, sync::Arc, time::SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate};

use super::authority_error::AuthorityError;
use crate::{region::common::Pair, whole_files};

/// Where a daemon keeps it, within its state's directory.
pub const DIRECTORY: &str = "ca";

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
const WILDCARD_FILE: &str = "wildcard.pem";
const WILDCARD_KEY_FILE: &str = "wildcard-key.pem";

const CA_LIFETIME: Duration = Duration::days(3650);
/// No client takes a longer one (CA/Browser Forum baseline requirements, section 6.3.2).
const WILDCARD_LIFETIME: Duration = Duration::days(397);
/// Tunnels' certificates live in memory; nobody has to carry them anywhere.
const TUNNEL_LIFETIME: Duration = Duration::days(90);
/// Clients' clocks may be late by this much.
const BACKDATE: Duration = Duration::hours(1);

/// A certificate authority for one domain.
pub struct Authority {
    domain: String,
    issuer: Issuer<'static, KeyPair>,
    expires: OffsetDateTime,
    ca_pem: String,
}

/// A certificate for one name, with its key.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// What rustls serves.
    pub key: Arc<CertifiedKey>,
    /// From then on a new one should be issued: two thirds of its life are over.
    pub renew_at: SystemTime,
}

impl Authority {
    /// Opens the authority kept in `dir`, or makes one for `domain` if there is none.
    ///
    /// Also sees to it that `dir` holds a certificate for `*.domain` of at least 30 more days,
    /// for whoever wants to serve the domain with other software.
    ///
    /// # Errors
    /// When a file cannot be read or written, is damaged, or belongs to another domain.
    pub fn open_or_create(dir: &Path, domain: &str) -> Result<Self, AuthorityError> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        if DnsName::try_from(domain.as_str()).is_err() {
            return Err(AuthorityError::BadDomain(domain));
        }
        let ca_path = dir.join(CA_FILE);
        fs::create_dir_all(dir).map_err(|source| file("write", dir, source))?;
        // The key is written first: a key without a certificate never signed anything.
        let authority = match read(&ca_path)? {
            Some(ca_pem) => Self::open(dir, domain, ca_pem)?,
            None => Self::create(dir, domain)?,
        };
        authority.keep_wildcard(dir)?;
        Ok(authority)
    }

    /// Where the one kept in `dir` is.
    pub fn pair(dir: &Path) -> Pair {
        let [certificate, key] = [CA_FILE, CA_KEY_FILE].map(|name| dir.join(name));
        Pair { name: "authority/tunnels", certificate, key }
    }

    /// Issues a certificate for one name of the domain, with a key of its own.
    ///
    /// # Errors
    /// When the name lies outside the domain, or the authority has expired.
    pub fn certificate_for(&self, name: &str) -> Result<Leaf, AuthorityError> {
        let (certificate, key, expires) = self.sign(name, TUNNEL_LIFETIME)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing_key = any_ecdsa_type(&der)
            .map_err(|source| AuthorityError::Key { name: name.to_owned(), source })?;
        let now = OffsetDateTime::now_utc();
        Ok(Leaf {
            key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing_key)),
            renew_at: SystemTime::from(now + (expires - now) / 3 * 2),
        })
    }

    /// The domain it may sign for, in lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// When it expires, in seconds since 1970.
    pub(super) fn expiry(&self) -> f64 {
        // Seconds of any date fit.
        self.expires.unix_timestamp() as f64
    }

    /// The authority's certificate in PEM: what clients have to trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    fn create(dir: &Path, domain: String) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Sign { name: domain.clone(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let params = ca_params(&domain);
        let certificate = params.self_signed(&key).map_err(failed)?;
        let ca_pem = certificate.pem();
        write(&dir.join(CA_KEY_FILE), &key.serialize_pem(), whole_files::PRIVATE)?;
        write(&dir.join(CA_FILE), &ca_pem, whole_files::PUBLIC)?;
        tracing::info!(%domain, ca = %dir.join(CA_FILE).display(), "made a certificate authority; clients have to trust its certificate");
        let expires = params.not_after;
        Ok(Self { domain, issuer: Issuer::new(params, key), expires, ca_pem })
    }

    fn open(dir: &Path, domain: String, ca_pem: String) -> Result<Self, AuthorityError> {
        let path = dir.join(CA_FILE);
        let key_path = dir.join(CA_KEY_FILE);
        let key_pem = read(&key_path)?
            .ok_or_else(|| damaged_ca(&key_path, "it is missing, but ca.pem is there"))?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| damaged_ca(&key_path, format!("no private key in PEM ({error})")))?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|error| damaged_ca(&path, format!("no certificate in PEM ({error})")))?;
        let (_, certificate) = parse_x509_certificate(&der)
            .map_err(|error| damaged_ca(&path, format!("no X.509 certificate ({error})")))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(damaged_ca(&path, "ca-key.pem beside it is not its key"));
        }
        let found = permitted(&certificate);
        if found != domain {
            return Err(AuthorityError::OtherDomain { path, found, wanted: domain });
        }
        let expires = certificate.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| damaged_ca(&path, format!("it cannot issue ({error})")))?;
        let authority = Self { domain, issuer, expires, ca_pem };
        authority.living()?;
        Ok(authority)
    }

    /// Makes the wildcard certificate if it is absent, near its end or of an older authority.
    fn keep_wildcard(&self, dir: &Path) -> Result<(), AuthorityError> {
        let path = dir.join(WILDCARD_FILE);
        if dir.join(WILDCARD_KEY_FILE).exists()
            && let Some(pem) = read(&path)?
        {
            let damaged = |why: String| AuthorityError::Damaged {
                path: path.clone(),
                why,
                remove: format!("{WILDCARD_FILE} and {WILDCARD_KEY_FILE}"),
                is_ca: false,
            };
            let der = CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| damaged(format!("no certificate in PEM ({error})")))?;
            let (_, certificate) = parse_x509_certificate(&der)
                .map_err(|error| damaged(format!("no X.509 certificate ({error})")))?;
            let left = certificate.validity().not_after.to_datetime() - OffsetDateTime::now_utc();
            if left > Duration::days(30) && self.signed(&certificate) {
                return Ok(());
            }
        }
        let (certificate, key, _) = self.sign(&format!("*.{}", self.domain), WILDCARD_LIFETIME)?;
        write(&dir.join(WILDCARD_KEY_FILE), &key.serialize_pem(), whole_files::PRIVATE)?;
        write(&path, &certificate.pem(), whole_files::PUBLIC)
    }

    fn signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let Ok(ca) = CertificateDer::from_pem_slice(self.ca_pem.as_bytes()) else { return false };
        parse_x509_certificate(&ca)
            .is_ok_and(|(_, ca)| certificate.verify_signature(Some(ca.public_key())).is_ok())
    }

    fn sign(
        &self,
        name: &str,
        lifetime: Duration,
    ) -> Result<(rcgen::Certificate, KeyPair, OffsetDateTime), AuthorityError> {
        self.living()?;
        if name.strip_suffix(&self.domain).is_none_or(|rest| !rest.ends_with('.')) {
            let (name, domain) = (name.to_owned(), self.domain.clone());
            return Err(AuthorityError::ForeignName { name, domain });
        }
        let failed = |source| AuthorityError::Sign { name: name.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name = common_name(name);
        params.not_before = OffsetDateTime::now_utc() - BACKDATE;
        params.not_after = (params.not_before + lifetime).min(self.expires);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate, key, params.not_after))
    }

    fn living(&self) -> Result<(), AuthorityError> {
        if self.expires > OffsetDateTime::now_utc() {
            return Ok(());
        }
        let (domain, date) = (self.domain.clone(), self.expires.date());
        Err(AuthorityError::Expired { domain, date })
    }
}

fn ca_params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("edge {domain}"));
    params.not_before = OffsetDateTime::now_utc() - BACKDATE;
    params.not_after = params.not_before + CA_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A permitted DNS subtree says nothing about other kinds of names, so addresses are
    // excluded by themselves.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    params
}

/// RFC 5280 allows 64 characters; the names that count stand in the alternative names.
fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished
}

/// The one domain that an authority's certificate permits.
fn permitted(certificate: &X509Certificate<'_>) -> String {
    let constraints = certificate.name_constraints().ok().flatten();
    let subtrees = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
    match subtrees.map(Vec::as_slice) {
        Some([one]) => match one.base {
            GeneralName::DNSName(name) => name.to_owned(),
            _ => "another kind of name".to_owned(),
        },
        Some(_) => "several domains".to_owned(),
        None => "names without constraint".to_owned(),
    }
}

fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file("read", path, source)),
    }
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), AuthorityError> {
    whole_files::write(path, content.as_bytes(), mode).map_err(|source| file("write", path, source))
}

fn file(action: &'static str, path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::File { action, path: path.to_owned(), source }
}

fn damaged_ca(path: &Path, why: impl Into<String>) -> AuthorityError {
    AuthorityError::Damaged {
        path: path.to_owned(),
        why: why.into(),
        remove: format!("{CA_FILE} and {CA_KEY_FILE}"),
        is_ca: true,
    }
}
