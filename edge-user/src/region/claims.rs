//! What machines of a region claim in its store, and the rules of it.
//!
//! Every claim is one transaction over the records that it depends on; one that finds them
//! changed is tried again. Nothing here is remembered between calls, so several gateways may
//! work on one store.

mod clusters;
mod containers;
mod error;
mod hosts;
mod presence;
mod shares;

use std::{sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{clusters::Joining, error::ClaimError, presence::Arrival, shares::Spread};
use super::{
    rest::REST,
    roster::{self, HostRecord},
    store::{LeaseId, Store, StoreError, Write},
    workspaces::Workspaces,
};

/// Carries out claims.
pub struct Claims {
    store: Arc<dyn Store>,
    workspaces: Workspaces,
    terms: Terms,
    joining: tokio::sync::Mutex<()>,
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// A host that is not heard of for this long is away.
    pub lease: Duration,
    /// What it holds is nobody else's for this long after.
    pub hold: Duration,
    /// An address block that was returned is leased to nobody for this long.
    pub rest: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), hold: REST, rest: REST }
    }
}

impl Claims {
    /// Over this store.
    pub fn new(store: Arc<dyn Store>, terms: Terms) -> Self {
        Self {
            workspaces: Workspaces::new(store.clone()),
            store,
            terms,
            joining: Default::default(),
        }
    }

    /// The terms that it works by.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The store's own.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The id of a workspace, drawn when it is first asked for.
    ///
    /// # Errors
    /// [`ClaimError::Workspace`].
    pub async fn workspace(&self, name: &str) -> Result<u32, ClaimError> {
        Ok(self.workspaces.id(name).await?)
    }

    /// Refuses a pool that does not hold the blocks that hosts have.
    ///
    /// # Errors
    /// [`ClaimError::Outside`].
    pub async fn refuse_outside(&self, pool: Ipv4Net) -> Result<(), ClaimError> {
        for (key, entry) in self.store.list("region/host/").await? {
            let HostRecord { id, blocks, .. } = entry.read(&key)?;
            if let Some(block) = blocks.into_iter().find(|block| !pool.contains(block)) {
                return Err(ClaimError::Outside { pool, block, host: id });
            }
        }
        Ok(())
    }

    /// The region's settings, if it has any yet.
    ///
    /// # Errors
    /// The store's own.
    pub async fn settings(&self) -> Result<Option<roster::RegionSettings>, StoreError> {
        Ok(self.get(roster::SETTINGS).await?.map(|found: Found<_>| found.record))
    }

    /// Writes the region's settings.
    ///
    /// # Errors
    /// The store's own.
    pub async fn settle(&self, settings: &roster::RegionSettings) -> Result<(), StoreError> {
        let found: Option<Found<roster::RegionSettings>> = self.get(roster::SETTINGS).await?;
        if found.is_none_or(|found| found.record != *settings) {
            let write = roster::put(roster::SETTINGS.to_owned(), settings, None)?;
            self.store.transact(Vec::new(), vec![write]).await?;
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Found<T>>, StoreError> {
        let entry = self.store.get(key).await?;
        entry
            .map(|entry| Ok(Found { revision: entry.revision, record: entry.read(key)? }))
            .transpose()
    }
}

/// A record, and the revision that a transaction over it names.
struct Found<T> {
    record: T,
    revision: u64,
}

/// A transaction that is being put together.
#[derive(Default)]
struct Transaction {
    conditions: Vec<(String, Option<u64>)>,
    writes: Vec<Write>,
}

impl Transaction {
    /// Only if the record is still as it was found, or still absent.
    fn given<T>(&mut self, key: &str, found: Option<&Found<T>>) {
        self.conditions.push((key.to_owned(), found.map(|found| found.revision)));
    }

    fn put(
        &mut self,
        key: String,
        record: &impl Serialize,
        lease: Option<LeaseId>,
    ) -> Result<(), StoreError> {
        self.writes.push(roster::put(key, record, lease)?);
        Ok(())
    }

    fn delete(&mut self, key: String) {
        self.writes.push(Write::Delete { key });
    }

    async fn commit(self, store: &Arc<dyn Store>) -> Result<bool, StoreError> {
        store.transact(self.conditions, self.writes).await
    }
}
