//! Keys that all gateways of a region have in common, where its store is not one machine's own.
//!
//! A gateway reads its authorities from files. Whoever comes first makes them and puts them into
//! the store; the others take them from there. So the store holds the region: who can read it can
//! make hosts and certificates, and who can write it can end all tunnels anyway.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::store::{Store, StoreError};
use crate::whole_files;

/// Where an authority's certificate and key are, and what the store calls them.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What the store calls them.
    pub name: &'static str,
    /// PEM, for everybody.
    pub certificate: PathBuf,
    /// PEM, for its owner alone.
    pub key: PathBuf,
}

/// Why the gateways do not have a pair in common.
#[derive(Debug, thiserror::Error)]
pub enum CommonError {
    /// The authority cannot be opened or made.
    #[error(transparent)]
    Open(Box<dyn std::error::Error + Send + Sync>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("{path} cannot be used: {source}; edge keeps the region's keys there, so it needs that directory for itself", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// This gateway has been another region's.
    #[error(
        "{path} is not the authority that the region's other gateways have; move it and {key} away \
         to take theirs, or give this gateway another state directory",
        path = path.display(), key = key.display()
    )]
    Other {
        /// The certificate.
        path: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// What the store and the files hold.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    certificate: String,
    key: String,
}

/// Opens what all gateways have in common: from this gateway's files, else from the store, else
/// made by `open`, which leaves the files behind.
///
/// # Errors
/// [`CommonError`].
pub async fn open<T, E: std::error::Error + Send + Sync + 'static>(
    store: &Arc<dyn Store>,
    pair: &Pair,
    open: impl Fn() -> Result<T, E>,
) -> Result<T, CommonError> {
    let open = || open().map_err(|error| CommonError::Open(Box::new(error)));
    let mut made = false;
    loop {
        let entry = store.get(pair.name).await?;
        let theirs: Option<Held> = entry.map(|entry| entry.read(pair.name)).transpose()?;
        match (pair.held()?, theirs) {
            (Some(own), Some(theirs)) if own == theirs => return open(),
            // Another gateway was faster.
            (Some(_), Some(theirs)) if made => pair.keep(&theirs)?,
            (Some(_), Some(_)) => {
                let (path, key) = (pair.certificate.clone(), pair.key.clone());
                return Err(CommonError::Other { path, key });
            }
            (None, Some(theirs)) => pair.keep(&theirs)?,
            (Some(own), None) => {
                let value = serde_json::to_value(own)
                    .map_err(|source| StoreError::Value { key: pair.name.to_owned(), source })?;
                // If it fails there is one by now.
                store.compare_and_swap(pair.name, None, value).await?;
            }
            (None, None) => {
                open()?;
                made = true;
            }
        }
    }
}

impl Pair {
    /// What the files hold; nothing without a certificate: a key without one never signed.
    fn held(&self) -> Result<Option<Held>, CommonError> {
        let Some(certificate) = read(&self.certificate)? else { return Ok(None) };
        // If it is missing the authority itself says so.
        let key = read(&self.key)?.unwrap_or_default();
        Ok(Some(Held { certificate, key }))
    }

    /// Writes them, the key first.
    fn keep(&self, held: &Held) -> Result<(), CommonError> {
        for (path, content, mode) in [
            (&self.key, &held.key, whole_files::PRIVATE),
            (&self.certificate, &held.certificate, whole_files::PUBLIC),
        ] {
            let written = whole_files::write(path, content.as_bytes(), mode);
            written.map_err(|source| file(path, source))?;
        }
        tracing::info!(name = self.name, "took the authority of the region's other gateways");
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<String>, CommonError> {
    match std::fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file(path, source)),
    }
}

fn file(path: &Path, source: io::Error) -> CommonError {
    CommonError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::region::embedded::Embedded;

    /// Stands for an authority: each that is made is another.
    fn made(pair: &Pair) -> Result<String, io::Error> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !pair.certificate.exists() {
            let number = NUMBER.fetch_add(1, Ordering::SeqCst);
            std::fs::write(&pair.key, format!("key {number}"))?;
            std::fs::write(&pair.certificate, format!("certificate {number}"))?;
        }
        std::fs::read_to_string(&pair.certificate)
    }

    fn pair(dir: &Path) -> Pair {
        Pair {
            name: "authority/test",
            certificate: dir.join("ca.pem"),
            key: dir.join("ca-key.pem"),
        }
    }

    #[tokio::test]
    async fn the_first_gateway_makes_it_and_all_have_it() {
        let dirs: Vec<_> = (0..8).map(|_| tempfile::tempdir().unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(folder.path()).unwrap());
        let opening = dirs.iter().map(|dir| {
            let (store, pair) = (store.clone(), pair(dir.path()));
            async move { open(&store, &pair, || made(&pair)).await.unwrap() }
        });
        let opened = futures::future::join_all(opening).await;
        assert!(opened.iter().all(|one| *one == opened[0]), "{opened:?}");
        for dir in &dirs {
            let held: Held = pair(dir.path()).held().unwrap().unwrap();
            assert_eq!(held.key.replace("key", "certificate"), opened[0]);
        }
    }

    #[tokio::test]
    async fn a_gateway_of_another_region_is_refused_and_keeps_what_it_has() {
        let [one, two, folder] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> = Arc::new(Embedded::open(folder.path()).unwrap());
        let [first, second] = [pair(one.path()), pair(two.path())];
        open(&store, &first, || made(&first)).await.unwrap();
        let own = made(&second).unwrap();
        let error = open(&store, &second, || made(&second)).await.unwrap_err();
        assert!(matches!(&error, CommonError::Other { .. }), "{error}");
        assert_eq!(made(&second).unwrap(), own);
    }
}
