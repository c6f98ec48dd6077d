//! Rests, over a store on disk.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;
use crate::region::{
    embedded::Embedded,
    store::{Answer, Entry, LeaseId, Snapshot, Watch, Write},
};

async fn rests(store: &Arc<dyn Store>, rest: Duration) -> Rests {
    let rests = Rests::load(store.clone(), "test/", rest, 0, BTreeSet::new()).await.unwrap();
    rests.add(1..=3);
    rests
}

async fn take(rests: &Rests) -> Option<u32> {
    rests.take(|_| false).await.unwrap()
}

/// As if this much more time had passed since the numbers were given back.
fn pass(rests: &Rests, time: Duration) {
    rests.inner.state().resting.iter_mut().for_each(|(_, until)| *until -= time);
}

#[tokio::test]
async fn reuse_is_least_recent_and_never_before_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
    let rests = rests(&store, REST).await;
    assert_eq!([take(&rests).await, take(&rests).await], [Some(1), Some(2)]);
    rests.give_back(2).await;
    rests.give_back(1).await;
    assert_eq!(take(&rests).await, Some(3), "a fresh one comes first");
    assert_eq!(take(&rests).await, None, "both others rest");
    pass(&rests, REST);
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
    let after = Rests::load(store.clone(), "test/", REST, 0, BTreeSet::new()).await.unwrap();
    after.add(5..=6);
    after.forget_others().await;
    assert!(store.list("test/").await.unwrap().is_empty());
}

/// A store that counts who waits for it, and fails on demand.
struct Watched {
    store: Embedded,
    puts: AtomicUsize,
    fails: AtomicBool,
}

impl Store for Watched {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        self.store.get(key)
    }

    fn put<'a>(&'a self, key: &'a str, value: serde_json::Value) -> Answer<'a, ()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            let (path, cause) = ("test".into(), "the disk is full".into());
            return Box::pin(async { Err(StoreError::Failed { path, cause }) });
        }
        self.store.put(key, value)
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a str,
        expected: Option<u64>,
        value: serde_json::Value,
    ) -> Answer<'a, bool> {
        self.store.compare_and_swap(key, expected, value)
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        self.store.delete(key)
    }

    fn snapshot<'a>(&'a self, prefix: &'a str) -> Answer<'a, Snapshot> {
        self.store.snapshot(prefix)
    }

    fn transact(&self, when: Vec<(String, Option<u64>)>, writes: Vec<Write>) -> Answer<'_, bool> {
        self.store.transact(when, writes)
    }

    fn watch(&self, prefix: &str, after: Option<u64>) -> Watch {
        self.store.watch(prefix, after)
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.store.revoke(lease)
    }
}

async fn marked(store: &Arc<Watched>, last: u32, ahead: usize, rest: Duration) -> Rests {
    let rests = Rests::load(store.clone(), "test/", rest, ahead, BTreeSet::new()).await.unwrap();
    rests.add(1..=last);
    let marked = rests.inner.marked.notified();
    rests.mark_more();
    marked.await;
    rests
}

fn watched(dir: &tempfile::TempDir) -> Arc<Watched> {
    let store = Embedded::open(dir.path()).unwrap();
    Arc::new(Watched { store, puts: 0.into(), fails: false.into() })
}

#[tokio::test]
async fn what_was_marked_ahead_is_lent_without_the_store_and_is_as_safe() {
    let dir = tempfile::tempdir().unwrap();
    let store = watched(&dir);
    let rests = marked(&store, 20, 4, REST).await;
    assert_eq!(store.puts.load(Ordering::SeqCst), 4);
    // From here on whoever needed the store would fail.
    store.fails.store(true, Ordering::SeqCst);
    assert_eq!(take(&rests).await, Some(1));
    assert_eq!(rests.take(|number| number == 2).await.unwrap(), Some(3));
    // The daemon is killed here: neither those lent nor those marked may be lent again.
    let died = store.list("test/").await.unwrap();
    assert_eq!(died.len(), 4);
    drop(rests);
    store.fails.store(false, Ordering::SeqCst);
    let after = marked(&store, 20, 4, REST).await;
    let lent: BTreeSet<_> = join_all((5..=20).map(|_| take(&after))).await.into_iter().collect();
    assert_eq!(lent, (5..=20).map(Some).collect());
    assert_eq!(take(&after).await, None, "1 to 4 rest");
}

#[tokio::test]
async fn every_number_is_lent_once_before_any_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let store = watched(&dir);
    let rests = marked(&store, 100, 8, REST).await;
    let all = join_all((0..101).map(|_| take(&rests))).await;
    let lent: BTreeSet<u32> = all.iter().copied().flatten().collect();
    assert_eq!(lent, (1..=100).collect(), "none twice, none lost");
    assert_eq!(all.iter().filter(|one| one.is_none()).count(), 1, "one too many");
}

#[tokio::test]
async fn a_store_that_fails_loses_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = watched(&dir);
    store.fails.store(true, Ordering::SeqCst);
    let rests = marked(&store, 10, 4, Duration::ZERO).await;
    rests.take(|_| false).await.unwrap_err();
    store.fails.store(false, Ordering::SeqCst);
    let all: BTreeSet<_> = join_all((0..10).map(|_| take(&rests))).await.into_iter().collect();
    assert_eq!(all, (1..=10).map(Some).collect());
}

#[tokio::test]
async fn what_outlived_the_daemon_is_lent_on_and_rests_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
    let before = rests(&store, REST).await;
    assert_eq!([take(&before).await, take(&before).await], [Some(1), Some(2)]);
    drop(before);

    // 3 is somebody's too, although the store never heard of it.
    let lent = BTreeSet::from([1, 3]);
    let after = Rests::load(store.clone(), "test/", REST, 0, lent).await.unwrap();
    after.add(1..=4);
    assert_eq!(take(&after).await, Some(4), "2 rests, the others are lent");
    assert_eq!(take(&after).await, None);
    after.give_back(1).await;
    drop(after);
    let later = rests(&store, REST).await;
    assert_eq!(take(&later).await, None, "what was in use rests");
    let none = Rests::load(store, "test/", Duration::ZERO, 0, BTreeSet::new()).await.unwrap();
    none.add(1..=4);
    assert!(take(&none).await.is_some());
}
