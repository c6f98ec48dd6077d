//! Where a region keeps what must outlive a daemon: durable things that outlive the machine's
//! run, too, and leased ones that do not.
//!
//! One trait, so that the one-machine region (an embedded file) and a region of several
//! gateways run the same code above it. Its operations are those of etcd, narrowed: revisions
//! order all writes, a transaction is a list of conditions and a list of writes, a lease takes
//! its keys along when it ends, and a watch tells of all this without a gap.

#[cfg(test)]
pub(crate) mod promises;

use std::{path::PathBuf, time::Duration};

use futures::{FutureExt as _, future::BoxFuture, stream::BoxStream};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::etcd::EtcdError;

/// Keys and JSON values, with a revision for each.
///
/// The engine is picked at run time, hence boxed futures: callers hold an `Arc<dyn Store>`.
/// An operation that has answered survives a crash of the daemon; in a durable store also one of
/// the machine. One that failed has written nothing, but for [`EtcdError::Uncertain`].
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
    ) -> Answer<'a, bool> {
        let write = Write::Put { key: key.to_owned(), value, lease: None };
        self.transact(vec![(key.to_owned(), expected)], vec![write])
    }

    /// Removes the entry. Answers whether there was one.
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool>;

    /// All entries whose key begins with the prefix, in the order of their keys.
    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<(String, Entry)>> {
        self.snapshot(prefix).map(|taken| taken.map(|snapshot| snapshot.entries)).boxed()
    }

    /// What [`Store::list`] answers, and the revision at which it is true.
    fn snapshot<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot>;

    /// Carries out all writes if each condition holds, or nothing. A condition is a key and the
    /// revision that its entry has, or `None` for a key without entry. Of several writes of one
    /// key the last counts. Answers whether it wrote.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`] if a put names a lease that is no more.
    fn transact(
        &self,
        conditions: Vec<(String, Option<u64>)>,
        writes: Vec<Write>,
    ) -> Answer<'_, bool>;

    /// Follows the keys that begin with the prefix. What it tells is the store's state after the
    /// revision `after`, write by write; without one, or where the store no longer has all
    /// writes since then, or where the watcher is slower than the store's memory, it is told a
    /// fresh [`Seen::Snapshot`] in between. It never misses a write in silence. It ends after
    /// an error.
    fn watch(&self, prefix: &str, after: Option<u64>) -> Watch;

    /// A new lease: keys put under it vanish, as deletes that watchers see, if it is not kept
    /// alive for this long, or a little longer: etcd counts whole seconds, and two at least. A
    /// store that was away gives each lease its full time again.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId>;

    /// Begins a lease's time anew.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`] if it is no more.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Ends a lease at once, and its keys with it. Nothing happens if it has ended already.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;
}

/// What every operation of a store returns.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// What a watcher sees, in order.
pub type Watch = BoxStream<'static, Result<Seen, StoreError>>;

/// Names a lease; never used twice.
pub type LeaseId = u64;

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Writes an entry. It lives as long as the lease, if one is named; an entry that stood
    /// there leaves the lease that it had.
    Put {
        /// The entry's key.
        key: String,
        /// What it shall hold.
        value: Value,
        /// The lease that the entry ends with.
        lease: Option<LeaseId>,
    },
    /// Removes an entry, if there is one.
    Delete {
        /// The entry's key.
        key: String,
    },
}

/// Entries at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// All writes up to this one are in it, and none after.
    pub revision: u64,
    /// In the order of their keys.
    pub entries: Vec<(String, Entry)>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// All that the prefix holds: whatever the watcher knew before is void.
    Snapshot(Snapshot),
    /// Writes since the last message, in the order of their revisions. Those of one transaction
    /// may share a revision; then they are in one message.
    Changes(Vec<Change>),
}

/// One write that a watcher sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which entry.
    pub key: String,
    /// The write's own revision.
    pub revision: u64,
    /// What the entry holds now; none if it was deleted, or its lease has ended.
    pub value: Option<Value>,
}

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What was put.
    pub value: Value,
    /// Grows with every transaction, deletes too; never used twice for one key.
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
    /// An operation on a file failed; nothing of it was written.
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
    /// A lease was not kept alive, or was revoked.
    #[error("lease {0:x} of the region's state has ended; take a new one and write its keys again")]
    LeaseEnded(LeaseId),
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
    /// etcd's own.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}
