//! Numbers that are lent out and rest after use: raw ports and container addresses.
//!
//! A number goes to the next tenant only after packets meant for the last one can no longer
//! arrive. So numbers never used come first, then those that have rested longest, and none
//! before its rest is over. The store knows when each was given back, so that a restart does
//! not shorten a rest; a number that was in use when the daemon died rests from its return.
//!
//! The store must say "in use" before a number is lent, and that waits for the disk. So a few
//! numbers can be marked ahead of time: they are lent at once, and others are marked meanwhile.
//! Those that nobody had by the time the daemon dies rest like the others, which costs their
//! rest and no guarantee.

mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use self::state::{Next, State};
use super::store::{Store, StoreError};

/// How long a port or an address rests after use, unless configured otherwise.
pub const REST: Duration = Duration::from_secs(600);

/// Numbers of one kind. Clones are the same numbers.
#[derive(Clone)]
pub(super) struct Rests {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    prefix: &'static str,
    rest: Duration,
    /// How many are marked ahead of time.
    ahead: usize,
    state: Mutex<State>,
    /// Told whenever numbers have been marked.
    marked: Notify,
}

/// What the store keeps of a number that was ever lent.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Milliseconds since 1970; none while it is in use.
    given_back: Option<u64>,
}

impl Rests {
    /// Reads what the store remembers under the prefix, which ends with a slash. So many numbers
    /// are marked ahead of time. Those in `lent` are somebody's already and stay so.
    ///
    /// # Errors
    /// The store's own.
    pub(super) async fn load(
        store: Arc<dyn Store>,
        prefix: &'static str,
        rest: Duration,
        ahead: usize,
        lent: BTreeSet<u32>,
    ) -> Result<Self, StoreError> {
        let now = milliseconds(SystemTime::now());
        let mut remembered = BTreeMap::new();
        for (key, entry) in store.list(prefix).await? {
            let record: Record = entry.read(&key)?;
            if let Some(number) = key.strip_prefix(prefix).and_then(|number| number.parse().ok()) {
                // The clock may have been set back since.
                remembered.insert(number, record.given_back.unwrap_or(now).min(now));
            }
        }
        let unknown: Vec<_> =
            lent.iter().copied().filter(|number| remembered.remove(number).is_none()).collect();
        let state = Mutex::new(State { remembered, lent, ..State::default() });
        let marked = Notify::new();
        let inner = Arc::new(Inner { store, prefix, rest, ahead, state, marked });
        for number in unknown {
            inner.remember(number, None).await?;
        }
        Ok(Self { inner })
    }

    /// Lends these numbers too, in this order those that were never used.
    pub(super) fn add(&self, numbers: impl IntoIterator<Item = u32>) {
        let (now, today) = (Instant::now(), milliseconds(SystemTime::now()));
        let mut state = self.inner.state();
        let mut used = Vec::new();
        for number in numbers {
            if state.lent.contains(&number) {
                continue;
            }
            match state.remembered.remove(&number) {
                Some(given_back) => used.push((given_back, number)),
                None => state.fresh.push_back(number),
            }
        }
        used.sort_unstable();
        for (given_back, number) in used {
            let age = Duration::from_millis(today.saturating_sub(given_back));
            state.resting.push_back((number, now + self.inner.rest.saturating_sub(age)));
        }
    }

    /// Drops what the store remembers of numbers that no [`Rests::add`] claimed.
    pub(super) async fn forget_others(&self) {
        let others = std::mem::take(&mut self.inner.state().remembered);
        for number in others.into_keys() {
            if let Err(error) = self.inner.store.delete(&self.inner.key(number)).await {
                tracing::warn!(%error, number, "a number that is no longer lent stays remembered");
            }
        }
    }

    /// Lends a number, passing over those that the caller refuses; none if none is left.
    ///
    /// # Errors
    /// The store's own; then nothing is lent.
    pub(super) async fn take(
        &self,
        refuse: impl Fn(u32) -> bool,
    ) -> Result<Option<u32>, StoreError> {
        loop {
            // Before the look: what is marked after it is not missed.
            let marked = self.inner.marked.notified();
            match self.pick(&refuse) {
                Pick::Ready(number) => {
                    self.mark_more();
                    return Ok(Some(number));
                }
                Pick::Unmarked(number) => {
                    let mut lent = Lent { rests: self, number: Some(number) };
                    self.inner.remember(number, None).await?;
                    lent.number = None;
                    self.mark_more();
                    return Ok(Some(number));
                }
                Pick::Later => marked.await,
                Pick::Nothing => return Ok(None),
            }
        }
    }

    /// Lends this very number, whether it rests or not. Answers whether it was not lent yet.
    pub(super) async fn claim(&self, number: u32) -> bool {
        if !self.inner.state().claim(number) {
            return false;
        }
        if let Err(error) = self.inner.remember(number, None).await {
            tracing::warn!(%error, number, "the store does not know that a number is in use");
        }
        true
    }

    /// Takes a number back; its rest begins.
    pub(super) async fn give_back(&self, number: u32) {
        if !self.begin_rest(number) {
            return;
        }
        // If this fails the store still says "in use", and the number rests from the next start.
        let now = Some(milliseconds(SystemTime::now()));
        if let Err(error) = self.inner.remember(number, now).await {
            tracing::warn!(%error, number, "the store does not know that a number rests");
        }
    }

    /// How long each number rests.
    pub(super) fn rest(&self) -> Duration {
        self.inner.rest
    }

    /// Marks numbers until enough are ready, in a task of its own: nobody waits for it, and
    /// nobody who goes away ends it half-way.
    pub(super) fn mark_more(&self) {
        let Some(picked) = self.inner.state().pick_to_mark(self.inner.ahead, Instant::now()) else {
            return;
        };
        let inner = self.inner.clone();
        tokio::spawn(async move {
            // Together: the store writes them in one go.
            let marks = picked.iter().map(|(number, _)| inner.remember(*number, None));
            let outcomes = join_all(marks).await;
            let mut state = inner.state();
            let mut failed = Vec::new();
            for (candidate, outcome) in picked.into_iter().zip(outcomes) {
                match outcome {
                    // Another gateway's tenant has it meanwhile.
                    Ok(()) if state.lent.contains(&candidate.0) => {}
                    Ok(()) => state.ready.push_back(candidate),
                    Err(error) => {
                        tracing::warn!(%error, number = candidate.0, "not marked ahead of time");
                        failed.push(candidate);
                    }
                }
            }
            // Backwards, so that what rested longest comes first again.
            failed.into_iter().rev().for_each(|candidate| state.put_back(candidate));
            state.marking = false;
            drop(state);
            inner.marked.notify_waiters();
        });
    }

    fn pick(&self, refuse: impl Fn(u32) -> bool) -> Pick {
        // The state is unlocked while the caller thinks, which may take a system call.
        let mut refused = Vec::new();
        let picked = loop {
            let next = self.inner.state().next(Instant::now());
            let (candidate, pick) = match next {
                Next::Ready(candidate) => (candidate, Pick::Ready(candidate.0)),
                Next::Unmarked(candidate) => (candidate, Pick::Unmarked(candidate.0)),
                Next::Later => break Pick::Later,
                Next::Nothing => break Pick::Nothing,
            };
            if !refuse(candidate.0) {
                break pick;
            }
            refused.push(candidate);
        };
        let mut state = self.inner.state();
        for candidate in refused.into_iter().rev() {
            state.lent.remove(&candidate.0);
            state.put_back(candidate);
        }
        picked
    }

    fn begin_rest(&self, number: u32) -> bool {
        let mut state = self.inner.state();
        let lent = state.lent.remove(&number);
        if lent {
            state.resting.push_back((number, Instant::now() + self.inner.rest));
        }
        lent
    }
}

impl Inner {
    async fn remember(&self, number: u32, given_back: Option<u64>) -> Result<(), StoreError> {
        let key = self.key(number);
        let value = serde_json::to_value(Record { given_back })
            .map_err(|source| StoreError::Value { key: key.clone(), source })?;
        self.store.put(&key, value).await
    }

    fn key(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the numbers are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at the numbers came to.
enum Pick {
    /// This one, and the store has it.
    Ready(u32),
    /// This one, once the store has it.
    Unmarked(u32),
    /// The last ones are being marked.
    Later,
    /// None is left.
    Nothing,
}

/// Gives a number back if the caller went away while the store was still writing.
struct Lent<'r> {
    rests: &'r Rests,
    number: Option<u32>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.rests.begin_rest(number);
        }
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
