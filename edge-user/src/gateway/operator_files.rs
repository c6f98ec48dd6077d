//! A certificate that the operator brings: checked before it is served, followed as it changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

use notify::Watcher;
use rustls::{
    client::verify_server_name,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;
use x509_parser::parse_x509_certificate;

/// A renewal writes two files; wait until it is done.
const SETTLE: Duration = Duration::from_millis(300);
/// For changes that no event tells, as behind a symlink into another directory.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The last good pair of certificate and key.
pub(super) struct OperatorFiles {
    certificate: PathBuf,
    key: PathBuf,
    domain: String,
    current: RwLock<Arc<CertifiedKey>>,
    /// What was read last, good or bad, so that a bad file is complained of once.
    last_read: Mutex<Content>,
    _watching: DropGuard,
}

#[derive(PartialEq, Eq, Default)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why the operator's certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OperatorFileError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; check --cert and --key and who may read the files", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what its option asks for.
    #[error("{path} holds no {what} in PEM ({why}); give {option} a PEM file", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What the parser said.
        why: String,
        /// The command line option that names the file.
        option: &'static str,
    },
    /// The pair cannot be served.
    #[error("{path} cannot be used with {key}: {source}; they must be one pair, the leaf certificate first", path = path.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// It is for other names.
    #[error("{path} does not cover *.{domain}; every tunnel is a name under it, so get a wildcard certificate", path = path.display())]
    Names {
        /// The certificate's file.
        path: PathBuf,
        /// The gateway's domain.
        domain: String,
    },
    /// It is not valid today.
    #[error("{path} is valid from {from} to {until}, not now; renew it, or set the clock", path = path.display())]
    Dates {
        /// The certificate's file.
        path: PathBuf,
        /// Its first day.
        from: time::Date,
        /// Its last day.
        until: time::Date,
    },
    /// Nothing will tell when the files change.
    #[error("changes of {path} cannot be watched: {source}; raise fs.inotify.max_user_watches or fs.inotify.max_user_instances", path = path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the watcher said.
        #[source]
        source: notify::Error,
    },
}

impl OperatorFiles {
    pub(super) fn open(
        certificate: &Path,
        key: &Path,
        domain: &str,
    ) -> Result<Arc<Self>, OperatorFileError> {
        let content = Content::read(certificate, key)?;
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let pair = content.check(certificate, key, &domain)?;
        let changed = Arc::new(Notify::new());
        let watcher = watch(&[certificate, key], changed.clone())?;
        let stop = CancellationToken::new();
        let files = Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            domain,
            current: RwLock::new(Arc::new(pair)),
            last_read: Mutex::new(content),
            _watching: stop.clone().drop_guard(),
        });
        let span = tracing::info_span!("certificate", file = %certificate.display());
        tokio::spawn(follow(Arc::downgrade(&files), watcher, changed, stop).instrument(span));
        Ok(files)
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When what is served expires, in seconds since 1970.
    pub(super) fn expiry(&self) -> f64 {
        let current = self.current();
        let leaf = current.cert.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
        // Seconds of any date fit.
        leaf.map_or(f64::NAN, |(_, leaf)| leaf.validity().not_after.timestamp() as f64)
    }

    /// Takes what is on disk now; whether it was new.
    fn reload(&self) -> Result<bool, OperatorFileError> {
        let content = Content::read(&self.certificate, &self.key)?;
        let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == content {
            return Ok(false);
        }
        let pair = content.check(&self.certificate, &self.key, &self.domain);
        *last = content;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair?);
        Ok(true)
    }
}

impl Content {
    fn read(certificate: &Path, key: &Path) -> Result<Self, OperatorFileError> {
        let read = |path: &Path| {
            let failed = |source| OperatorFileError::Read { path: path.to_owned(), source };
            fs::read(path).map_err(failed)
        };
        Ok(Self { certificate: read(certificate)?, key: read(key)? })
    }

    fn check(
        &self,
        path: &Path,
        key: &Path,
        domain: &str,
    ) -> Result<CertifiedKey, OperatorFileError> {
        let no_chain = |why: String| OperatorFileError::Pem {
            path: path.to_owned(),
            what: "certificate",
            why,
            option: "--cert",
        };
        let no_key = |error: rustls::pki_types::pem::Error| OperatorFileError::Pem {
            path: key.to_owned(),
            what: "private key",
            why: error.to_string(),
            option: "--key",
        };
        let unusable =
            |source| OperatorFileError::Pair { path: path.to_owned(), key: key.to_owned(), source };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| no_chain(error.to_string()))?;
        let leaf = chain.first().cloned().ok_or_else(|| no_chain("it is empty".into()))?;
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(no_key)?;
        let pair = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
            .map_err(unusable)?;

        let parsed = ParsedCertificate::try_from(&leaf).map_err(unusable)?;
        let covered = ServerName::try_from(format!("any-tunnel.{domain}"))
            .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok());
        if !covered {
            let (path, domain) = (path.to_owned(), domain.to_owned());
            return Err(OperatorFileError::Names { path, domain });
        }
        let (_, x509) =
            parse_x509_certificate(&leaf).map_err(|error| no_chain(error.to_string()))?;
        let from = x509.validity().not_before.to_datetime();
        let until = x509.validity().not_after.to_datetime();
        if !(from..until).contains(&OffsetDateTime::now_utc()) {
            let (from, until) = (from.date(), until.date());
            return Err(OperatorFileError::Dates { path: path.to_owned(), from, until });
        }
        Ok(pair)
    }
}

/// Watches the directories, not the files: a rename or a swapped symlink makes a new file.
fn watch(
    files: &[&Path],
    changed: Arc<Notify>,
) -> Result<notify::RecommendedWatcher, OperatorFileError> {
    let failed = |path: &Path, source| OperatorFileError::Watch { path: path.to_owned(), source };
    let tell = move |_: notify::Result<notify::Event>| changed.notify_one();
    let mut watcher =
        notify::recommended_watcher(tell).map_err(|source| failed(files[0], source))?;
    for file in files {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        watcher
            .watch(folder, notify::RecursiveMode::NonRecursive)
            .map_err(|source| failed(folder, source))?;
    }
    Ok(watcher)
}

async fn follow(
    files: Weak<OperatorFiles>,
    _watcher: notify::RecommendedWatcher,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = changed.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let Some(files) = files.upgrade() else { break };
        match tokio::task::spawn_blocking(move || files.reload()).await {
            Ok(Ok(true)) => tracing::info!("serving the new certificate"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the new certificate is not served; the old one stays")
            }
            Err(error) => tracing::error!(%error, "reading the certificate's files failed"),
        }
    }
    tracing::debug!("no longer watching");
}
