//! Numbers that are lent out and rest after use: raw ports and container addresses.
//!
//! A number goes to the next tenant only after packets meant for the last one can no longer
//! arrive. So numbers never used come first, then those that have rested longest, and none
//! before its rest is over. The store knows when each was given back, so that a restart does
//! not shorten a rest; a number that was in use when the daemon died rests from its return.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::store::{Store, StoreError};

/// How long a port or an address rests after use, unless configured otherwise.
pub const REST: Duration = Duration::from_secs(600);

/// Numbers of one kind.
pub(super) struct Rests {
    store: Arc<dyn Store>,
    prefix: &'static str,
    rest: Duration,
    state: Mutex<State>,
}

/// What the store keeps of a number that was ever lent.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Milliseconds since 1970; none while it is in use.
    given_back: Option<u64>,
}

#[derive(Default)]
struct State {
    fresh: VecDeque<u32>,
    lent: BTreeSet<u32>,
    /// In the order in which they were given back, with the time when they may be lent again.
    resting: VecDeque<(u32, Instant)>,
    /// Read from the store and not claimed by [`Rests::add`] yet.
    remembered: BTreeMap<u32, u64>,
}

impl Rests {
    /// Reads what the store remembers under the prefix, which ends with a slash.
    ///
    /// # Errors
    /// The store's own.
    pub(super) async fn load(
        store: Arc<dyn Store>,
        prefix: &'static str,
        rest: Duration,
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
        let state = Mutex::new(State { remembered, ..State::default() });
        Ok(Self { store, prefix, rest, state })
    }

    /// Lends these numbers too, in this order those that were never used.
    pub(super) fn add(&self, numbers: impl IntoIterator<Item = u32>) {
        let (now, today) = (Instant::now(), milliseconds(SystemTime::now()));
        let mut state = self.state();
        let mut used = Vec::new();
        for number in numbers {
            match state.remembered.remove(&number) {
                Some(given_back) => used.push((given_back, number)),
                None => state.fresh.push_back(number),
            }
        }
        used.sort_unstable();
        for (given_back, number) in used {
            let age = Duration::from_millis(today.saturating_sub(given_back));
            state.resting.push_back((number, now + self.rest.saturating_sub(age)));
        }
    }

    /// Drops what the store remembers of numbers that no [`Rests::add`] claimed.
    pub(super) async fn forget_others(&self) {
        let others = std::mem::take(&mut self.state().remembered);
        for number in others.into_keys() {
            if let Err(error) = self.store.delete(&self.key(number)).await {
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
        let Some(number) = self.pick(refuse) else {
            return Ok(None);
        };
        let mut lent = Lent { rests: self, number: Some(number) };
        self.remember(number, None).await?;
        lent.number = None;
        Ok(Some(number))
    }

    /// Takes a number back; its rest begins.
    pub(super) async fn give_back(&self, number: u32) {
        if !self.begin_rest(number) {
            return;
        }
        // If this fails the store still says "in use", and the number rests from the next start.
        if let Err(error) = self.remember(number, Some(milliseconds(SystemTime::now()))).await {
            tracing::warn!(%error, number, "the store does not know that a number rests");
        }
    }

    /// How long each number rests.
    pub(super) fn rest(&self) -> Duration {
        self.rest
    }

    fn pick(&self, refuse: impl Fn(u32) -> bool) -> Option<u32> {
        // The state is unlocked while the caller thinks, which may take a system call.
        let mut refused = Vec::new();
        let picked = loop {
            let Some(candidate) = self.state().next(Instant::now()) else {
                break None;
            };
            if !refuse(candidate.0) {
                break Some(candidate.0);
            }
            refused.push(candidate);
        };
        let mut state = self.state();
        for (number, rested) in refused.into_iter().rev() {
            state.lent.remove(&number);
            match rested {
                Some(since) => state.resting.push_front((number, since)),
                None => state.fresh.push_back(number),
            }
        }
        picked
    }

    fn begin_rest(&self, number: u32) -> bool {
        let mut state = self.state();
        let lent = state.lent.remove(&number);
        if lent {
            state.resting.push_back((number, Instant::now() + self.rest));
        }
        lent
    }

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

impl State {
    /// Lends the next number; with it, when it could have been lent first.
    fn next(&mut self, now: Instant) -> Option<(u32, Option<Instant>)> {
        let next = match self.fresh.pop_front() {
            Some(number) => (number, None),
            None => {
                let (number, since) = self.resting.pop_front_if(|(_, since)| *since <= now)?;
                (number, Some(since))
            }
        };
        self.lent.insert(next.0);
        Some(next)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::embedded::Embedded;

    async fn rests(store: &Arc<dyn Store>, rest: Duration) -> Rests {
        let rests = Rests::load(store.clone(), "test/", rest).await.unwrap();
        rests.add(1..=3);
        rests
    }

    async fn take(rests: &Rests) -> Option<u32> {
        rests.take(|_| false).await.unwrap()
    }

    #[tokio::test]
    async fn reuse_is_least_recent_and_never_before_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let rest = Duration::from_millis(150);
        let rests = rests(&store, rest).await;
        assert_eq!([take(&rests).await, take(&rests).await], [Some(1), Some(2)]);
        rests.give_back(2).await;
        rests.give_back(1).await;
        assert_eq!(take(&rests).await, Some(3), "a fresh one comes first");
        assert_eq!(take(&rests).await, None, "both others rest");
        tokio::time::sleep(rest).await;
        let refused = rests.take(|number| number == 2).await.unwrap();
        assert_eq!(refused, Some(1), "the caller refused 2");
        assert_eq!(take(&rests).await, Some(2), "what was refused is not lost");
        assert_eq!(take(&rests).await, None);
    }

    #[tokio::test]
    async fn rests_outlive_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let before = rests(&store, REST).await;
        take(&before).await;
        take(&before).await;
        before.give_back(1).await;
        drop(before);

        let after = rests(&store, REST).await;
        assert_eq!(take(&after).await, Some(3));
        assert_eq!(take(&after).await, None, "1 rests, and 2 was in use when the daemon died");

        let later = rests(&store, Duration::ZERO).await;
        assert_eq!([take(&later).await, take(&later).await], [Some(1), Some(2)]);
    }

    #[tokio::test]
    async fn what_is_no_longer_lent_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let before = rests(&store, REST).await;
        take(&before).await;
        let after = Rests::load(store.clone(), "test/", REST).await.unwrap();
        after.add(5..=6);
        after.forget_others().await;
        assert!(store.list("test/").await.unwrap().is_empty());
    }
}
