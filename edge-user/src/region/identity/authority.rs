//! The region's authority over its machines.

use std::{fmt, path::Path};

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};

use super::{IdentityError, files, peer};
use crate::region::{common::Pair, roster::Role};

/// The one name that gateways have to their hosts, whatever address they are dialled at: who is
/// asked is the region, which its authority tells from every other.
pub const GATEWAY_NAME: &str = "gateway.edge.internal";

/// A machine's certificate is renewed when this much of its life is over.
pub const RENEW_AFTER: Duration = Duration::hours(LIFETIME.whole_hours() * 2 / 3);

const LIFETIME: Duration = Duration::days(7);
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
/// Other machines' clocks may be late by this much.
const BACKDATE: Duration = Duration::hours(1);

const FILE: &str = "region-authority.pem";
const KEY_FILE: &str = "region-authority-key.pem";

/// The authority of one region.
pub struct Authority {
    region: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Authority").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority kept in `dir`, or makes one for the region if there is none.
    ///
    /// # Errors
    /// When a file cannot be read or written, is damaged, or belongs to another region.
    pub fn open_or_create(dir: &Path, region: &str) -> Result<Self, IdentityError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=63).contains(&region.len()) || !region.bytes().all(fits) {
            return Err(IdentityError::BadRegion(region.to_owned()));
        }
        let path = dir.join(FILE);
        let Some(certificate) = files::read_certificate(&path, REMEDY)? else {
            return Self::create(dir, region);
        };
        let key = files::read_key(&dir.join(KEY_FILE), REMEDY)?;
        let damaged =
            |why: String| IdentityError::Damaged { path: path.clone(), why, remedy: REMEDY };
        let read = peer::read(&certificate).map_err(damaged)?;
        let found = read.uri.strip_prefix("edge://").unwrap_or_default();
        if found != region {
            let (path, found, wanted) = (path, found.to_owned(), region.to_owned());
            return Err(IdentityError::OtherRegion { path, found, wanted });
        }
        if read.public_key != key.subject_public_key_info() {
            return Err(damaged(format!("{KEY_FILE} beside it is not its key")));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| damaged(format!("it cannot issue ({error})")))?;
        Ok(Self { region: region.to_owned(), issuer, certificate })
    }

    /// Where the one kept in `dir` is.
    pub fn pair(dir: &Path) -> Pair {
        let [certificate, key] = [FILE, KEY_FILE].map(|name| dir.join(name));
        Pair { name: "authority/machines", certificate, key }
    }

    /// The region's name.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What machines of the region trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the certificate: what a joining machine knows the region by.
    pub fn fingerprint(&self) -> Vec<u8> {
        fingerprint(&self.certificate)
    }

    /// A certificate for a machine that asked with a PKCS #10 request (DER), and its key's hash.
    ///
    /// # Errors
    /// [`IdentityError::Request`] if the request is none, or not signed with its own key.
    pub fn admit(
        &self,
        role: Role,
        id: u16,
        request: &CertificateSigningRequestParams,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        self.sign(machine(&self.region, role, id), &request.public_key)
    }

    /// A new certificate for the same machine and key; the key as SubjectPublicKeyInfo (DER).
    ///
    /// # Errors
    /// When the library refuses.
    pub fn renew(
        &self,
        role: Role,
        id: u16,
        public_key: &[u8],
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(IdentityError::Request)?;
        self.sign(machine(&self.region, role, id), &key)
    }

    /// A key and a certificate for the gateway's listener, which shows the authority's too, so
    /// that a joining machine can compare it with its token.
    ///
    /// # Errors
    /// When the libraries refuse.
    pub fn listener(&self) -> Result<CertifiedKey, IdentityError> {
        let failed = |source| IdentityError::Sign { name: GATEWAY_NAME.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = self.params(format!("edge://{}/listener", self.region))?;
        params.subject_alt_names.push(SanType::DnsName(GATEWAY_NAME.try_into().map_err(failed)?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&der)
            .map_err(|source| IdentityError::Tls { name: GATEWAY_NAME.to_owned(), source })?;
        Ok(CertifiedKey::new(vec![certificate.der().clone(), self.certificate.clone()], signing))
    }

    fn create(dir: &Path, region: &str) -> Result<Self, IdentityError> {
        let uri = format!("edge://{region}");
        let failed = |source| IdentityError::Sign { name: uri.clone(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("edge region {region}"));
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(failed)?)];
        params.not_before = OffsetDateTime::now_utc() - BACKDATE;
        params.not_after = params.not_before + AUTHORITY_LIFETIME;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        // The key is written first: a key without a certificate never signed anything.
        files::write_key(&dir.join(KEY_FILE), &key)?;
        files::write_certificate(&dir.join(FILE), &certificate)?;
        tracing::info!(region, "made the region's authority over its machines");
        Ok(Self { region: region.to_owned(), issuer: Issuer::new(params, key), certificate })
    }

    fn sign(
        &self,
        uri: String,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let mut params = self.params(uri.clone())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(key, &self.issuer);
        let certificate = signed.map_err(|source| IdentityError::Sign { name: uri, source })?;
        Ok(certificate.der().clone())
    }

    fn params(&self, uri: String) -> Result<CertificateParams, IdentityError> {
        let failed = |source| IdentityError::Sign { name: uri.clone(), source };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, uri.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(failed)?)];
        params.not_before = OffsetDateTime::now_utc() - BACKDATE;
        params.not_after = params.not_before + BACKDATE + LIFETIME;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(params)
    }
}

/// SHA-256 of a certificate.
pub(in crate::region) fn fingerprint(certificate: &CertificateDer<'_>) -> Vec<u8> {
    digest::digest(&digest::SHA256, certificate).as_ref().to_vec()
}

/// What a machine's certificate calls it.
fn machine(region: &str, role: Role, id: u16) -> String {
    let role = match role {
        Role::Host => "host",
        Role::Gateway => "gateway",
    };
    format!("edge://{region}/{role}/{id}")
}

const REMEDY: &str = "move the region's authority and its key away to begin a new region (all hosts must then join anew)";
