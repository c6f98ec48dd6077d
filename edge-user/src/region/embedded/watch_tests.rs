//! Watches and leases of a file, beyond what every store promises.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use serde_json::json;

use super::*;
use crate::region::store::{
    Seen,
    promises::{Known, LONG, put, told},
};

#[tokio::test]
async fn a_slow_watcher_is_told_a_snapshot_never_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::remembering(dir.path(), 4).unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    for number in 0..10 {
        store.put(&format!("k/{number}"), json!(number)).await.unwrap();
    }
    known.learn(told(&mut watch).await);
    assert_eq!((known.snapshots, known.entries.len()), (2, 10));
    store.put("k/0", json!("new")).await.unwrap();
    known.learn(told(&mut watch).await);
    assert_eq!((known.snapshots, &known.entries["k/0"]), (2, &json!("new")));
}

#[tokio::test]
async fn a_revision_of_the_future_or_of_a_former_life_means_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    store.put("a", json!(1)).await.unwrap();
    let mut watch = store.watch("", Some(99));
    assert!(matches!(told(&mut watch).await, Seen::Snapshot(_)));
    store.put("a", json!(2)).await.unwrap();
    drop(store);
    assert!(matches!(told(&mut watch).await, Seen::Changes(_)), "what was written is told");
    assert!(watch.next().await.unwrap().is_err(), "it says that the store is gone");
    assert!(watch.next().await.is_none());
    let store = Embedded::open(dir.path()).unwrap();
    assert!(matches!(told(&mut store.watch("", Some(1))).await, Seen::Snapshot(_)));
    let mut current = store.watch("", Some(2));
    store.put("a", json!(3)).await.unwrap();
    assert!(matches!(told(&mut current).await, Seen::Changes(_)));
}

#[tokio::test]
async fn a_watch_ends_with_a_close_and_goes_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    store.put("a", json!(1)).await.unwrap();
    let lease = store.grant(LONG).await.unwrap();
    store.transact(vec![], vec![put("b", json!(1), Some(lease))]).await.unwrap();
    let (mut early, mut asked) = (store.watch("", None), store.watch("", None));
    told(&mut asked).await;
    store.close();
    for watch in [early.by_ref(), asked.by_ref(), &mut store.watch("", None)] {
        assert!(watch.next().await.unwrap().is_err(), "it says that the store is closed");
        assert!(watch.next().await.is_none());
    }
    // Somebody else writes meanwhile.
    let other = Embedded::open(dir.path()).unwrap();
    other.put("a", json!(2)).await.unwrap();
    drop(other);
    store.reopen().unwrap();
    let mut known = Known::default();
    let mut watch = store.watch("", Some(2));
    known.learn(told(&mut watch).await);
    assert_eq!((known.snapshots, &known.entries["a"]), (1, &json!(2)));
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    known.learn(told(&mut watch).await);
    assert_eq!(known.entries, BTreeMap::from([("a".to_owned(), json!(2))]));
}

#[tokio::test]
async fn what_is_leased_is_told_as_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open_leased(dir.path()).unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    for number in 1..=3 {
        store.put("a", json!(number)).await.unwrap();
        known.learn(told(&mut watch).await);
        assert_eq!((known.snapshots, &known.entries["a"]), (number, &json!(number)));
    }
}

#[tokio::test]
async fn a_file_without_leases_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path().join("region.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        let entries = redb::TableDefinition::<&str, (u64, &[u8])>::new("entries");
        let mut meta = transaction.open_table(meta).unwrap();
        meta.insert("layout", 1).unwrap();
        meta.insert("revision", 7).unwrap();
        transaction.open_table(entries).unwrap().insert("old", (7, b"1".as_slice())).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.get("old").await.unwrap(), Some(Entry { value: json!(1), revision: 7 }));
    let lease = store.grant(LONG).await.unwrap();
    store.transact(vec![], vec![put("new", json!(2), Some(lease))]).await.unwrap();
    assert_eq!(store.get("new").await.unwrap().unwrap().revision, 8);
}
