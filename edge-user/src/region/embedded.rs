//! The store of a region with one gateway: a file, written by one thread.
//!
//! A commit waits for the disk. So operations queue up for a thread that takes all that are
//! waiting into one transaction: a hundred tunnels that start together wait for the disk once.
//! What lives only as long as the machine runs lies in a second file, which waits for no disk.

mod file;
mod history;
mod page_cache;
mod tables;
#[cfg(test)]
mod tests;
mod timers;
#[cfg(test)]
mod watch_tests;
mod writer;

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, stream};
use redb::{Database, DatabaseError, StorageError};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use self::{file::Layout, history::Source, page_cache::PageCache, tables::Tables, timers::Timers};
use super::store::{Answer, Entry, LeaseId, Snapshot, Store, StoreError, Watch, Write};

/// The file of what is leased, in the run directory.
const LEASED: &str = "leased.redb";
/// Operations that may wait for the writing thread; callers beyond that wait themselves.
const QUEUE: usize = 1024;
/// Writes that watchers may be behind before they are told a snapshot.
const HISTORY: usize = 8192;

/// A store in one file.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    layout: &'static Layout,
    /// Writes that are kept for those who watch.
    memory: usize,
    open: fn(&Path) -> Result<Database, DatabaseError>,
    /// None while the store is closed.
    writer: Mutex<Option<Writer>>,
}

/// The thread that has the file open.
#[derive(Debug)]
struct Writer {
    jobs: mpsc::Sender<Job>,
    source: Source,
    thread: JoinHandle<()>,
}

/// Works on the tables, and returns how to tell its caller once the commit's outcome is known.
type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Reply + Send>;
type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;

impl Embedded {
    /// Opens `region.redb` in the daemon's state directory, and makes both if they are not there.
    /// Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError::Open`] for a file that is locked, damaged or not readable,
    /// [`StoreError::Layout`] for one of another version.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::remembering(state_dir, HISTORY)
    }

    /// Opens `leased.redb` in the daemon's run directory, and makes both if they are not there.
    /// An operation that has answered survives the daemon, but not the machine. It keeps no
    /// writes for those who watch, and tells them snapshots.
    ///
    /// # Errors
    /// As for [`Embedded::open`].
    pub fn open_leased(run_dir: &Path) -> Result<Self, StoreError> {
        Self::at(run_dir, LEASED, &Layout::LEASED, 0, |path| {
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

    /// As [`Embedded::open`], with a memory of so many writes for those who watch.
    fn remembering(state_dir: &Path, writes: usize) -> Result<Self, StoreError> {
        let create = |path: &Path| Database::create(path);
        Self::at(state_dir, "region.redb", &Layout::DURABLE, writes, create)
    }

    fn at(
        folder: &Path,
        name: &str,
        layout: &'static Layout,
        memory: usize,
        open: fn(&Path) -> Result<Database, DatabaseError>,
    ) -> Result<Self, StoreError> {
        let path = folder.join(name);
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Open {
            path: path.clone(),
            cause: error.to_string(),
            remedy: "run as root, or choose a directory that the daemon may write",
        })?;
        let store = Self { path, layout, memory, open, writer: Mutex::new(None) };
        store.reopen()?;
        Ok(store)
    }

    /// Waits for what is queued and lets go of the file. Until [`Self::reopen`] every operation
    /// fails. Waits for the disk.
    pub fn close(&self) {
        let Some(Writer { jobs, thread, .. }) = self.writer().take() else { return };
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
        let database = (self.open)(path).map_err(|error| file::refused(path, &error))?;
        let start = file::prepare(&database, path, self.layout)?;
        let mut timers = Timers::default();
        for (lease, ttl) in start.leases {
            timers.start(lease, ttl, Instant::now());
        }
        let (publisher, source) = history::history(start.revision, self.memory, path.clone());
        let (jobs, queue) = mpsc::channel(QUEUE);
        let failed = |error: std::io::Error| StoreError::Failed {
            path: path.clone(),
            cause: error.to_string(),
        };
        // Of the thread's own: the caller may have none, and it waits for a job or a lease's end.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("region-store".to_owned())
            .spawn(move || writer::run(&database, queue, timers, &publisher, &runtime))
            .map_err(failed)?;
        *writer = Some(Writer { jobs, source, thread });
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
        async move {
            let jobs = self.writer().as_ref().map(|writer| writer.jobs.clone());
            ask(jobs.ok_or_else(|| closed(&self.path))?, &self.path, work).await
        }
        .boxed()
    }

    /// The same for work that a lease which is no more forbids.
    fn run_leased<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<Result<T, LeaseId>, redb::Error> + Send + 'static,
    ) -> Answer<'_, T> {
        async move { self.run(work).await?.map_err(StoreError::LeaseEnded) }.boxed()
    }
}

/// Has the writing thread do something, and waits until it is durable.
async fn ask<T: Send + 'static>(
    jobs: mpsc::Sender<Job>,
    path: &Path,
    work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move |tables| {
        let done = work(tables);
        if let Err(error) = &done {
            tables.failed.get_or_insert_with(|| again(error));
        }
        Box::new(move |committed| {
            let outcome =
                committed.and_then(|()| done.map_err(|error: redb::Error| error.to_string()));
            // A caller that went away no longer wants to know.
            drop(answer.send(outcome));
        })
    });
    if jobs.send(job).await.is_err() {
        return Err(closed(path));
    }
    // Or its thread would outlive a close by this call.
    drop(jobs);
    match answered.await {
        Ok(outcome) => outcome.map_err(|cause| StoreError::Failed { path: path.to_owned(), cause }),
        Err(_gone) => Err(closed(path)),
    }
}

fn closed(path: &Path) -> StoreError {
    StoreError::Failed { path: path.to_owned(), cause: "it is closed".to_owned() }
}

/// The engine's error is not `Clone`, and every caller of a failed batch is told.
fn again(error: &redb::Error) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error.to_string()))
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
        self.run(move |tables| tables.put(&key, value))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        let key = key.to_owned();
        self.run(move |tables| tables.delete(&key))
    }

    fn snapshot<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot> {
        let prefix = prefix.to_owned();
        self.run(move |tables| tables.snapshot(&prefix))
    }

    fn transact(
        &self,
        conditions: Vec<(String, Option<u64>)>,
        writes: Vec<Write>,
    ) -> Answer<'_, bool> {
        self.run_leased(move |tables| tables.transact(&conditions, writes))
    }

    fn watch(&self, prefix: &str, after: Option<u64>) -> Watch {
        match self.writer().as_ref() {
            Some(Writer { jobs, source, .. }) => source.watch(jobs.downgrade(), prefix, after),
            None => stream::iter([Err(closed(&self.path))]).boxed(),
        }
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.run(move |tables| tables.grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.run_leased(move |tables| tables.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.run(move |tables| tables.end(lease))
    }
}
