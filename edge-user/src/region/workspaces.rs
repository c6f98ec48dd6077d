//! Workspaces: each name has a random 32-bit id, the middle of its containers' addresses.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde_json::json;

use super::store::{Store, StoreError};

/// The workspaces of a region.
pub struct Workspaces {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<String, u32>>,
}

/// Why a workspace has no id.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The name cannot be part of a DNS name.
    #[error(
        "{0:?} cannot name a workspace; use 1 to 63 characters of a-z, 0-9 and '-', \
         with no '-' at either end"
    )]
    InvalidName(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Workspaces {
    /// The workspaces that this store keeps.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, known: RwLock::default() }
    }

    /// The id of a workspace, drawn when it is first asked for and the same ever after.
    ///
    /// # Errors
    /// [`WorkspaceError::InvalidName`] for a name that is not a DNS label.
    pub async fn id(&self, name: &str) -> Result<u32, WorkspaceError> {
        if !is_label(name) {
            return Err(WorkspaceError::InvalidName(name.to_owned()));
        }
        if let Some(id) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(*id);
        }
        let id = self.stored(name).await?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), id);
        Ok(id)
    }

    async fn stored(&self, name: &str) -> Result<u32, StoreError> {
        let key = format!("workspace/{name}");
        loop {
            if let Some(entry) = self.store.get(&key).await? {
                return entry.read(&key);
            }
            // The id is claimed first, so that two workspaces never share one; a claim that is
            // left over from a crash costs one id of four thousand million.
            let id: u32 = rand::random();
            let claim = format!("workspace-id/{id:08x}");
            if !self.store.compare_and_swap(&claim, None, json!(name)).await? {
                continue;
            }
            if self.store.compare_and_swap(&key, None, json!(id)).await? {
                return Ok(id);
            }
            self.store.delete(&claim).await?;
        }
    }
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::embedded::Embedded;

    #[tokio::test]
    async fn an_id_is_drawn_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        // Separate instances, so that no cache hides a race.
        let asked = (0..20).map(|_| async { Workspaces::new(store.clone()).id("acme").await });
        let ids = futures::future::try_join_all(asked).await.unwrap();
        assert!(ids.iter().all(|id| *id == ids[0]));
        let workspaces = Workspaces::new(store.clone());
        assert_eq!(workspaces.id("acme").await.unwrap(), ids[0]);
        assert_ne!(workspaces.id("other").await.unwrap(), ids[0]);
        assert_eq!(store.list("workspace-id/").await.unwrap().len(), 2, "claims are given up");
    }

    #[tokio::test]
    async fn names_are_labels() {
        let dir = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::new(Arc::new(Embedded::open(dir.path()).unwrap()));
        for name in ["", "-a", "a-", "A", "a.b", "a/b", &"x".repeat(64)] {
            let error = workspaces.id(name).await.unwrap_err();
            assert!(matches!(error, WorkspaceError::InvalidName(_)), "{name:?}: {error}");
        }
    }
}
