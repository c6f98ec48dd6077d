//! Random histories: what a watcher knows is what the store holds, at every revision.

use std::{cell::Cell, collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;

use super::{Engine, Entries, Known, LONG, put, told};
use crate::region::store::{LeaseId, Seen, Store, StoreError, Write};

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
    /// A watcher begins anew where it was.
    Resume(usize),
    Forget,
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
        2 => (0..WATCHERS).prop_map(Step::Resume),
        1 => Just(Step::Forget),
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

/// The framework that makes histories, and cuts one that fails down, does not await: it has a
/// thread of its own.
pub(crate) async fn snapshot_and_changes_are_the_list_at_each_revision<E: Engine>() {
    tokio::task::spawn_blocking(histories::<E>).await.unwrap();
}

fn histories<E: Engine>() {
    let config = Config { cases: E::HISTORIES, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = Cell::new(None::<E>);
    let run = TestRunner::new(config).run(&proptest::collection::vec(step(), 1..60), |steps| {
        runtime.block_on(async {
            let mut engine = match kept.take() {
                Some(engine) => engine,
                // The first history, or the one before has failed.
                None => E::begin().await,
            };
            engine.another().await;
            agree(&engine, steps).await;
            kept.set(Some(engine));
        });
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
}

async fn take(store: &Arc<dyn Store>, step: &Step, leases: &mut Vec<LeaseId>) {
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
        Step::Look(_) | Step::Resume(_) | Step::Forget | Step::List => {}
    }
}

/// What the store held after each of its writes.
#[derive(Default)]
struct Truth {
    known: Known,
    states: BTreeMap<u64, Entries>,
    /// Between these two revisions it was told a snapshot, and does not know.
    gaps: Vec<(u64, u64)>,
}

impl Truth {
    fn learn(&mut self, seen: Seen) {
        let before = self.known.revision;
        match seen {
            Seen::Snapshot(_) => {
                self.known.learn(seen);
                self.gaps.push((before, self.known.revision));
            }
            Seen::Changes(changes) => {
                for change in changes {
                    self.known.apply(change);
                    self.states.insert(self.known.revision, self.known.entries.clone());
                }
            }
        }
        self.states.insert(self.known.revision, self.known.entries.clone());
    }

    /// At a revision, which need not be one of a write; none where it does not know.
    fn at(&self, revision: u64) -> Option<&Entries> {
        let unknown = |(from, to): &(u64, u64)| *from < revision && revision < *to;
        if revision > self.known.revision || self.gaps.iter().any(unknown) {
            return None;
        }
        Some(self.states.range(..=revision).next_back()?.1)
    }
}

/// Runs the steps; slow watchers and lists are compared with one watcher that misses nothing.
async fn agree<E: Engine>(engine: &E, steps: Vec<Step>) {
    let store = engine.store().await;
    let mut witness = store.watch("", None);
    let mut truth = Truth::default();
    truth.learn(told(&mut witness).await);
    let mut slow = PREFIXES.map(|prefix| (store.watch(prefix, None), Known::default()));
    let mut lists = Vec::new();
    let mut looks: Vec<(usize, u64, Entries)> = Vec::new();
    let mut leases = Vec::new();
    for step in steps {
        take(&store, &step, &mut leases).await;
        match step {
            Step::List => lists.push(store.snapshot("").await.unwrap()),
            Step::Forget => engine.forget().await,
            Step::Look(index) => {
                let (watch, known) = &mut slow[index];
                let look = futures::poll!(watch.next());
                if let std::task::Poll::Ready(seen) = look {
                    known.learn(seen.unwrap().unwrap());
                }
                looks.push((index, known.revision, known.entries.clone()));
            }
            Step::Resume(index) => {
                let (watch, known) = &mut slow[index];
                let after = (known.snapshots > 0).then_some(known.revision);
                *watch = store.watch(PREFIXES[index], after);
            }
            _ => {}
        }
        // The witness keeps up, and remembers what the store held after each write.
        while let std::task::Poll::Ready(seen) = futures::poll!(witness.next()) {
            truth.learn(seen.unwrap().unwrap());
        }
    }
    // Leases end meanwhile: what is compared is what all have been told of.
    store.put("even/last", json!("last")).await.unwrap();
    store.put("odd/last", json!("last")).await.unwrap();
    lists.push(store.snapshot("").await.unwrap());
    while !truth.known.entries.contains_key("odd/last") {
        truth.learn(told(&mut witness).await);
    }
    for (index, (watch, known)) in slow.iter_mut().enumerate() {
        let last = if PREFIXES[index] == "even/" { "even/last" } else { "odd/last" };
        known.until(watch, |known| known.entries.contains_key(last)).await;
        looks.push((index, known.revision, known.entries.clone()));
    }
    let (mut compared, all) = (0, lists.len() + looks.len());
    for snapshot in lists {
        let revision = snapshot.revision;
        let mut listed = Known::default();
        listed.learn(Seen::Snapshot(snapshot));
        if let Some(state) = truth.at(revision) {
            assert_eq!(&listed.entries, state, "the list at revision {revision}");
            compared += 1;
        }
    }
    for (index, revision, entries) in looks {
        if let Some(state) = truth.at(revision) {
            assert_eq!(entries, under(PREFIXES[index], state), "{} at {revision}", PREFIXES[index]);
            compared += 1;
        }
    }
    assert!(compared > 0, "none of {all} could be compared");
}
