//! Who may send to a tunnel, in the kernel's one trie for all lists.

use std::collections::{HashMap, HashSet};

use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, MapError, lpm_trie::Key},
};
use edge_common::admit::ListKey;
use ipnet::IpNet;

use super::{Datapath, DatapathError, lock, tables};

const NAME: &str = "LISTS";

impl Datapath {
    /// Makes these networks the list of a slot's tunnel; none of another remains on it. Without
    /// any, nobody is let in where the tunnel's row says that there is a list.
    pub fn set_list(&self, slot: u32, networks: &[IpNet]) -> Result<(), DatapathError> {
        lock(&self.lists).set(slot, networks)
    }
}

/// The trie, and what is in it.
pub(super) struct Lists {
    trie: LpmTrie<MapData, ListKey, u32>,
    of: HashMap<u32, HashSet<Entry>>,
    /// Slots that an earlier daemon listed for, and this one has not.
    stale: HashSet<u32>,
}

/// How many bits count, and of which place.
type Entry = (u32, ListKey);

impl Lists {
    /// Takes it out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let trie: LpmTrie<_, ListKey, u32> = tables::take(ebpf, NAME)?;
        let mut of: HashMap<_, HashSet<Entry>> = HashMap::new();
        for key in trie.keys() {
            let key = key.map_err(failed)?;
            let (bits, place) = (key.prefix_len(), key.data());
            of.entry(place.slot()).or_default().insert((bits, place));
        }
        let stale = of.keys().copied().collect();
        Ok(Self { trie, of, stale })
    }

    /// Removes what this daemon has not written again.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        for slot in std::mem::take(&mut self.stale) {
            self.set(slot, &[])?;
        }
        Ok(())
    }

    /// How many networks there are.
    pub(super) fn len(&self) -> usize {
        self.of.values().map(HashSet::len).sum()
    }

    fn set(&mut self, slot: u32, networks: &[IpNet]) -> Result<(), DatapathError> {
        self.stale.remove(&slot);
        let place = |net: &IpNet| ListKey::network(slot, net.network().into(), net.prefix_len());
        let wanted: HashSet<Entry> = networks.iter().map(place).collect();
        let present = self.of.remove(&slot).unwrap_or_default();
        // Should one fail, what is in the trie is still known.
        let mut now = present.clone();
        let changed = self.change(&present, &wanted, &mut now);
        if !now.is_empty() {
            self.of.insert(slot, now);
        }
        changed
    }

    fn change(
        &mut self,
        present: &HashSet<Entry>,
        wanted: &HashSet<Entry>,
        now: &mut HashSet<Entry>,
    ) -> Result<(), DatapathError> {
        for entry in wanted.difference(present) {
            self.trie.insert(&Key::new(entry.0, entry.1), 1, 0).map_err(failed)?;
            now.insert(*entry);
        }
        for entry in present.difference(wanted) {
            tables::gone(NAME, self.trie.remove(&Key::new(entry.0, entry.1)))?;
            now.remove(entry);
        }
        Ok(())
    }
}

fn failed(error: MapError) -> DatapathError {
    DatapathError::Table(NAME, Box::new(error))
}
