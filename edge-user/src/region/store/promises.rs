//! What every store promises, as tests that each engine runs.

mod known;
mod leases;
mod model;
mod watches;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

pub(crate) use self::{known::*, leases::*, model::*, watches::*};
use super::{LeaseId, Store, Write};

/// An engine to test.
pub(crate) trait Engine: Sized + 'static {
    /// A lease that ends within a test's patience.
    const SHORT: Duration;
    /// Histories of the model: what the engine's speed allows.
    const HISTORIES: u32;

    /// An empty store.
    async fn begin() -> Self;
    /// Another one, empty as well; it may remember few writes for watchers.
    async fn another(&mut self);
    /// A handle; several work on the same store.
    async fn store(&self) -> Arc<dyn Store>;
    /// The engine ends with all handles, and goes on with what it kept.
    async fn restart(&mut self);
    /// Watchers that are not yet told of the writes so far are told a snapshot.
    async fn forget(&self);
}

/// Each promise as a test of this engine. The attributes are those of the tests.
macro_rules! keeps_every_promise {
    ($engine:ty $(, $attribute:meta)*) => {
        crate::region::store::promises::each_promise! {
            $engine, [$(#[$attribute])*],
            entries_survive_and_revisions_grow,
            of_many_who_claim_a_key_one_wins,
            a_transaction_is_all_or_nothing,
            a_prefix_is_no_more_than_a_beginning,
            a_watch_resumes_where_it_was,
            a_watcher_is_told_of_every_write_in_order,
            a_revision_of_the_future_means_a_snapshot,
            what_is_forgotten_is_told_as_a_snapshot,
            a_lease_takes_its_keys_along_and_watchers_see_it,
            a_revoked_lease_ends_at_once,
            a_lease_that_is_kept_alive_outlives_its_time_and_the_store,
            snapshot_and_changes_are_the_list_at_each_revision,
        }
    };
}

macro_rules! each_promise {
    ($engine:ty, $attributes:tt, $($name:ident,)*) => {
        $(crate::region::store::promises::one_promise! { $engine, $attributes, $name })*
    };
}

macro_rules! one_promise {
    ($engine:ty, [$($attribute:tt)*], $name:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $name() {
            crate::region::store::promises::$name::<$engine>().await;
        }
    };
}

pub(crate) use {each_promise, keeps_every_promise, one_promise};

/// For what nothing shall end.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn put(key: &str, value: Value, lease: Option<LeaseId>) -> Write {
    Write::Put { key: key.to_owned(), value, lease }
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|(key, _)| key).collect()
}

pub(crate) async fn entries_survive_and_revisions_grow<E: Engine>() {
    let mut engine = E::begin().await;
    let store = engine.store().await;
    store.put("a/1", json!({"x": 1})).await.unwrap();
    store.put("a/2", json!(2)).await.unwrap();
    store.put("b/1", json!(3)).await.unwrap();
    let before = store.get("a/1").await.unwrap().unwrap();
    assert_eq!(store.get("a/3").await.unwrap(), None);
    drop(store);
    engine.restart().await;

    let store = engine.store().await;
    assert_eq!(store.get("a/1").await.unwrap(), Some(before.clone()));
    assert_eq!(keys(&store, "a/").await, ["a/1", "a/2"]);
    assert!(store.delete("a/2").await.unwrap());
    assert!(!store.delete("a/2").await.unwrap());
    store.put("a/1", json!(4)).await.unwrap();
    assert!(store.get("a/1").await.unwrap().unwrap().revision > before.revision);
}

pub(crate) async fn of_many_who_claim_a_key_one_wins<E: Engine>() {
    let engine = E::begin().await;
    let (one, two) = (engine.store().await, engine.store().await);
    let claims = (0..50).map(|n| {
        let store = if n % 2 == 0 { &one } else { &two };
        store.compare_and_swap("key", None, json!(n))
    });
    let won = futures::future::try_join_all(claims).await.unwrap();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let entry = two.get("key").await.unwrap().unwrap();
    assert!(won[usize::try_from(entry.value.as_u64().unwrap()).unwrap()], "the winner's stands");
    assert!(!one.compare_and_swap("key", Some(entry.revision + 1), json!(0)).await.unwrap());
    assert!(one.compare_and_swap("key", Some(entry.revision), json!(0)).await.unwrap());
}

pub(crate) async fn a_transaction_is_all_or_nothing<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    store.put("a", json!(1)).await.unwrap();
    store.put("b", json!(1)).await.unwrap();
    let revision = store.get("a").await.unwrap().unwrap().revision;
    let writes = || {
        vec![put("a", json!(2), None), Write::Delete { key: "b".into() }, put("c", json!(2), None)]
    };
    let both = |absent: &str| vec![("a".to_owned(), Some(revision)), (absent.to_owned(), None)];
    assert!(!store.transact(both("b"), writes()).await.unwrap(), "one condition does not hold");
    assert_eq!(keys(&store, "").await, ["a", "b"]);
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, revision);

    let lease = store.grant(LONG).await.unwrap();
    store.revoke(lease).await.unwrap();
    let mut leased = writes();
    leased.push(put("d", json!(2), Some(lease)));
    let refused = store.transact(both("c"), leased.clone()).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("{lease:x}")), "{refused}");
    assert_eq!(keys(&store, "").await, ["a", "b"]);
    assert!(!store.transact(both("b"), leased).await.unwrap(), "the conditions come first");

    assert!(store.transact(both("c"), writes()).await.unwrap());
    assert_eq!(keys(&store, "").await, ["a", "c"]);
    assert!(!store.transact(both("c"), writes()).await.unwrap());
    // Of two writes of a key the last one counts.
    let twice = vec![put("a", json!(3), None), Write::Delete { key: "a".into() }];
    assert!(store.transact(vec![], twice).await.unwrap());
    assert_eq!(keys(&store, "").await, ["c"]);
}

pub(crate) async fn a_prefix_is_no_more_than_a_beginning<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    for key in ["a", "a/1", "a/ü", "ab", "b"] {
        store.put(key, json!(key)).await.unwrap();
    }
    assert_eq!(keys(&store, "").await, ["a", "a/1", "a/ü", "ab", "b"]);
    assert_eq!(keys(&store, "a").await, ["a", "a/1", "a/ü", "ab"]);
    assert_eq!(keys(&store, "a/").await, ["a/1", "a/ü"]);
    assert_eq!(keys(&store, "c").await, [""; 0]);
    assert_eq!(store.get("a/ü").await.unwrap().unwrap().value, json!("a/ü"));
}
