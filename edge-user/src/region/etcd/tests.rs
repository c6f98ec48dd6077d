//! The store over a real etcd.

mod access;
mod outages;
mod promises;
mod wire;

use std::sync::Arc;

use serde_json::json;

use super::{Access, Etcd, EtcdError, server::Server};
use crate::region::store::{
    Seen, Store, StoreError,
    promises::{Known, put, told},
};

async fn open(server: &Server, prefix: &str) -> Etcd {
    Etcd::open(server.place(prefix), &Access::default()).await.unwrap()
}

/// etcd's own client: what an operator does to it.
async fn operator(server: &Server) -> etcd_client::Client {
    etcd_client::Client::connect([format!("http://{}", server.address())], None).await.unwrap()
}

/// Throws away all writes before the last one.
async fn compact(server: &Server) {
    let mut client = operator(server).await;
    let revision = client.get("/", None).await.unwrap().header().unwrap().revision();
    if let Err(error) = client.compact(revision, None).await {
        assert!(error.to_string().contains("has been compacted"), "{error}");
    }
}

/// Writes over an outage. What is written as the connection breaks may be lost or not; what comes
/// after waits for a new one.
async fn write(store: &Etcd, key: &str, value: u32) {
    while let Err(error) = store.put(key, json!(value)).await {
        assert!(matches!(error, StoreError::Etcd(EtcdError::Uncertain { .. })), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn regions_share_an_etcd() {
    let server = Server::start();
    let (one, two) = (open(&server, "edge/r5").await, open(&server, "edge/r55").await);
    let whole = open(&server, "edge").await;
    let mut watch = two.watch("", None);
    assert!(matches!(told(&mut watch).await, Seen::Snapshot(all) if all.entries.is_empty()));
    one.put("key", json!(1)).await.unwrap();
    assert_eq!(two.get("key").await.unwrap(), None);
    two.put("key", json!(2)).await.unwrap();
    let Seen::Changes(changes) = told(&mut watch).await else { panic!("nothing is missing") };
    assert_eq!(changes.iter().map(|c| c.value.clone()).collect::<Vec<_>>(), [Some(json!(2))]);
    assert!(whole.list("").await.unwrap().is_empty());
    assert_eq!(one.get("key").await.unwrap().unwrap().value, json!(1));
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn what_another_edge_wrote_is_refused() {
    let server = Server::start();
    let store = open(&server, "r5").await;
    let mut client = operator(&server).await;
    client.put("/r5/state/key", "no JSON", None).await.unwrap();
    let error = store.get("key").await.unwrap_err();
    assert!(matches!(&error, StoreError::Value { key, .. } if key == "key"), "{error}");
    let seen = futures::StreamExt::next(&mut store.watch("", None)).await.unwrap();
    assert!(matches!(seen, Err(StoreError::Value { .. })));
    client.put("/r5/about", "2 x", None).await.unwrap();
    let error = Etcd::open(server.place("r5"), &Access::default()).await.unwrap_err();
    let StoreError::Etcd(EtcdError::Layout { found, known: 1, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(found, "2");
    assert!(error.to_string().contains("choose another prefix"), "{error}");
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn a_transaction_that_etcd_does_not_take_is_refused_with_a_remedy() {
    let server = Server::start();
    let store = open(&server, "r5").await;
    let writes = (0..200).map(|number| put(&format!("key/{number}"), json!(number), None));
    let error = store.transact(vec![], writes.collect()).await.unwrap_err();
    assert!(matches!(error, StoreError::Etcd(EtcdError::Refused { .. })), "{error}");
    assert!(error.to_string().contains("--max-txn-ops"), "{error}");
    let error = store.put("key", json!("x".repeat(3 << 20))).await.unwrap_err();
    assert!(error.to_string().contains("--max-request-bytes"), "{error}");
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn a_thousand_watchers_see_all_writes() {
    let server = Server::start();
    let store = open(&server, "r5").await;
    let mut watchers: Vec<_> =
        (0..1000).map(|_| (store.watch("k/", None), Known::default())).collect();
    for (watch, known) in &mut watchers {
        known.learn(told(watch).await);
    }
    for number in 0..100 {
        store.put(&format!("k/{}", number % 7), json!(number)).await.unwrap();
    }
    let whole: Vec<_> = store.list("k/").await.unwrap();
    let whole = whole.into_iter().map(|(key, entry)| (key, entry.value)).collect();
    for (watch, known) in &mut watchers {
        known.until(watch, |known| known.entries == whole).await;
        assert_eq!(known.snapshots, 1);
    }
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn one_who_does_not_look_holds_up_nobody_and_is_told_a_snapshot() {
    let server = Server::start();
    let store = Arc::new(open(&server, "r5").await);
    let mut slow: Vec<_> = (0..20).map(|_| store.watch("", None)).collect();
    for watch in &mut slow {
        told(watch).await;
    }
    // More than a connection's window, and more than a watcher may be behind.
    let large = "x".repeat(20_000);
    for number in 0..1000 {
        store.put(&format!("k/{}", number % 10), json!([number, large])).await.unwrap();
    }
    store.put("last", json!(1)).await.unwrap();
    let whole: Vec<_> = store.list("").await.unwrap();
    let whole = whole.into_iter().map(|(key, entry)| (key, entry.value)).collect();
    for watch in &mut slow {
        let mut known = Known::default();
        known.until(watch, |known| known.entries == whole).await;
        assert_eq!(known.snapshots, 1, "it was told what it had missed at once");
    }
}
