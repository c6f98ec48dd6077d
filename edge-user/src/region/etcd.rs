//! The store of a region with several gateways: etcd, version 3.4 or later.
//!
//! All keys are under the region's prefix, so that regions may share one etcd. The trait's
//! operations are etcd's own, so each is one request; `calls` repeats those that a lost
//! connection cannot have spoiled, and `follow` keeps a watch alive over everything else.

mod calls;
mod error;
mod follow;
mod place;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;

#[cfg(test)]
pub(super) use self::server::Server;
use self::{
    calls::{Calls, Repeat, mention},
    follow::Follower,
};
pub use self::{
    error::EtcdError,
    place::{Access, BadPlace, Place},
};
use super::store::{Answer, Entry, LeaseId, Snapshot, Store, StoreError, Watch, Write};

/// The longest time that etcd gives a lease, in seconds.
const LONGEST: i64 = 9_000_000_000;

/// A store in etcd. Clones of what it needs go along with each watch, so a watch outlives it.
pub struct Etcd {
    calls: Calls,
    /// Tells this etcd from one that took its place, empty.
    life: String,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.calls.place().to_string();
        to.debug_struct("Etcd").field("place", &place).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects, and makes the region's place if it is not there. Waits some ten
    /// seconds for an etcd that does not answer.
    ///
    /// # Errors
    /// [`EtcdError::File`] for a file that cannot be read, [`EtcdError::Unreachable`],
    /// [`EtcdError::Denied`], [`EtcdError::Layout`] for a region of another version.
    pub async fn open(place: Place, access: &Access) -> Result<Self, StoreError> {
        let calls = Calls::connect(place, access).await?;
        let (life, _) = calls.life().await?;
        Ok(Self { calls, life })
    }

    async fn commit(
        &self,
        conditions: &[(String, Option<u64>)],
        writes: Vec<Write>,
    ) -> Result<bool, StoreError> {
        let revision = |expected: Option<u64>| signed(expected.unwrap_or_default());
        let when: Vec<_> = conditions
            .iter()
            .map(|(key, expected)| {
                let key = self.calls.place().key(key);
                Compare::mod_revision(key, CompareOp::Equal, revision(*expected))
            })
            .collect();
        // etcd takes each key once; the last write of it is the one that counts.
        let writes: BTreeMap<String, Write> =
            writes.into_iter().map(|write| (key_of(&write).to_owned(), write)).collect();
        let leases = writes.values().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        let leases: Vec<_> = leases.collect();
        let then: Vec<_> = writes.into_values().map(|write| self.operation(write)).collect();
        let transaction = Txn::new().when(when).and_then(then);
        let answer = self
            .calls
            .call(Repeat::Never, |client| {
                let transaction = transaction.clone();
                async move { client.kv_client().txn(transaction).await }
            })
            .await;
        match answer {
            Ok(answer) => Ok(answer.succeeded()),
            Err(failure) if failure.is_lease_gone() => Err(self.ended(leases).await?),
            Err(failure) => Err(self.calls.wrote(failure).into()),
        }
    }

    fn operation(&self, write: Write) -> TxnOp {
        match write {
            Write::Delete { key } => TxnOp::delete(self.calls.place().key(&key), None),
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(signed(lease)));
                TxnOp::put(self.calls.place().key(&key), value.to_string(), options)
            }
        }
    }

    /// Which of a refused transaction's leases is no more.
    async fn ended(&self, leases: Vec<LeaseId>) -> Result<StoreError, StoreError> {
        for lease in &leases {
            let asked = self.calls.call(Repeat::Always, |client| async move {
                client.lease_client().time_to_live(signed(*lease), None).await
            });
            let left = asked.await.map_err(|failure| self.calls.asked(failure))?;
            if left.ttl() <= 0 {
                return Ok(StoreError::LeaseEnded(*lease));
            }
        }
        // Its time was begun anew in between: the caller may try again as after any end.
        Ok(StoreError::LeaseEnded(leases.first().copied().unwrap_or_default()))
    }

    async fn begin(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Our own number, so that a repeated request grants no second lease.
        let lease = (rand::random::<u64>() >> 1).max(1);
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = signed(seconds).clamp(1, LONGEST);
        let granted = self.calls.call(Repeat::Always, |client| async move {
            let options = LeaseGrantOptions::new().with_id(signed(lease));
            match client.lease_client().grant(seconds, Some(options)).await {
                Ok(_) => Ok(()),
                Err(error) if mention(&error, "lease already exists") => Ok(()),
                Err(error) => Err(error),
            }
        });
        granted.await.map_err(|failure| self.calls.wrote(failure))?;
        Ok(lease)
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        async move {
            let found = self.calls.call(Repeat::Always, |client| async move {
                client.kv_client().get(self.calls.place().key(key), None).await
            });
            let found = found.await.map_err(|failure| self.calls.asked(failure))?;
            found.kvs().first().map(|row| Ok(self.calls.place().entry(row)?.1)).transpose()
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Value) -> Answer<'a, ()> {
        let write = Write::Put { key: key.to_owned(), value, lease: None };
        async move { self.commit(&[], vec![write]).await.map(drop) }.boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        async move {
            let deleted = self.calls.call(Repeat::Never, |client| async move {
                client.kv_client().delete(self.calls.place().key(key), None).await
            });
            let deleted = deleted.await.map_err(|failure| self.calls.wrote(failure))?;
            Ok(deleted.deleted() > 0)
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot> {
        self.calls.snapshot(prefix).boxed()
    }

    fn transact(
        &self,
        conditions: Vec<(String, Option<u64>)>,
        writes: Vec<Write>,
    ) -> Answer<'_, bool> {
        async move { self.commit(&conditions, writes).await }.boxed()
    }

    fn watch(&self, prefix: &str, after: Option<u64>) -> Watch {
        Follower::new(self.calls.clone(), self.life.clone(), prefix, after).watch().boxed()
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.begin(ttl).boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        async move {
            let kept = self.calls.call(Repeat::Always, |client| async move {
                client.lease_client().keep_alive(signed(lease)).await.map(drop)
            });
            match kept.await {
                Err(failure) if failure.is_lease_gone() => Err(StoreError::LeaseEnded(lease)),
                kept => Ok(kept.map_err(|failure| self.calls.asked(failure))?),
            }
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        async move {
            let revoked = self.calls.call(Repeat::Always, |client| async move {
                client.lease_client().revoke(signed(lease)).await.map(drop)
            });
            match revoked.await {
                Err(failure) if failure.is_lease_gone() => Ok(()),
                revoked => Ok(revoked.map_err(|failure| self.calls.wrote(failure))?),
            }
        }
        .boxed()
    }
}

fn key_of(write: &Write) -> &str {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key,
    }
}

/// etcd's numbers are signed, and never negative.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The same the other way round.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
