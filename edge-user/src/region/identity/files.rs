//! Keys and certificates on disk: whole or not at all, keys for their owner alone.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use super::IdentityError;
use crate::whole_files;

const KEY: &str = "host-key.pem";
const CERTIFICATE: &str = "host.pem";
const AUTHORITY: &str = "region-authority.pem";
const MEMBERSHIP: &str = "membership.json";

const REMEDY: &str = "remove it and join the region anew with a new token";

/// What a machine got when it joined, as it is kept.
#[derive(Clone)]
pub struct Credentials {
    /// The key, PKCS #8.
    key: Vec<u8>,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The region's authority.
    pub authority: CertificateDer<'static>,
    /// Where the region is.
    pub membership: Membership,
}

/// Which host of which region, and where its gateways are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The region's name.
    pub region: String,
    /// The host's number.
    pub host: u16,
    /// host:port of gateways.
    pub endpoints: Vec<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Credentials").field("membership", &self.membership).finish_non_exhaustive()
    }
}

impl Credentials {
    /// What a machine has been given.
    pub fn new(
        key: &KeyPair,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        membership: Membership,
    ) -> Self {
        Self { key: key.serialize_der(), certificate, authority, membership }
    }

    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// Reads them; none if this machine has joined no region.
    ///
    /// # Errors
    /// When a file is damaged or cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(MEMBERSHIP);
        let Some(membership) = read(&path)? else { return Ok(None) };
        let membership = serde_json::from_slice(&membership)
            .map_err(|error| damaged(&path, error.to_string(), REMEDY))?;
        let certificate = |name| {
            let path = dir.join(name);
            read_certificate(&path, REMEDY)?.ok_or_else(|| missing(&path, REMEDY))
        };
        Ok(Some(Self {
            key: read_key(&dir.join(KEY), REMEDY)?.serialize_der(),
            certificate: certificate(CERTIFICATE)?,
            authority: certificate(AUTHORITY)?,
            membership,
        }))
    }

    /// Writes them, the membership last: it makes the others count.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(MEMBERSHIP);
        let key = KeyPair::try_from(self.key.as_slice())
            .map_err(|source| IdentityError::Sign { name: "this machine".to_owned(), source })?;
        write_key(&dir.join(KEY), &key)?;
        write_certificate(&dir.join(AUTHORITY), &self.authority)?;
        self.save_certificate(dir)?;
        let membership = serde_json::to_vec_pretty(&self.membership)
            .map_err(|error| file("write", &path, error.into()))?;
        write(&path, &membership)
    }

    /// Writes the certificate alone, after a renewal.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_certificate(&self, dir: &Path) -> Result<(), IdentityError> {
        write_certificate(&dir.join(CERTIFICATE), &self.certificate)
    }
}

pub(super) fn read_certificate(
    path: &Path,
    remedy: &'static str,
) -> Result<Option<CertificateDer<'static>>, IdentityError> {
    let Some(pem) = read(path)? else { return Ok(None) };
    let certificate = CertificateDer::from_pem_slice(&pem);
    certificate
        .map(Some)
        .map_err(|error| damaged(path, format!("no certificate ({error})"), remedy))
}

pub(super) fn read_key(path: &Path, remedy: &'static str) -> Result<KeyPair, IdentityError> {
    let pem = read(path)?.ok_or_else(|| missing(path, remedy))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map_err(|error| damaged(path, format!("no private key ({error})"), remedy))?;
    KeyPair::try_from(&key).map_err(|error| damaged(path, format!("no key ({error})"), remedy))
}

pub(super) fn write_certificate(
    path: &Path,
    certificate: &CertificateDer<'_>,
) -> Result<(), IdentityError> {
    let body = data_encoding::BASE64.encode(certificate);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    write(path, pem.as_bytes())
}

pub(super) fn write_key(path: &Path, key: &KeyPair) -> Result<(), IdentityError> {
    write(path, key.serialize_pem().as_bytes())
}

fn write(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    whole_files::write(path, content, whole_files::PRIVATE)
        .map_err(|source| file("write", path, source))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file("read", path, source)),
    }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { action, path: path.to_owned(), source }
}

fn damaged(path: &Path, why: String, remedy: &'static str) -> IdentityError {
    IdentityError::Damaged { path: PathBuf::from(path), why, remedy }
}

fn missing(path: &Path, remedy: &'static str) -> IdentityError {
    damaged(path, "it is missing".to_owned(), remedy)
}
