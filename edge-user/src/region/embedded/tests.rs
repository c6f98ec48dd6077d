//! The store over real files.

use std::sync::Arc;

use serde_json::json;

use super::{file::Layout, *};
use crate::region::store::promises::{Engine, keeps_every_promise, put};

/// A file to test.
struct OnDisk {
    dir: tempfile::TempDir,
    store: Arc<Embedded>,
}

impl Engine for OnDisk {
    const SHORT: Duration = Duration::from_millis(400);
    const HISTORIES: u32 = 48;

    async fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path()).unwrap());
        Self { dir, store }
    }

    async fn another(&mut self) {
        self.store.close();
        let dir = tempfile::tempdir().unwrap();
        // A memory of five writes, so that slow watchers lose track.
        self.store = Arc::new(Embedded::remembering(dir.path(), 5).unwrap());
        self.dir = dir;
    }

    async fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn restart(&mut self) {
        self.store.close();
        self.store = Arc::new(Embedded::open(self.dir.path()).unwrap());
    }

    async fn forget(&self) {
        let mut writes = vec![put("filler", json!(0), None); self.store.memory];
        writes.push(Write::Delete { key: "filler".into() });
        self.store.transact(vec![], writes).await.unwrap();
    }
}

keeps_every_promise!(OnDisk);

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
