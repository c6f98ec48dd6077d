//! The store of a one-machine region: a file, written by one thread.
//!
//! A commit waits for the disk. So operations queue up for a thread that takes all that are
//! waiting into one transaction: a hundred tunnels that start together wait for the disk once.
//! What lives only as long as the machine runs lies in a second file, which waits for no disk.

mod page_cache;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use futures::FutureExt;
use redb::{Database, DatabaseError, ReadableTable, StorageError, Table, TableDefinition};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use self::page_cache::PageCache;
use super::store::{Answer, Entry, Store, StoreError};

/// The layout of tables and keys. Changed together with a way to read the old one.
const LAYOUT: u64 = 1;
/// The same for what is leased: the form of every record in it.
const LEASED_LAYOUT: u64 = 1;
/// The file of what is leased, in the run directory.
const LEASED: &str = "leased.redb";
/// Operations that may wait for the writing thread; callers beyond that wait themselves.
const QUEUE: usize = 1024;

const ENTRIES: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// A store in one file.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    layout: u64,
    open: fn(&Path) -> Result<Database, DatabaseError>,
    /// None while the store is closed.
    writer: Mutex<Option<Writer>>,
}

/// The thread that has the file open.
#[derive(Debug)]
struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
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
        Self::at(state_dir, "region.redb", LAYOUT, |path| Database::create(path))
    }

    /// Opens `leased.redb` in the daemon's run directory, and makes both if they are not there.
    /// An operation that has answered survives the daemon, but not the machine.
    ///
    /// # Errors
    /// As for [`Embedded::open`].
    pub fn open_leased(run_dir: &Path) -> Result<Self, StoreError> {
        Self::at(run_dir, LEASED, LEASED_LAYOUT, |path| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            // It has the tokens by which owners claim their containers.
            let file = options.mode(0o600).open(path);
            let file = file.map_err(|error| DatabaseError::Storage(StorageError::Io(error)))?;
            Database::builder().create_with_backend(PageCache::new(file)?)
        })
    }

    /// Where [`Embedded::open_leased`] keeps its file.
    pub fn leased_path(run_dir: &Path) -> PathBuf {
        run_dir.join(LEASED)
    }

    fn at(
        folder: &Path,
        name: &str,
        layout: u64,
        open: fn(&Path) -> Result<Database, DatabaseError>,
    ) -> Result<Self, StoreError> {
        let path = folder.join(name);
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Open {
            path: path.clone(),
            cause: error.to_string(),
            remedy: "run as root, or choose a directory that the daemon may write",
        })?;
        let store = Self { path, layout, open, writer: Mutex::new(None) };
        store.reopen()?;
        Ok(store)
    }

    /// Waits for what is queued and lets go of the file. Until [`Self::reopen`] every operation
    /// fails. Waits for the disk.
    pub fn close(&self) {
        let Some(Writer { jobs, thread }) = self.writer().take() else { return };
        drop(jobs);
        if thread.join().is_err() {
            tracing::error!(path = %self.path.display(), "the store's thread panicked");
        }
    }

    /// Takes the file up again after [`Self::close`]. Waits for the disk.
    ///
    /// # Errors
    /// As for [`Embedded::open`].
    pub fn reopen(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if writer.is_some() {
            return Ok(());
        }
        let path = &self.path;
        let database = (self.open)(path).map_err(|error| refused(path, &error))?;
        prepare(&database, path, self.layout)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("region-store".to_owned())
            .spawn(move || write(&database, queue))
            .map_err(|error| StoreError::Failed { path: path.clone(), cause: error.to_string() })?;
        *writer = Some(Writer { jobs, thread });
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        // What it guards is replaced as a whole.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
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
            let stopped = || "it is closed".to_owned();
            let jobs = self.writer().as_ref().map(|writer| writer.jobs.clone());
            let outcome = match jobs {
                Some(jobs) if jobs.send(job).await.is_ok() => {
                    // Or its thread would outlive a close by this call.
                    drop(jobs);
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
        self.close();
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
fn prepare(database: &Database, path: &Path, layout: u64) -> Result<(), StoreError> {
    let found = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let found = {
            transaction.open_table(ENTRIES)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("layout")?.map(|value| value.value());
            if found.is_none() {
                meta.insert("layout", layout)?;
            }
            found.unwrap_or(layout)
        };
        transaction.commit()?;
        Ok(found)
    };
    match found() {
        Ok(found) if found == layout => Ok(()),
        Ok(found) => Err(StoreError::Layout { path: path.to_owned(), found, known: layout }),
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
