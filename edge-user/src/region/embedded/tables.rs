//! The store's tables within one transaction.

use std::time::{Duration, Instant};

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde_json::Value;

use super::{again, timers::Timers};
use crate::region::store::{Change, Entry, LeaseId, Snapshot, Write};

type Text = &'static str;
type Bytes = &'static [u8];

const ENTRIES: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// Milliseconds that each lease lasts.
const LEASES: TableDefinition<'static, u64, u64> = TableDefinition::new("leases");
/// The lease of each key that has one.
const LEASED: TableDefinition<'static, &str, u64> = TableDefinition::new("leased");
/// The same the other way round.
const KEYS: TableDefinition<'static, (u64, &str), ()> = TableDefinition::new("keys");

/// Work on the tables: every write has a revision of its own, and becomes a change.
pub(super) struct Tables<'t> {
    meta: Table<'t, Text, u64>,
    entries: Table<'t, Text, (u64, Bytes)>,
    transaction: &'t WriteTransaction,
    /// Not opened while no lease runs: each write would pay for it.
    leases: Option<Leases<'t>>,
    timers: &'t mut Timers,
    revision: u64,
    wrote: bool,
    changes: Vec<Change>,
    /// The first failure; nothing of the transaction is then written.
    pub(super) failed: Option<redb::Error>,
}

/// The leases, and which keys they have.
struct Leases<'t> {
    lasting: Table<'t, u64, u64>,
    of_keys: Table<'t, Text, u64>,
    keys: Table<'t, (u64, Text), ()>,
}

/// What a file holds when it is opened.
pub(super) struct Start {
    /// Of the last write.
    pub(super) revision: u64,
    /// The leases, and how long each lasts.
    pub(super) leases: Vec<(LeaseId, Duration)>,
}

/// The file's layout; none in a new file.
pub(super) fn layout(transaction: &WriteTransaction) -> Result<Option<u64>, redb::Error> {
    let meta = transaction.open_table(META)?;
    Ok(meta.get("layout")?.map(|value| value.value()))
}

/// Makes the tables that are not there, and writes the layout down.
pub(super) fn start(transaction: &WriteTransaction, layout: u64) -> Result<Start, redb::Error> {
    transaction.open_table(ENTRIES)?;
    transaction.open_table(LEASED)?;
    transaction.open_table(KEYS)?;
    let mut meta = transaction.open_table(META)?;
    meta.insert("layout", layout)?;
    let revision = meta.get("revision")?.map_or(0, |value| value.value());
    let mut leases = Vec::new();
    for row in transaction.open_table(LEASES)?.iter()? {
        let (lease, ttl) = row?;
        leases.push((lease.value(), Duration::from_millis(ttl.value())));
    }
    Ok(Start { revision, leases })
}

impl<'t> Tables<'t> {
    /// The tables as the transaction finds them.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        timers: &'t mut Timers,
    ) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let revision = meta.get("revision")?.map_or(0, |value| value.value());
        Ok(Self {
            meta,
            entries: transaction.open_table(ENTRIES)?,
            transaction,
            leases: None,
            timers,
            revision,
            wrote: false,
            changes: Vec::new(),
            failed: None,
        })
    }

    /// Ends the work: the changes, if there is anything to commit.
    pub(super) fn finish(mut self) -> Result<Option<Vec<Change>>, redb::Error> {
        if let Some(error) = &self.failed {
            return Err(again(error));
        }
        if !self.wrote {
            return Ok(None);
        }
        self.meta.insert("revision", self.revision)?;
        Ok(Some(self.changes))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, redb::Error> {
        self.entries.get(key)?.map(|row| entry(row.value())).transpose()
    }

    pub(super) fn put(&mut self, key: &str, value: Value) -> Result<(), redb::Error> {
        self.release(key)?;
        let revision = self.next();
        self.entries.insert(key, (revision, value.to_string().as_bytes()))?;
        self.changes.push(Change { key: key.to_owned(), revision, value: Some(value) });
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &str) -> Result<bool, redb::Error> {
        self.release(key)?;
        if self.entries.remove(key)?.is_none() {
            return Ok(false);
        }
        let revision = self.next();
        self.changes.push(Change { key: key.to_owned(), revision, value: None });
        Ok(true)
    }

    pub(super) fn snapshot(&self, prefix: &str) -> Result<Snapshot, redb::Error> {
        let mut entries = Vec::new();
        for row in self.entries.range(prefix..)? {
            let (key, row) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            entries.push((key.value().to_owned(), entry(row.value())?));
        }
        Ok(Snapshot { revision: self.revision, entries })
    }

    /// Whether it wrote; or the lease that is no more, and then nothing is written.
    pub(super) fn transact(
        &mut self,
        conditions: &[(String, Option<u64>)],
        writes: Vec<Write>,
    ) -> Result<Result<bool, LeaseId>, redb::Error> {
        for (key, expected) in conditions {
            if self.get(key)?.map(|entry| entry.revision) != *expected {
                return Ok(Ok(false));
            }
        }
        for write in &writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !self.lasts(*lease)?
            {
                return Ok(Err(*lease));
            }
        }
        for write in writes {
            match write {
                Write::Delete { key } => {
                    self.delete(&key)?;
                }
                Write::Put { key, value, lease } => {
                    self.put(&key, value)?;
                    if let Some(lease) = lease {
                        let leases = self.leases()?;
                        leases.of_keys.insert(key.as_str(), lease)?;
                        leases.keys.insert((lease, key.as_str()), ())?;
                    }
                }
            }
        }
        Ok(Ok(true))
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Result<LeaseId, redb::Error> {
        // Positive as a signed number, as etcd's are.
        let lease = (rand::random::<u64>() >> 1).max(1);
        self.wrote = true;
        let lasts = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.leases()?.lasting.insert(lease, lasts)?;
        self.timers.start(lease, ttl, Instant::now());
        Ok(lease)
    }

    pub(super) fn keep_alive(
        &mut self,
        lease: LeaseId,
    ) -> Result<Result<(), LeaseId>, redb::Error> {
        if !self.lasts(lease)? {
            return Ok(Err(lease));
        }
        self.timers.restart(lease, Instant::now());
        Ok(Ok(()))
    }

    /// Deletes a lease and its keys.
    pub(super) fn end(&mut self, lease: LeaseId) -> Result<(), redb::Error> {
        let leases = self.leases()?;
        if leases.lasting.remove(lease)?.is_none() {
            return Ok(());
        }
        let mut keys = Vec::new();
        for row in leases.keys.range((lease, "")..)? {
            let (row, _) = row?;
            let (of, key) = row.value();
            if of != lease {
                break;
            }
            keys.push(key.to_owned());
        }
        self.wrote = true;
        for key in keys {
            self.delete(&key)?;
        }
        Ok(())
    }

    /// Ends the leases whose time is over, and answers which.
    pub(super) fn expire(&mut self) -> Result<Vec<LeaseId>, redb::Error> {
        let due = self.timers.due(Instant::now());
        due.iter().try_for_each(|lease| self.end(*lease))?;
        Ok(due)
    }

    /// Takes a key from the lease that it has.
    fn release(&mut self, key: &str) -> Result<(), redb::Error> {
        // A lease that the file has is one that runs.
        if self.timers.is_empty() {
            return Ok(());
        }
        let leases = self.leases()?;
        let lease = leases.of_keys.remove(key)?.map(|lease| lease.value());
        if let Some(lease) = lease {
            leases.keys.remove((lease, key))?;
        }
        Ok(())
    }

    fn lasts(&mut self, lease: LeaseId) -> Result<bool, redb::Error> {
        Ok(self.leases()?.lasting.get(lease)?.is_some())
    }

    fn leases(&mut self) -> Result<&mut Leases<'t>, redb::Error> {
        let leases = match self.leases.take() {
            Some(open) => open,
            None => Leases {
                lasting: self.transaction.open_table(LEASES)?,
                of_keys: self.transaction.open_table(LEASED)?,
                keys: self.transaction.open_table(KEYS)?,
            },
        };
        Ok(self.leases.insert(leases))
    }

    fn next(&mut self) -> u64 {
        self.wrote = true;
        self.revision += 1;
        self.revision
    }
}

fn entry((revision, bytes): (u64, &[u8])) -> Result<Entry, redb::Error> {
    let value = serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a value is not JSON: {error}")))?;
    Ok(Entry { value, revision })
}
