//! What a certificate says of the machine that shows it.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::region::roster::Role;

/// A machine that has shown a certificate of the region's authority, and holds its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The region that the certificate names.
    pub region: String,
    /// What it may be.
    pub role: Role,
    /// The host's number.
    pub id: u16,
    /// The public key: SubjectPublicKeyInfo (DER).
    pub public_key: Vec<u8>,
    /// When the certificate began to be valid, and when it ends.
    pub valid: (OffsetDateTime, OffsetDateTime),
}

impl Peer {
    /// Reads a machine's certificate; none if it is not one. Nothing is verified here.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = read(certificate).ok()?;
        let mut parts = read.uri.strip_prefix("edge://")?.split('/');
        let (region, role, id) = (parts.next()?, parts.next()?, parts.next()?);
        let role = match role {
            "host" => Role::Host,
            "gateway" => Role::Gateway,
            _ => return None,
        };
        let id = id.parse().ok().filter(|_| parts.next().is_none())?;
        let Read { public_key, valid, .. } = read;
        Some(Self { region: region.to_owned(), role, id, public_key, valid })
    }

    /// SHA-256 of the public key, hexadecimal.
    pub fn key_hash(&self) -> String {
        public_key_hash(&self.public_key)
    }

    /// Whether the certificate's time is over.
    pub fn has_expired(&self) -> bool {
        OffsetDateTime::now_utc() > self.valid.1
    }
}

/// SHA-256 of a public key (SubjectPublicKeyInfo, DER), hexadecimal.
pub fn public_key_hash(public_key: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, public_key).as_ref())
}

/// What edge looks at in a certificate.
pub(super) struct Read {
    /// Its one URI among the alternative names.
    pub(super) uri: String,
    /// SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    /// From and to.
    pub(super) valid: (OffsetDateTime, OffsetDateTime),
}

pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Read, String> {
    let (_, parsed) = parse_x509_certificate(certificate)
        .map_err(|error| format!("no X.509 certificate ({error})"))?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|found| found.value.general_names.as_slice()).unwrap_or_default();
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let validity = parsed.validity();
    Ok(Read {
        uri: uri.ok_or("it names no machine")?,
        public_key: parsed.public_key().raw.to_vec(),
        valid: (validity.not_before.to_datetime(), validity.not_after.to_datetime()),
    })
}
