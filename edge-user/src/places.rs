//! Bounds on how many there may be at a time: [`Places`] refuses the newest, [`Turnover`] sends
//! the oldest away.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::{Future, pending},
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

/// So many at a time, of all and of each key; one more is refused. For what may stay as long as
/// it likes: who is in keeps the place.
pub(crate) struct Places<K> {
    all: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

struct Taken<K> {
    all: usize,
    /// Only keys that have a place.
    each: HashMap<K, usize>,
}

/// One of a key's places, until it is dropped.
pub(crate) struct Place<K: Hash + Eq> {
    taken: Arc<Mutex<Taken<K>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// So many places in all.
    pub(crate) fn new(all: usize) -> Self {
        Self { all, taken: Arc::new(Mutex::new(Taken { all: 0, each: HashMap::new() })) }
    }

    /// A place for this key, unless it has `each` of them or all are taken.
    pub(crate) fn take(&self, key: K, each: usize) -> Option<Place<K>> {
        let mut taken = lock(&self.taken);
        let of_key = taken.each.get(&key).copied().unwrap_or(0);
        if of_key >= each || taken.all >= self.all {
            return None;
        }
        taken.all += 1;
        taken.each.insert(key.clone(), of_key + 1);
        drop(taken);
        Some(Place { taken: self.taken.clone(), key })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(count) = taken.each.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.each.remove(&self.key);
            }
        }
    }
}

/// So many at a time, of all and of each key; with one more the oldest goes. For what is over
/// soon if it is honest: those that only hold their place are the oldest, and however many
/// come, each has had time in proportion to the bound.
pub(crate) struct Turnover<K> {
    all: usize,
    each: usize,
    inside: Arc<Mutex<Inside<K>>>,
}

struct Inside<K> {
    next: u64,
    by_age: BTreeMap<u64, (K, oneshot::Sender<Crowd>)>,
    by_key: HashMap<K, BTreeSet<u64>>,
}

/// Of whom there were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// Of all together.
    All,
    /// Of one key.
    Each,
}

/// Somebody's time inside, until it is dropped.
pub(crate) struct Turn<K: Hash + Eq> {
    inside: Arc<Mutex<Inside<K>>>,
    number: u64,
    displaced: oneshot::Receiver<Crowd>,
}

impl<K: Hash + Eq + Clone> Turnover<K> {
    /// Room for so many in all, and for so many of each key.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        let inside = Inside { next: 0, by_age: BTreeMap::new(), by_key: HashMap::new() };
        Self { all, each, inside: Arc::new(Mutex::new(inside)) }
    }

    /// Lets one more in. If there is no room, the oldest of its key or of all has to go.
    pub(crate) fn enter(&self, key: K) -> Turn<K> {
        let mut inside = lock(&self.inside);
        let of_key = inside.by_key.get(&key);
        let oldest_of_key = of_key
            .filter(|numbers| numbers.len() >= self.each)
            .and_then(|numbers| numbers.first().copied());
        if let Some(number) = oldest_of_key {
            inside.displace(number, Crowd::Each);
        } else if inside.by_age.len() >= self.all
            && let Some(number) = inside.by_age.keys().next().copied()
        {
            inside.displace(number, Crowd::All);
        }
        let (tell, displaced) = oneshot::channel();
        let number = inside.next;
        inside.next += 1;
        inside.by_key.entry(key.clone()).or_default().insert(number);
        inside.by_age.insert(number, (key, tell));
        drop(inside);
        Turn { inside: self.inside.clone(), number, displaced }
    }
}

impl<K: Hash + Eq> Inside<K> {
    fn displace(&mut self, number: u64, crowd: Crowd) {
        if let Some(tell) = self.remove(number) {
            // Who is just leaving by itself need not be told.
            tell.send(crowd).ok();
        }
    }

    fn remove(&mut self, number: u64) -> Option<oneshot::Sender<Crowd>> {
        let (key, tell) = self.by_age.remove(&number)?;
        if let Some(numbers) = self.by_key.get_mut(&key) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_key.remove(&key);
            }
        }
        Some(tell)
    }
}

impl<K: Hash + Eq> Turn<K> {
    /// Returns when a newer one has taken this place. Safe to cancel and to call again.
    pub(crate) async fn displaced(&mut self) -> Crowd {
        match (&mut self.displaced).await {
            Ok(crowd) => crowd,
            // The sender goes only by saying so, or with this turn.
            Err(_) => pending().await,
        }
    }

    /// The same for those who poll.
    pub(crate) fn poll_displaced(&mut self, context: &mut Context<'_>) -> Poll<Crowd> {
        match ready!(Pin::new(&mut self.displaced).poll(context)) {
            Ok(crowd) => Poll::Ready(crowd),
            Err(_) => Poll::Pending,
        }
    }
}

impl<K: Hash + Eq> Drop for Turn<K> {
    fn drop(&mut self) {
        lock(&self.inside).remove(self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn each_key_has_its_own_places() {
        let places = Places::new(3);
        let first = places.take("one", 2).unwrap();
        let _second = places.take("one", 2).unwrap();
        assert!(places.take("one", 2).is_none());
        let _third = places.take("two", 2).unwrap();
        assert!(places.take("three", 2).is_none(), "all are taken");
        drop(first);
        assert!(places.take("one", 2).is_some());
        assert_eq!(lock(&places.taken).each.len(), 2, "who has none is not remembered");
        assert_eq!(lock(&places.taken).all, 2);
    }

    #[test]
    fn the_oldest_goes_first_of_its_key_then_of_all() {
        let turnover = Turnover::new(3, 2);
        let mut turns: Vec<_> = ["a", "b", "a"].map(|key| turnover.enter(key)).into();
        // The third of one key displaces that key's oldest, although there is none left for all.
        let fourth = turnover.enter("a");
        assert_eq!(turns[0].displaced().now_or_never(), Some(Crowd::Each));
        assert_eq!(turns[1].displaced().now_or_never(), None);
        // One of a new key displaces the oldest of all.
        let fifth = turnover.enter("c");
        assert_eq!(turns[1].displaced().now_or_never(), Some(Crowd::All));
        assert_eq!(turns[2].displaced().now_or_never(), None);
        drop((turns, fourth, fifth));
        assert!(lock(&turnover.inside).by_age.is_empty());
        assert!(lock(&turnover.inside).by_key.is_empty());
    }
}
