//! Leases: their keys are there as long as they are.

use std::{collections::BTreeMap, time::Instant};

use serde_json::json;

use super::{Engine, Known, LONG, put, told};
use crate::region::store::{Seen, StoreError};

pub(crate) async fn a_lease_takes_its_keys_along_and_watchers_see_it<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    let lease = store.grant(E::SHORT).await.unwrap();
    let writes = ["a", "b", "c"].map(|key| put(key, json!(1), Some(lease)));
    assert!(store.transact(vec![("a".into(), None)], writes.to_vec()).await.unwrap());
    // Written anew without the lease, it stays.
    store.put("b", json!(2)).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    let left = BTreeMap::from([("b".to_owned(), json!(2))]);
    known.until(&mut watch, |known| known.entries == left).await;
    for ended in [
        store.keep_alive(lease).await.unwrap_err(),
        store.transact(vec![], writes.to_vec()).await.unwrap_err(),
    ] {
        assert!(matches!(ended, StoreError::LeaseEnded(which) if which == lease), "{ended}");
    }
    assert_eq!(store.get("a").await.unwrap(), None, "nothing of a refused transaction is written");
}

pub(crate) async fn a_revoked_lease_ends_at_once<E: Engine>() {
    let engine = E::begin().await;
    let (ours, theirs) = (engine.store().await, engine.store().await);
    let (one, two) = (ours.grant(LONG).await.unwrap(), ours.grant(LONG).await.unwrap());
    assert_ne!(one, two);
    let writes = vec![put("a", json!(1), Some(one)), put("b", json!(1), Some(two))];
    ours.transact(vec![], writes).await.unwrap();
    // From one lease to the other.
    ours.transact(vec![], vec![put("c", json!(1), Some(one))]).await.unwrap();
    ours.transact(vec![], vec![put("c", json!(2), Some(two))]).await.unwrap();
    theirs.keep_alive(one).await.unwrap();
    theirs.revoke(one).await.unwrap();
    theirs.revoke(one).await.unwrap();
    let left: Vec<_> = ours.list("").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["b", "c"]);
    ours.keep_alive(two).await.unwrap();
    let ended =
        ours.transact(vec![], vec![put("d", json!(1), Some(two)), put("e", json!(1), Some(one))]);
    let ended = ended.await.unwrap_err();
    assert!(matches!(ended, StoreError::LeaseEnded(which) if which == one), "{ended}");
}

pub(crate) async fn a_lease_that_is_kept_alive_outlives_its_time_and_the_store<E: Engine>() {
    let mut engine = E::begin().await;
    let store = engine.store().await;
    let lease = store.grant(E::SHORT).await.unwrap();
    store.transact(vec![], vec![put("a", json!(1), Some(lease))]).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < E::SHORT * 3 {
        store.keep_alive(lease).await.unwrap();
        tokio::time::sleep(E::SHORT / 8).await;
    }
    assert!(store.get("a").await.unwrap().is_some());
    drop(store);
    engine.restart().await;
    let store = engine.store().await;
    store.keep_alive(lease).await.unwrap();
    let mut watch = store.watch("a", None);
    while !matches!(told(&mut watch).await, Seen::Changes(changes) if changes[0].value.is_none()) {}
}
