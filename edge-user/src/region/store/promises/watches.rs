//! Watches: never a gap.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Engine, Known, put, told};
use crate::region::store::{Seen, Write};

pub(crate) async fn a_watch_resumes_where_it_was<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    store.put("a/1", json!(1)).await.unwrap();
    let after = store.snapshot("a/").await.unwrap().revision;
    store.put("b/1", json!(2)).await.unwrap();
    store.put("a/2", json!(3)).await.unwrap();
    store.delete("a/1").await.unwrap();
    let mut watch = store.watch("a/", Some(after));
    let mut found = Vec::new();
    while found.len() < 2 {
        let Seen::Changes(changes) = told(&mut watch).await else { panic!("nothing is missing") };
        found.extend(changes.into_iter().map(|change| (change.key, change.value)));
    }
    assert_eq!(found, [("a/2".to_owned(), Some(json!(3))), ("a/1".to_owned(), None)]);
}

pub(crate) async fn a_watcher_is_told_of_every_write_in_order<E: Engine>() {
    let engine = E::begin().await;
    let (ours, theirs) = (engine.store().await, engine.store().await);
    let mut watch = ours.watch("k/", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    for number in 0..20 {
        theirs.put("k/one", json!(number)).await.unwrap();
        let writes = vec![put("k/two", json!(number), None), put("k/three", json!(number), None)];
        theirs.transact(vec![], writes).await.unwrap();
        ours.put("other", json!(number)).await.unwrap();
    }
    theirs.transact(vec![], vec![Write::Delete { key: "k/one".into() }]).await.unwrap();
    let mut values = Vec::new();
    while known.entries.contains_key("k/one") || values.is_empty() {
        let seen = told(&mut watch).await;
        if let Seen::Changes(changes) = &seen {
            for change in changes {
                values.push((change.key.clone(), change.value.clone()));
            }
        }
        known.learn(seen);
    }
    let of = |key: &str| -> Vec<_> {
        let own = values.iter().filter(|(name, _)| name == key);
        own.filter_map(|(_, value)| value.as_ref()?.as_u64()).collect()
    };
    for key in ["k/one", "k/two", "k/three"] {
        assert_eq!(of(key), (0..20).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!((known.snapshots, known.entries.len(), values.len()), (1, 2, 61));
}

pub(crate) async fn a_revision_of_the_future_means_a_snapshot<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    store.put("a", json!(1)).await.unwrap();
    let mut watch = store.watch("", Some(store.snapshot("").await.unwrap().revision + 98));
    assert!(matches!(told(&mut watch).await, Seen::Snapshot(_)));
    store.put("a", json!(2)).await.unwrap();
    assert!(matches!(told(&mut watch).await, Seen::Changes(_)));
}

pub(crate) async fn what_is_forgotten_is_told_as_a_snapshot<E: Engine>() {
    let engine = E::begin().await;
    let store = engine.store().await;
    store.put("a", json!(1)).await.unwrap();
    let after = store.snapshot("").await.unwrap().revision;
    store.delete("a").await.unwrap();
    let deleted = store.snapshot("").await.unwrap().revision;
    let mut live = store.watch("", Some(after));
    let mut known = Known { revision: after, ..Known::default() };
    known.entries.insert("a".into(), json!(1));
    known.until(&mut live, |known| known.entries.is_empty()).await;
    assert_eq!(known.snapshots, 0, "who follows is told of each write");
    engine.forget().await;

    let mut late = store.watch("", Some(after));
    let Seen::Snapshot(snapshot) = told(&mut late).await else { panic!("a write is missing") };
    assert!(snapshot.revision >= deleted);
    store.put("b", json!(3)).await.unwrap();
    let whole = BTreeMap::from([("b".to_owned(), json!(3))]);
    for watch in [&mut live, &mut late] {
        known.until(watch, |known| known.entries == whole).await;
        known = Known::default();
    }
}
