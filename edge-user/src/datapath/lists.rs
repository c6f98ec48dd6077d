//! Who may use which tunnel: rows of networks.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, lpm_trie::Key},
};
use edge_common::admit::ListKey;
use ipnet::IpNet;

use super::{Datapath, DatapathError, lock, tables};

const NAME: &str = "LISTS";

impl Datapath {
    /// Puts a network on the list of a slot's tunnel.
    pub fn list(&self, slot: u32, network: IpNet) -> Result<(), DatapathError> {
        let (bits, key) = place(slot, network);
        let mut lists = lock(&self.lists);
        lists.stale.remove(&(bits, key));
        lists
            .rows
            .insert(&Key::new(bits, key), 1, 0)
            .map_err(|error| DatapathError::Table(NAME, Box::new(error)))
    }

    /// Takes it off; fine if it is not there.
    pub fn unlist(&self, slot: u32, network: IpNet) -> Result<(), DatapathError> {
        let (bits, key) = place(slot, network);
        lock(&self.lists).remove(bits, key)
    }
}

/// The lists of all tunnels.
pub(super) struct Lists {
    rows: LpmTrie<MapData, ListKey, u32>,
    /// Of an earlier daemon, and not written again by this one.
    stale: HashSet<(u32, ListKey)>,
}

impl Lists {
    /// Takes them out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let rows: LpmTrie<MapData, ListKey, u32> = tables::take(ebpf, NAME)?;
        let keys = rows.keys().map(|key| key.map(|key| (key.prefix_len(), key.data())));
        let stale = keys.collect::<Result<_, _>>();
        let stale = stale.map_err(|error| DatapathError::Table(NAME, Box::new(error)))?;
        Ok(Self { rows, stale })
    }

    /// Removes what this daemon has not written again.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        for (bits, key) in std::mem::take(&mut self.stale) {
            self.remove(bits, key)?;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.rows.keys().count()
    }

    fn remove(&mut self, bits: u32, key: ListKey) -> Result<(), DatapathError> {
        self.stale.remove(&(bits, key));
        tables::gone(NAME, self.rows.remove(&Key::new(bits, key)))
    }
}

fn place(slot: u32, network: IpNet) -> (u32, ListKey) {
    ListKey::network(slot, network.network().into(), network.prefix_len())
}
