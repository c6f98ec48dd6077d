//! Records of what is leased: it lives no longer than the machine runs, and a daemon that starts
//! reads here what the last one had.

use std::{marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::store::{Store, StoreError};

/// Records of one kind, by id.
pub struct Records<T> {
    store: Arc<dyn Store>,
    prefix: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Records<T> {
    /// Those under the prefix, which ends with a slash.
    pub fn new(store: Arc<dyn Store>, prefix: &'static str) -> Self {
        Self { store, prefix, kind: PhantomData }
    }

    /// All of them.
    ///
    /// # Errors
    /// [`StoreError::Value`] if one is not what this version writes.
    pub async fn all(&self) -> Result<Vec<(String, T)>, StoreError> {
        let mut all = Vec::new();
        for (key, entry) in self.store.list(self.prefix).await? {
            let record = entry.read(&key)?;
            all.push((key.trim_start_matches(self.prefix).to_owned(), record));
        }
        Ok(all)
    }

    /// Writes one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn put(&self, id: &str, record: &T) -> Result<(), StoreError> {
        let key = self.key(id);
        let value = serde_json::to_value(record)
            .map_err(|source| StoreError::Value { key: key.clone(), source })?;
        self.store.put(&key, value).await
    }

    /// Removes one. If that fails, the next daemon finds out by itself that it is outdated.
    pub async fn forget(&self, id: &str) {
        if let Err(error) = self.store.delete(&self.key(id)).await {
            tracing::warn!(%error, id, "a record stays although what it tells of has ended");
        }
    }

    fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }
}
