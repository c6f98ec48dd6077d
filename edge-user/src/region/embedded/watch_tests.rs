//! Watches and leases: what a watcher knows is what the store holds, at every revision.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::region::store::{Change, Seen};

type Entries = BTreeMap<String, Value>;

const LONG: Duration = Duration::from_secs(3600);

fn put(key: &str, value: Value, lease: Option<LeaseId>) -> Write {
    Write::Put { key: key.to_owned(), value, lease }
}

/// What a watcher knows, and as of when.
#[derive(Default, Debug)]
struct Known {
    entries: Entries,
    revision: u64,
    snapshots: usize,
}

impl Known {
    fn learn(&mut self, seen: Seen) {
        match seen {
            Seen::Snapshot(snapshot) => {
                self.snapshots += 1;
                self.revision = snapshot.revision;
                let entries = snapshot.entries.into_iter();
                self.entries = entries.map(|(key, entry)| (key, entry.value)).collect();
            }
            Seen::Changes(changes) => changes.into_iter().for_each(|change| self.apply(change)),
        }
    }

    fn apply(&mut self, Change { key, revision, value }: Change) {
        assert!(revision > self.revision, "{revision} after {}", self.revision);
        self.revision = revision;
        match value {
            Some(value) => self.entries.insert(key, value),
            None => self.entries.remove(&key),
        };
    }
}

async fn told(watch: &mut Watch) -> Seen {
    watch.next().await.expect("a watch goes on").unwrap()
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    store.put("a/1", json!(1)).await.unwrap();
    let after = store.snapshot("a/").await.unwrap().revision;
    store.put("b/1", json!(2)).await.unwrap();
    store.put("a/2", json!(3)).await.unwrap();
    store.delete("a/1").await.unwrap();
    let mut watch = store.watch("a/", Some(after));
    let Seen::Changes(changes) = told(&mut watch).await else { panic!("nothing is missing") };
    let found: Vec<_> = changes.iter().map(|c| (c.key.as_str(), c.value.clone())).collect();
    assert_eq!(found, [("a/2", Some(json!(3))), ("a/1", None)]);
}

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
async fn a_lease_takes_its_keys_along_and_watchers_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let lease = store.grant(Duration::from_millis(300)).await.unwrap();
    let writes = ["a", "b", "c"].map(|key| put(key, json!(1), Some(lease)));
    assert!(store.transact(vec![("a".into(), None)], writes.to_vec()).await.unwrap());
    // Written anew without the lease, it stays.
    store.put("b", json!(2)).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    while known.entries.len() != 1 {
        known.learn(told(&mut watch).await);
    }
    assert_eq!(known.entries, BTreeMap::from([("b".to_owned(), json!(2))]));
    for ended in [
        store.keep_alive(lease).await.unwrap_err(),
        store.transact(vec![], writes.to_vec()).await.unwrap_err(),
    ] {
        assert!(matches!(ended, StoreError::LeaseEnded(which) if which == lease), "{ended}");
    }
    assert_eq!(store.get("a").await.unwrap(), None, "nothing of a refused transaction is written");
}

#[tokio::test]
async fn a_lease_that_is_kept_alive_outlives_its_time_and_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let ttl = Duration::from_millis(400);
    let lease = store.grant(ttl).await.unwrap();
    store.transact(vec![], vec![put("a", json!(1), Some(lease))]).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < ttl * 3 {
        store.keep_alive(lease).await.unwrap();
        tokio::time::sleep(ttl / 8).await;
    }
    assert!(store.get("a").await.unwrap().is_some());
    drop(store);
    let store = Embedded::open(dir.path()).unwrap();
    store.keep_alive(lease).await.unwrap();
    let mut watch = store.watch("a", None);
    while !matches!(told(&mut watch).await, Seen::Changes(changes) if changes[0].value.is_none()) {}
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

/// What may happen to a store.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    PutLeased(u8, u16, usize),
    Delete(u8),
    /// Both or none: the first key must not be there.
    Claim(u8, u8),
    Grant,
    GrantShort,
    Revoke(usize),
    /// A slow watcher looks once.
    Look(usize),
    List,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u8, any::<u16>()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0..8u8, any::<u16>(), any::<usize>()).prop_map(|(k, v, l)| Step::PutLeased(k, v, l)),
        3 => (0..8u8).prop_map(Step::Delete),
        2 => (0..8u8, 0..8u8).prop_map(|(one, two)| Step::Claim(one, two)),
        2 => Just(Step::Grant),
        1 => Just(Step::GrantShort),
        2 => any::<usize>().prop_map(Step::Revoke),
        4 => (0..WATCHERS).prop_map(Step::Look),
        2 => Just(Step::List),
    ]
}

const WATCHERS: usize = 3;
/// Two prefixes, and all.
const PREFIXES: [&str; WATCHERS] = ["even/", "odd/", ""];

fn key(number: u8) -> String {
    format!("{}/{number}", if number.is_multiple_of(2) { "even" } else { "odd" })
}

fn under(prefix: &str, entries: &Entries) -> Entries {
    let fits = entries.iter().filter(|(key, _)| key.starts_with(prefix));
    fits.map(|(key, value)| (key.clone(), value.clone())).collect()
}

async fn take(store: &Embedded, step: &Step, leases: &mut Vec<LeaseId>) {
    let lease = |index: usize| leases.get(index % leases.len().max(1)).copied();
    match step {
        Step::Put(number, value) => store.put(&key(*number), json!(value)).await.unwrap(),
        Step::PutLeased(number, value, index) => {
            let write = put(&key(*number), json!(value), lease(*index));
            match store.transact(vec![], vec![write]).await {
                Ok(_) | Err(StoreError::LeaseEnded(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::Delete(number) => drop(store.delete(&key(*number)).await.unwrap()),
        Step::Claim(one, two) => {
            let conditions = vec![(key(*one), None)];
            let delete = Write::Delete { key: key(*two) };
            store
                .transact(conditions, vec![put(&key(*one), json!(0), None), delete])
                .await
                .unwrap();
        }
        Step::Grant => leases.push(store.grant(LONG).await.unwrap()),
        Step::GrantShort => leases.push(store.grant(Duration::from_millis(2)).await.unwrap()),
        Step::Revoke(index) => {
            if let Some(lease) = lease(*index) {
                store.revoke(lease).await.unwrap();
            }
        }
        Step::Look(_) | Step::List => {}
    }
}

/// Runs the steps; slow watchers and lists are compared with one watcher that misses nothing.
async fn agree(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    // A memory of five writes, so that the slow ones lose track.
    let store = Embedded::remembering(dir.path(), 5).unwrap();
    let mut witness = store.watch("", None);
    let mut truth = Known::default();
    let mut states: HashMap<u64, Entries> = HashMap::new();
    let mut slow = PREFIXES.map(|prefix| (store.watch(prefix, None), Known::default()));
    let mut lists = Vec::new();
    let mut looks: Vec<(usize, u64, Entries)> = Vec::new();
    let mut leases = Vec::new();
    for step in steps {
        take(&store, &step, &mut leases).await;
        match step {
            Step::List => lists.push(store.snapshot("").await.unwrap()),
            Step::Look(index) => {
                let (watch, known) = &mut slow[index];
                let look = futures::poll!(watch.next());
                if let std::task::Poll::Ready(seen) = look {
                    known.learn(seen.unwrap().unwrap());
                }
                looks.push((index, known.revision, known.entries.clone()));
            }
            _ => {}
        }
        // The witness keeps up, and remembers what the store held after each write.
        while let std::task::Poll::Ready(seen) = futures::poll!(witness.next()) {
            learn(&mut truth, &mut states, seen.unwrap().unwrap());
        }
    }
    let last = store.snapshot("").await.unwrap();
    while truth.revision < last.revision {
        learn(&mut truth, &mut states, told(&mut witness).await);
    }
    for snapshot in lists.into_iter().chain([last]) {
        let mut listed = Known::default();
        let revision = snapshot.revision;
        listed.learn(Seen::Snapshot(snapshot));
        if let Some(state) = states.get(&revision) {
            assert_eq!(&listed.entries, state, "the list at revision {revision}");
        }
    }
    for (index, revision, entries) in looks {
        if let Some(state) = states.get(&revision) {
            assert_eq!(entries, under(PREFIXES[index], state), "{} at {revision}", PREFIXES[index]);
        }
    }
}

fn learn(truth: &mut Known, states: &mut HashMap<u64, Entries>, seen: Seen) {
    match seen {
        Seen::Snapshot(_) => {
            truth.learn(seen);
            states.insert(truth.revision, truth.entries.clone());
        }
        Seen::Changes(changes) => {
            for change in changes {
                truth.apply(change);
                states.insert(truth.revision, truth.entries.clone());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn snapshot_and_changes_are_the_list_at_each_revision(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(agree(steps));
    }
}
