//! Where a region's etcd is, and how to be let in.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use etcd_client::{Certificate, ConnectOptions, Identity, KeyValue, TlsOptions};

use super::{EtcdError, unsigned};
use crate::region::store::{Entry, StoreError};

/// etcd refuses pings more often than every five seconds.
const PING: Duration = Duration::from_secs(6);
/// For the answer to a ping, and for a new connection.
const PATIENCE: Duration = Duration::from_secs(4);
/// A region's entries are under this, beside what is about the region's place itself.
const ENTRIES: &str = "state";
/// Where a region is if its place does not say so.
const DEFAULT_PREFIX: &str = "/edge";

/// A region's place in etcd: `etcd://HOST:PORT[,HOST:PORT…][/PREFIX]`, or `etcds://…` over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    tls: bool,
    /// host:port of the members.
    members: Vec<String>,
    /// Begins with a slash, and does not end with one.
    prefix: String,
}

/// Who the gateway is to etcd. Files are read when the store is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The certificates, PEM, that the members' certificates are checked with.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate and key, PEM, if etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The user, and the file with its password.
    pub user: Option<(String, PathBuf)>,
}

/// Why a string is no place in etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no place in etcd: {cause}; write etcd://HOST:PORT[,HOST:PORT…][/PREFIX], or etcds://… over TLS"
)]
pub struct BadPlace {
    text: String,
    cause: String,
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = |cause: String| BadPlace { text: text.to_owned(), cause };
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(bad("it does not begin with etcd:// or etcds://".to_owned())),
        };
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let members = members.split(',').map(|member| {
            let authority: Result<http::uri::Authority, _> = member.parse();
            match authority {
                // A password in a command line is everybody's.
                Ok(_) if member.contains('@') => {
                    Err(bad("a user goes into an option, and its password into a file".to_owned()))
                }
                Ok(authority) if authority.port_u16().is_some_and(|port| port > 0) => {
                    Ok(member.to_owned())
                }
                Ok(_) => Err(bad(format!("`{member}` has no port (etcd's is 2379)"))),
                Err(error) => Err(bad(format!("`{member}` is no host and port ({error})"))),
            }
        });
        let members = members.collect::<Result<_, _>>()?;
        let prefix = prefix.trim_end_matches('/');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        for part in prefix.split('/').filter(|_| !prefix.is_empty()) {
            if part.is_empty() || !part.bytes().all(fits) {
                return Err(bad(format!("`{part}` of the prefix is not of a-z, 0-9, - _ .")));
            }
            if part == ENTRIES {
                return Err(bad(format!("no part of a prefix may be `{ENTRIES}`")));
            }
        }
        let prefix =
            if prefix.is_empty() { DEFAULT_PREFIX.to_owned() } else { format!("/{prefix}") };
        Ok(Self { tls, members, prefix })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        write!(to, "{scheme}://{}{}", self.members.join(","), self.prefix)
    }
}

impl Place {
    /// What all its keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        self.members.iter().map(|member| format!("{scheme}://{member}")).collect()
    }

    /// etcd's key for a key of the region.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}/{ENTRIES}/{key}", self.prefix)
    }

    /// The key that tells of the region's place itself.
    pub(super) fn about(&self) -> String {
        format!("{}/about", self.prefix)
    }

    /// The region's key for one of etcd's.
    pub(super) fn name(&self, key: &[u8]) -> String {
        let start = self.prefix.len() + ENTRIES.len() + 2;
        String::from_utf8_lossy(key.get(start..).unwrap_or_default()).into_owned()
    }

    /// What a row of etcd says.
    pub(super) fn entry(&self, row: &KeyValue) -> Result<(String, Entry), StoreError> {
        let key = self.name(row.key());
        match serde_json::from_slice(row.value()) {
            Ok(value) => Ok((key, Entry { value, revision: unsigned(row.mod_revision()) })),
            Err(source) => Err(StoreError::Value { key, source }),
        }
    }
}

impl Access {
    /// What the client is to do.
    pub(super) fn options(&self, place: &Place) -> Result<ConnectOptions, EtcdError> {
        let conflict = |cause| EtcdError::Options { place: place.to_string(), cause };
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(PING, PATIENCE)
            // etcd counts pings without a request as an attack.
            .with_keep_alive_while_idle(false)
            // A member that is cut off from the others must not be believed.
            .with_require_leader(true);
        if let Some((user, file)) = &self.user {
            let what = "the password";
            let password = String::from_utf8(read(file, what)?).map_err(|error| {
                unusable(file, what, error.to_string(), "write the password as UTF-8 text")
            })?;
            let password = password.trim_end_matches(['\r', '\n']);
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        match (place.tls, &self.ca, &self.identity) {
            (false, None, None) => Ok(options),
            (false, ..) => Err(conflict("certificates need TLS; write etcds:// for etcd://")),
            (true, None, _) => Err(conflict(
                "TLS needs the certificate that etcd's are checked with; name its file",
            )),
            (true, Some(ca), identity) => {
                let mut tls = TlsOptions::new().ca_certificate(certificates(ca)?);
                if let Some((certificate, key)) = identity {
                    let certificate = certificates(certificate)?;
                    let key = read(key, "the gateway's key")?;
                    tls = tls.identity(Identity::from_pem(certificate, key));
                }
                Ok(options.with_tls(tls))
            }
        }
    }
}

fn certificates(path: &Path) -> Result<Certificate, EtcdError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    let what = "a certificate";
    let pem = read(path, what)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(Certificate::from_pem(pem)),
        Ok(_) => Err(unusable(path, what, "it has none".to_owned(), "name a PEM file")),
        Err(error) => Err(unusable(path, what, error.to_string(), "name a PEM file")),
    }
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, EtcdError> {
    std::fs::read(path).map_err(|error| {
        unusable(path, what, error.to_string(), "name a file that the daemon may read")
    })
}

fn unusable(path: &Path, what: &'static str, cause: String, remedy: &'static str) -> EtcdError {
    EtcdError::File { path: path.to_owned(), what, cause, remedy }
}
