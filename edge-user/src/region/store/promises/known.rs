//! What a watcher knows.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use serde_json::Value;

use crate::region::store::{Change, Seen, Watch};

pub(crate) type Entries = BTreeMap<String, Value>;

/// What a watcher knows, and as of when.
#[derive(Default, Debug)]
pub(crate) struct Known {
    pub(crate) entries: Entries,
    pub(crate) revision: u64,
    pub(crate) snapshots: usize,
}

impl Known {
    pub(crate) fn learn(&mut self, seen: Seen) {
        match seen {
            Seen::Snapshot(snapshot) => {
                self.snapshots += 1;
                self.revision = snapshot.revision;
                let entries = snapshot.entries.into_iter();
                self.entries = entries.map(|(key, entry)| (key, entry.value)).collect();
            }
            Seen::Changes(changes) => {
                // Writes of one transaction may share a revision, but no two messages do.
                let first = changes.first().expect("a message tells something").revision;
                assert!(first > self.revision, "{first} after {}", self.revision);
                changes.into_iter().for_each(|change| self.apply(change));
            }
        }
    }

    pub(crate) fn apply(&mut self, Change { key, revision, value }: Change) {
        assert!(revision >= self.revision, "{revision} after {}", self.revision);
        self.revision = revision;
        match value {
            Some(value) => self.entries.insert(key, value),
            None => self.entries.remove(&key),
        };
    }

    /// Learns until the condition holds.
    pub(crate) async fn until(&mut self, watch: &mut Watch, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.learn(told(watch).await);
        }
    }
}

/// For what happens at once unless it never does.
const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn told(watch: &mut Watch) -> Seen {
    let seen = tokio::time::timeout(SOON, watch.next()).await.expect("the watch tells nothing");
    seen.expect("a watch goes on").unwrap()
}
