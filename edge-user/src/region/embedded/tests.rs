//! The store over real files.

use serde_json::json;

use super::{file::Layout, *};

#[tokio::test]
async fn entries_survive_and_revisions_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    store.put("a/1", json!({"x": 1})).await.unwrap();
    store.put("a/2", json!(2)).await.unwrap();
    store.put("b/1", json!(3)).await.unwrap();
    let before = store.get("a/1").await.unwrap().unwrap();
    drop(store);

    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.get("a/1").await.unwrap(), Some(before.clone()));
    let listed: Vec<_> = store.list("a/").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, ["a/1", "a/2"]);
    assert!(store.delete("a/2").await.unwrap());
    assert!(!store.delete("a/2").await.unwrap());
    store.put("a/1", json!(4)).await.unwrap();
    assert!(store.get("a/1").await.unwrap().unwrap().revision > before.revision);
}

#[tokio::test]
async fn of_many_who_claim_a_key_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let claims = (0..50).map(|n| store.compare_and_swap("key", None, json!(n)));
    let won = futures::future::try_join_all(claims).await.unwrap();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let entry = store.get("key").await.unwrap().unwrap();
    assert!(!store.compare_and_swap("key", Some(entry.revision + 1), json!(0)).await.unwrap());
    assert!(store.compare_and_swap("key", Some(entry.revision), json!(0)).await.unwrap());
}

#[test]
fn a_locked_file_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Embedded::open(dir.path()).unwrap();
    let error = Embedded::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("region.redb") && error.contains("another edge daemon"), "{error}");
}

#[test]
fn a_damaged_file_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("region.redb"), [7; 9000]).unwrap();
    let error = Embedded::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("region.redb") && error.contains("move it away"), "{error}");
}

#[test]
fn another_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Embedded::open(dir.path()).unwrap());
    let database = Database::create(dir.path().join("region.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("layout", Layout::DURABLE.written + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Embedded::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Layout { found: 3, known: 2, .. }), "{error}");
}

#[tokio::test]
async fn what_is_leased_survives_and_has_a_layout_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open_leased(dir.path()).unwrap();
    store.put("tunnel/tu-1", json!({"port": 8000})).await.unwrap();
    let error = Embedded::open_leased(dir.path()).unwrap_err().to_string();
    assert!(error.contains("leased.redb") && error.contains("another edge daemon"), "{error}");
    // A killed daemon closes nothing: what it wrote so far is all there is.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("leased.redb"), copy.path().join("leased.redb")).unwrap();
    drop(store);
    for folder in [&copy, &dir] {
        let store = Embedded::open_leased(folder.path()).unwrap();
        let entry = store.get("tunnel/tu-1").await.unwrap().unwrap();
        assert_eq!(entry.value, json!({"port": 8000}));
    }
}

#[tokio::test]
async fn a_closed_store_is_free_for_another_and_can_be_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    for open in [Embedded::open, Embedded::open_leased] {
        let ours = open(dir.path()).unwrap();
        ours.put("key", json!(1)).await.unwrap();
        ours.close();
        assert!(ours.get("key").await.is_err());
        let theirs = open(dir.path()).unwrap();
        theirs.put("key", json!(2)).await.unwrap();
        assert!(ours.reopen().is_err());
        drop(theirs);
        ours.reopen().unwrap();
        assert_eq!(ours.get("key").await.unwrap().unwrap().value, json!(2));
    }
}
