//! Where the region's other machines are, in the kernel's tables.
//!
//! What is written is a function of the region's view and of this machine's own interfaces.
//! Rows of a machine stay as long as it is of the region, whether it is heard of or not: flows
//! need no control plane.

mod rows;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use edge_common::tables::Settings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::rows::{Interface, Own, in_header};
use self::rows::{Rows, rows};
use crate::{
    datapath::{Datapath, DatapathError},
    region::view::View,
};

/// After so long, what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the tables as the view says.
pub struct Underlay {
    datapath: Arc<Datapath>,
    own: Own,
    /// What the region does not tell.
    base: Settings,
    written: Mutex<Rows>,
}

impl Underlay {
    /// Nothing is written yet.
    pub fn new(datapath: Arc<Datapath>, own: Own, base: Settings) -> Arc<Self> {
        Arc::new(Self { datapath, own, base, written: Mutex::default() })
    }

    /// Writes what differs from what was written last.
    ///
    /// # Errors
    /// If a table is full or the kernel refuses; the next call tries again.
    pub fn write(&self, view: &View) -> Result<(), DatapathError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let next = rows(&self.own, view);
        if written.region.as_ref() != Some(&view.settings) {
            self.datapath.configure(&rows::settings(self.base, &view.settings))?;
        }
        // First what is new: there is no moment in which the way to a host that moved is missing.
        for (address, peer) in changed(&written.peers, &next.peers) {
            self.datapath.add_peer((*address).into(), peer.row())?;
        }
        for (number, way) in changed(&written.hosts, &next.hosts) {
            self.datapath.add_host((*number).into(), way.row())?;
        }
        for (block, host) in changed(&written.blocks, &next.blocks) {
            self.datapath.add_block(rows::network(*block), rows::block(*host))?;
        }
        for interface in self.own.interfaces.iter().filter(|_| written.region.is_none()) {
            self.datapath.add_underlay(interface.index, rows::interface())?;
        }
        for block in gone(&written.blocks, &next.blocks) {
            self.datapath.remove_block(rows::network(*block))?;
        }
        for number in gone(&written.hosts, &next.hosts) {
            self.datapath.remove_host((*number).into())?;
        }
        for address in gone(&written.peers, &next.peers) {
            self.datapath.remove_peer((*address).into())?;
        }
        for number in &next.unreachable {
            if !written.unreachable.contains(number) {
                tracing::warn!(
                    host = number,
                    "no way to a host: its underlay has no address of a family that this one has"
                );
            }
        }
        *written = next;
        Ok(())
    }

    /// The kernel half's settings, with this view.
    pub fn settings(&self, view: &View) -> Settings {
        rows::settings(self.base, &view.settings)
    }

    /// Follows the view until the shutdown.
    pub async fn follow(
        self: Arc<Self>,
        mut view: watch::Receiver<Arc<View>>,
        shutdown: CancellationToken,
    ) {
        let mut failed = false;
        loop {
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if failed => {}
                () = shutdown.cancelled() => return,
            }
            let seen = view.borrow_and_update().clone();
            let outcome = self.write(&seen);
            if let Err(error) = &outcome {
                let error = crate::error::causes(error);
                tracing::error!(error, "the kernel does not know where all hosts are");
            }
            failed = outcome.is_err();
        }
    }
}

type Table<K, V> = std::collections::BTreeMap<K, V>;

/// Rows that are new or other than before.
fn changed<'t, K: Ord, V: PartialEq>(
    old: &'t Table<K, V>,
    new: &'t Table<K, V>,
) -> impl Iterator<Item = (&'t K, &'t V)> {
    new.iter().filter(|(key, row)| old.get(key) != Some(row))
}

/// Keys whose rows are no more.
fn gone<'t, K: Ord, V>(old: &'t Table<K, V>, new: &'t Table<K, V>) -> impl Iterator<Item = &'t K> {
    old.keys().filter(|key| !new.contains_key(key))
}
