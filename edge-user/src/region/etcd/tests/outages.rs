//! etcd goes, and comes back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Access, Etcd, EtcdError, Known, Seen, Server, compact, open, put, told, wire::Wire, write,
};
use crate::region::{
    etcd::Place,
    store::{Store, StoreError, promises::LONG},
};

fn over(members: &[&str]) -> Place {
    format!("etcd://{}/r5", members.join(",")).parse().unwrap()
}

async fn reach(members: &[&str]) -> Result<Etcd, StoreError> {
    Etcd::open(over(members), &Access::default()).await
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn a_watch_outlives_a_restart_of_etcd_and_misses_nothing() {
    let mut server = Server::start();
    let store = Arc::new(open(&server, "r5").await);
    let lease = store.grant(LONG).await.unwrap();
    store.transact(vec![], vec![put("leased", json!(0), Some(lease))]).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    for number in 1..=3 {
        server.kill();
        let writer = store.clone();
        let write = tokio::spawn(async move { write(&writer, "a", number).await });
        tokio::task::yield_now().await;
        server.run();
        write.await.unwrap();
        known.until(&mut watch, |known| known.entries.get("a") == Some(&json!(number))).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert_eq!(known.snapshots, 1, "etcd has kept all of it");
    store.revoke(lease).await.unwrap();
    known.until(&mut watch, |known| !known.entries.contains_key("leased")).await;
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn what_is_compacted_while_the_connection_is_lost_is_told_as_a_snapshot() {
    let server = Server::start();
    let mut wire = Wire::to(server.address()).await;
    let (store, other) = (reach(&[wire.address()]).await.unwrap(), open(&server, "r5").await);
    for key in ["a", "b"] {
        store.put(key, json!(1)).await.unwrap();
    }
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    wire.cut().await;
    // The last write before a compaction is the one that some releases of etcd forget.
    other.delete("a").await.unwrap();
    compact(&server).await;
    wire.mend().await;
    let left = BTreeMap::from([("b".to_owned(), json!(1))]);
    known.until(&mut watch, |known| known.entries == left).await;
    wire.cut().await;
    other.put("c", json!(1)).await.unwrap();
    other.delete("b").await.unwrap();
    compact(&server).await;
    wire.mend().await;
    known.learn(told(&mut watch).await);
    assert_eq!(known.snapshots, 3);
    assert_eq!(known.entries, BTreeMap::from([("c".to_owned(), json!(1))]));
    // And without a compaction nothing but what is new.
    wire.cut().await;
    other.delete("c").await.unwrap();
    wire.mend().await;
    known.learn(told(&mut watch).await);
    assert_eq!((known.snapshots, known.entries.len()), (3, 0));
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn an_etcd_that_lost_everything_is_told_as_a_snapshot() {
    let mut server = Server::start();
    let mut wire = Wire::to(server.address()).await;
    open(&server, "r5").await.put("old", json!(1)).await.unwrap();
    let store = reach(&[wire.address()]).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    wire.cut().await;
    server.wipe();
    server.run();
    let other = open(&server, "r5").await;
    for number in 0..10 {
        other.put("new", json!(number)).await.unwrap();
    }
    // By now its revisions are those that the watcher knows.
    wire.mend().await;
    let whole = BTreeMap::from([("new".to_owned(), json!(9))]);
    let mut anew = Known::default();
    loop {
        match told(&mut watch).await {
            seen @ Seen::Snapshot(_) => anew.learn(seen),
            seen => {
                assert!(anew.snapshots > 0, "changes of another life: {seen:?}");
                anew.learn(seen);
            }
        }
        if anew.entries == whole {
            break;
        }
    }
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn a_write_whose_answer_is_lost_is_neither_repeated_nor_called_a_failure() {
    let server = Server::start();
    let mut wire = Wire::to(server.address()).await;
    let (store, other) = (reach(&[wire.address()]).await.unwrap(), open(&server, "r5").await);
    let store = Arc::new(store);
    wire.deafen();
    let writer = store.clone();
    let write = tokio::spawn(async move { writer.compare_and_swap("a", None, json!(1)).await });
    let mut watch = other.watch("", None);
    let mut known = Known::default();
    known.until(&mut watch, |known| known.entries.contains_key("a")).await;
    wire.cut().await;
    let error = write.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Etcd(EtcdError::Uncertain { .. })), "{error}");
    wire.mend().await;
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!(entry.value, json!(1));
    assert!(store.compare_and_swap("a", Some(entry.revision), json!(2)).await.unwrap());
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn one_member_that_answers_is_enough() {
    let server = Server::start();
    // Nobody listens there, and there.
    let store = reach(&["127.0.0.9:1", server.address(), "127.0.0.9:2"]).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    for number in 0..50 {
        store.put(&format!("k/{number}"), json!(number)).await.unwrap();
    }
    known.until(&mut watch, |known| known.entries.len() == 50).await;
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_with_a_remedy() {
    let error = reach(&["127.0.0.9:1"]).await.unwrap_err();
    assert!(matches!(error, StoreError::Etcd(EtcdError::Unreachable { .. })), "{error}");
    let text = error.to_string();
    for part in ["etcd://127.0.0.9:1/r5", "refused", "check that it runs"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn while_etcd_is_away_calls_say_so_and_nothing_was_written() {
    let mut server = Server::start();
    let store = open(&server, "r5").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    server.kill();
    // The question finds that the connection is broken; the write is not sent any more.
    let list = store.list("").await;
    let key = store.put("a", json!(1)).await;
    let (kept, granted) = tokio::join!(store.keep_alive(lease), store.grant(LONG));
    for error in [key.unwrap_err(), list.unwrap_err(), kept.unwrap_err(), granted.unwrap_err()] {
        assert!(matches!(error, StoreError::Etcd(EtcdError::Unreachable { .. })), "{error}");
    }
    server.run();
    assert_eq!(store.get("a").await.unwrap(), None);
    store.keep_alive(lease).await.unwrap();
}
