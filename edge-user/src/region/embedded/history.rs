//! The last writes, kept in memory for those who watch.
//!
//! A watcher has no queue of its own, only the revision that it has seen: however slow it is, it
//! costs nothing. If the writes after that revision are no longer here, it is told a snapshot.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};

use super::{Job, ask};
use crate::region::store::{Change, Seen, StoreError, Watch};

/// The last writes.
#[derive(Debug)]
pub(super) struct History {
    ring: Mutex<Ring>,
    limit: usize,
}

#[derive(Debug)]
struct Ring {
    /// All writes after this revision are in `changes`.
    floor: u64,
    /// Revisions without a gap.
    changes: VecDeque<Arc<Change>>,
}

/// The writing end; watchers end with it.
pub(super) struct Publisher {
    history: Arc<History>,
    head: watch::Sender<u64>,
}

/// What a watcher needs besides.
#[derive(Clone, Debug)]
pub(super) struct Source {
    history: Arc<History>,
    head: watch::Receiver<u64>,
    path: PathBuf,
}

/// A history of so many writes, from this revision on.
pub(super) fn history(revision: u64, limit: usize, path: PathBuf) -> (Publisher, Source) {
    let ring = Mutex::new(Ring { floor: revision, changes: VecDeque::new() });
    let history = Arc::new(History { ring, limit });
    let (head, heads) = watch::channel(revision);
    (Publisher { history: history.clone(), head }, Source { history, head: heads, path })
}

impl Publisher {
    /// Adds writes that are durable, and wakes the watchers.
    pub(super) fn publish(&self, changes: Vec<Change>) {
        let Some(last) = changes.last().map(|change| change.revision) else { return };
        {
            let mut ring = self.history.ring();
            ring.changes.extend(changes.into_iter().map(Arc::new));
            while ring.changes.len() > self.history.limit {
                ring.floor += 1;
                ring.changes.pop_front();
            }
        }
        self.head.send_replace(last);
    }
}

impl History {
    /// The writes under the prefix after this revision, and the last revision looked at; none if
    /// some of the writes are no longer here.
    fn since(&self, revision: u64, prefix: &str) -> Option<(Vec<Change>, u64)> {
        let ring = self.ring();
        let head = ring.floor + ring.changes.len() as u64;
        // A revision that is yet to come is of another life of the store.
        if !(ring.floor..=head).contains(&revision) {
            return None;
        }
        let skipped = usize::try_from(revision - ring.floor).unwrap_or(usize::MAX);
        let new = ring.changes.range(skipped..);
        let fits = |change: &&Arc<Change>| change.key.starts_with(prefix);
        Some((new.filter(fits).map(|change| Change::clone(change)).collect(), head))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics while it is held.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher.
struct Watcher {
    source: Source,
    /// Weak: a watcher does not keep the store open.
    jobs: mpsc::WeakSender<Job>,
    prefix: String,
    /// All writes up to here have been told; none before the first snapshot.
    seen: Option<u64>,
}

impl Source {
    /// Follows the prefix.
    pub(super) fn watch(
        &self,
        jobs: mpsc::WeakSender<Job>,
        prefix: &str,
        after: Option<u64>,
    ) -> Watch {
        let prefix = prefix.to_owned();
        let watcher = Watcher { source: self.clone(), jobs, prefix, seen: after };
        stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            let seen = watcher.next().await;
            let goes_on = seen.is_ok().then_some(watcher);
            Some((seen, goes_on))
        })
        .boxed()
    }
}

impl Watcher {
    async fn next(&mut self) -> Result<Seen, StoreError> {
        loop {
            // Before the look: what is published after it wakes us.
            self.source.head.mark_unchanged();
            let new = self.seen.and_then(|seen| self.source.history.since(seen, &self.prefix));
            let Some((changes, upto)) = new else {
                return self.snapshot().await;
            };
            self.seen = Some(upto);
            if !changes.is_empty() {
                return Ok(Seen::Changes(changes));
            }
            if self.source.head.changed().await.is_err() {
                return Err(self.closed());
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Seen, StoreError> {
        let jobs = self.jobs.upgrade().ok_or_else(|| self.closed())?;
        let prefix = self.prefix.clone();
        let asked = ask(jobs, &self.source.path, move |tables| tables.snapshot(&prefix));
        let snapshot = asked.await?;
        self.seen = Some(snapshot.revision);
        Ok(Seen::Snapshot(snapshot))
    }

    fn closed(&self) -> StoreError {
        super::closed(&self.source.path)
    }
}
