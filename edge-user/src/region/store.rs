//! Where a region keeps what must outlive a daemon: durable things that outlive the machine's
//! run, too, and leased ones that do not.
//!
//! One trait, so that the one-machine region (an embedded file) and a region of several
//! gateways run the same code above it. Revisions are part of every entry because a
//! compare-and-swap needs them, and a watch would start from one.

use std::path::PathBuf;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Keys and JSON values, with a revision for each.
///
/// The engine is picked at run time, hence boxed futures: callers hold an `Arc<dyn Store>`.
/// An operation that has answered survives a crash of the daemon; in a durable store also one of
/// the machine.
pub trait Store: Send + Sync + 'static {
    /// The entry of this key, if there is one.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Writes whatever stood there before.
    fn put<'a>(&'a self, key: &'a str, value: Value) -> Answer<'a, ()>;

    /// Writes only if the entry still has this revision (`None`: only if there is no entry).
    /// Answers whether it wrote.
    fn compare_and_swap<'a>(
        &'a self,
        key: &'a str,
        expected: Option<u64>,
        value: Value,
    ) -> Answer<'a, bool>;

    /// Removes the entry. Answers whether there was one.
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool>;

    /// All entries whose key begins with the prefix, in the order of their keys.
    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<(String, Entry)>>;
}

/// What every operation of a store returns.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What was put.
    pub value: Value,
    /// Grows with every write to the store; never used twice.
    pub revision: u64,
}

impl Entry {
    /// The value as a type.
    ///
    /// # Errors
    /// [`StoreError::Value`] if it is something else.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<T, StoreError> {
        T::deserialize(&self.value)
            .map_err(|source| StoreError::Value { key: key.to_owned(), source })
    }
}

/// Why the region's state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("the region's state {path} cannot be opened: {cause}; {remedy}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Another version of edge wrote the file.
    #[error(
        "the region's state {path} has layout {found}, and this edge reads layout {known}; \
         run the version of edge that wrote it, or move the file away and let the region start anew"
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// The layout that was found.
        found: u64,
        /// The layout that this binary reads and writes.
        known: u64,
    },
    /// An operation failed; nothing of it was written.
    #[error(
        "the region's state {path} cannot be read or written: {cause}; \
         check the disk and its free space, then restart the daemon"
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// An entry is not what this version of edge writes there.
    #[error(
        "the entry {key} of the region's state cannot be understood: {source}; \
         run the version of edge that wrote it, or move the state away"
    )]
    Value {
        /// The entry.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}
