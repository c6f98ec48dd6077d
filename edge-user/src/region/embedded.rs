//! The store of a one-machine region: a file, written by one thread.
//!
//! A commit waits for the disk. So operations queue up for a thread that takes all that are
//! waiting into one transaction: a hundred tunnels that start together wait for the disk once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use futures::FutureExt;
use redb::{Database, DatabaseError, ReadableTable, StorageError, Table, TableDefinition};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::store::{Answer, Entry, Store, StoreError};

/// The layout of tables and keys. Changed together with a way to read the old one.
const LAYOUT: u64 = 1;
/// Operations that may wait for the writing thread; callers beyond that wait themselves.
const QUEUE: usize = 1024;

const ENTRIES: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// A store in one file.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// Works on the tables, and returns how to tell its caller once the commit's outcome is known.
type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Reply + Send>;
type Reply = Box<dyn FnOnce(Result<(), Arc<redb::Error>>) + Send>;

struct Tables<'t> {
    entries: Table<'t, &'static str, (u64, &'static [u8])>,
    revision: u64,
    wrote: bool,
    failed: Option<Arc<redb::Error>>,
}

impl Embedded {
    /// Opens `region.redb` in the daemon's state directory, and makes both if they are not there.
    /// Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Open`] for a file that is locked, damaged or not readable,
    /// [`StoreError::Layout`] for one of another version.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("region.redb");
        std::fs::create_dir_all(state_dir).map_err(|error| StoreError::Open {
            path: path.clone(),
            cause: error.to_string(),
            remedy: "run as root, or choose a state directory that the daemon may write",
        })?;
        let database = Database::create(&path).map_err(|error| refused(&path, &error))?;
        prepare(&database, &path)?;

        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("region-store".to_owned())
            .spawn(move || write(&database, queue))
            .map_err(|error| StoreError::Failed { path: path.clone(), cause: error.to_string() })?;
        Ok(Self { path, jobs: Some(jobs), writer: Some(writer) })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Answer<'_, T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tables| {
            let done = work(tables);
            if let Err(error) = &done {
                tables.failed.get_or_insert_with(|| Arc::new(again(error)));
            }
            Box::new(move |committed| {
                let outcome = match (committed, done) {
                    (Ok(()), Ok(value)) => Ok(value),
                    (Err(error), _) => Err(error.to_string()),
                    (Ok(()), Err(error)) => Err(error.to_string()),
                };
                // A caller that went away no longer wants to know.
                drop(answer.send(outcome));
            })
        });
        async move {
            let stopped = || "its thread has stopped".to_owned();
            let outcome = match &self.jobs {
                Some(jobs) if jobs.send(job).await.is_ok() => {
                    answered.await.unwrap_or_else(|_| Err(stopped()))
                }
                _ => Err(stopped()),
            };
            outcome.map_err(|cause| StoreError::Failed { path: self.path.clone(), cause })
        }
        .boxed()
    }
}

impl Drop for Embedded {
    /// Waits for what is queued, so that the file is free again when this returns.
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the store's thread panicked");
        }
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        let key = key.to_owned();
        self.run(move |tables| tables.get(&key))
    }

    fn put<'a>(&'a self, key: &'a str, value: Value) -> Answer<'a, ()> {
        let key = key.to_owned();
        self.run(move |tables| tables.put(&key, &value))
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a str,
        expected: Option<u64>,
        value: Value,
    ) -> Answer<'a, bool> {
        let key = key.to_owned();
        self.run(move |tables| {
            let matches = tables.get(&key)?.map(|entry| entry.revision) == expected;
            if matches {
                tables.put(&key, &value)?;
            }
            Ok(matches)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        let key = key.to_owned();
        self.run(move |tables| {
            tables.wrote = true;
            Ok(tables.entries.remove(key.as_str())?.is_some())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<(String, Entry)>> {
        let prefix = prefix.to_owned();
        self.run(move |tables| {
            let mut found = Vec::new();
            for row in tables.entries.range(prefix.as_str()..)? {
                let (key, row) = row?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_owned(), entry(row.value())?));
            }
            Ok(found)
        })
    }
}

impl Tables<'_> {
    fn get(&self, key: &str) -> Result<Option<Entry>, redb::Error> {
        self.entries.get(key)?.map(|row| entry(row.value())).transpose()
    }

    fn put(&mut self, key: &str, value: &Value) -> Result<(), redb::Error> {
        self.wrote = true;
        self.revision += 1;
        self.entries.insert(key, (self.revision, value.to_string().as_bytes()))?;
        Ok(())
    }
}

fn entry((revision, bytes): (u64, &[u8])) -> Result<Entry, redb::Error> {
    let value = serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("a value is not JSON: {error}")))?;
    Ok(Entry { value, revision })
}

/// The writing thread: ends when the store is dropped and its queue is empty.
fn write(database: &Database, mut queue: mpsc::Receiver<Job>) {
    let _span = tracing::info_span!("region-store").entered();
    while let Some(first) = queue.blocking_recv() {
        let mut jobs = vec![first];
        while let Ok(next) = queue.try_recv() {
            jobs.push(next);
        }
        let mut replies = Vec::with_capacity(jobs.len());
        let outcome = commit(database, jobs, &mut replies).map_err(Arc::new);
        if let Err(error) = &outcome {
            tracing::error!(%error, "the region's state could not be written");
        }
        for reply in replies {
            reply(outcome.clone());
        }
    }
    tracing::debug!("the store is closed");
}

fn commit(
    database: &Database,
    jobs: Vec<Job>,
    replies: &mut Vec<Reply>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let wrote = {
        let mut meta = transaction.open_table(META)?;
        let revision = meta.get("revision")?.map_or(0, |value| value.value());
        let entries = transaction.open_table(ENTRIES)?;
        let mut tables = Tables { entries, revision, wrote: false, failed: None };
        replies.extend(jobs.into_iter().map(|job| job(&mut tables)));
        if let Some(error) = &tables.failed {
            return Err(again(error));
        }
        if tables.wrote {
            meta.insert("revision", tables.revision)?;
        }
        tables.wrote
    };
    // A batch of reads does not wait for the disk.
    if wrote { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
}

/// Refuses a file of another layout; writes the layout into a new one.
fn prepare(database: &Database, path: &Path) -> Result<(), StoreError> {
    let found = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let found = {
            transaction.open_table(ENTRIES)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("layout")?.map(|value| value.value());
            if found.is_none() {
                meta.insert("layout", LAYOUT)?;
            }
            found.unwrap_or(LAYOUT)
        };
        transaction.commit()?;
        Ok(found)
    };
    match found() {
        Ok(LAYOUT) => Ok(()),
        Ok(found) => Err(StoreError::Layout { path: path.to_owned(), found, known: LAYOUT }),
        Err(error) => Err(damaged(path, error.to_string())),
    }
}

fn refused(path: &Path, error: &DatabaseError) -> StoreError {
    let remedy = match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            "another edge daemon uses it: stop that one, or give this one its own --instance"
        }
        DatabaseError::UpgradeRequired(_) => {
            "run the version of edge that wrote it, or move the file away"
        }
        DatabaseError::Storage(StorageError::Io(io))
            if io.kind() != std::io::ErrorKind::InvalidData
                && io.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            "check the file's owner and mode, the disk and its free space"
        }
        _ => return damaged(path, error.to_string()),
    };
    StoreError::Open { path: path.to_owned(), cause: error.to_string(), remedy }
}

fn damaged(path: &Path, cause: String) -> StoreError {
    let remedy = "the file is damaged or not edge's: restore it from a backup, or move it away \
                  and let the region start anew";
    StoreError::Open { path: path.to_owned(), cause, remedy }
}

/// The engine's error is not `Clone`, and every caller of a failed batch is told.
fn again(error: &redb::Error) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn entries_survive_and_revisions_grow() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        store.put("a/1", json!({"x": 1})).await.unwrap();
        store.put("a/2", json!(2)).await.unwrap();
        store.put("b/1", json!(3)).await.unwrap();
        let before = store.get("a/1").await.unwrap().unwrap();
        drop(store);

        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.get("a/1").await.unwrap(), Some(before.clone()));
        let listed: Vec<_> =
            store.list("a/").await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(listed, ["a/1", "a/2"]);
        assert!(store.delete("a/2").await.unwrap());
        assert!(!store.delete("a/2").await.unwrap());
        store.put("a/1", json!(4)).await.unwrap();
        assert!(store.get("a/1").await.unwrap().unwrap().revision > before.revision);
    }

    #[tokio::test]
    async fn of_many_who_claim_a_key_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let claims = (0..50).map(|n| store.compare_and_swap("key", None, json!(n)));
        let won = futures::future::try_join_all(claims).await.unwrap();
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        let entry = store.get("key").await.unwrap().unwrap();
        assert!(!store.compare_and_swap("key", Some(entry.revision + 1), json!(0)).await.unwrap());
        assert!(store.compare_and_swap("key", Some(entry.revision), json!(0)).await.unwrap());
    }

    #[test]
    fn a_locked_file_is_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Embedded::open(dir.path()).unwrap();
        let error = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("region.redb") && error.contains("another edge daemon"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("region.redb"), [7; 9000]).unwrap();
        let error = Embedded::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("region.redb") && error.contains("move it away"), "{error}");
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Embedded::open(dir.path()).unwrap());
        let database = Database::create(dir.path().join("region.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("layout", LAYOUT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Embedded::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Layout { found: 2, known: 1, .. }), "{error}");
    }
}
