//! What one machine of a region knows of it, and how one view becomes the next.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    cluster::ClusterRecord,
    proxy::Proxy,
    roster::{ContainerRecord, HostRecord, RegionSettings, TunnelRecord},
};

/// What concerns one machine, at one revision of the region's state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Grows; the same revision is the same view.
    pub revision: u64,
    /// What all machines have in common.
    pub settings: Arc<RegionSettings>,
    /// All machines of the region, by id.
    pub hosts: BTreeMap<u16, Arc<Host>>,
    /// The containers of living hosts, by id: those of the workspaces that this host runs
    /// containers of; all for a gateway.
    pub containers: BTreeMap<String, Arc<ContainerRecord>>,
    /// The tunnels of living hosts, by id: those that lead to this host's containers; all for
    /// a gateway.
    pub tunnels: BTreeMap<String, Arc<TunnelRecord>>,
    /// The clusters of the workspaces that this host runs containers of, by workspace and name;
    /// all for a gateway.
    pub clusters: BTreeMap<String, Arc<ClusterRecord>>,
    /// The proxies of the workspaces that this host runs containers of, by workspace and name; all
    /// for a gateway.
    pub proxies: BTreeMap<String, Arc<Proxy>>,
}

/// A machine of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As it last announced itself.
    pub record: HostRecord,
    /// Whether it keeps its lease. Its address blocks and its number remain its own if not.
    pub alive: bool,
}

/// How a view becomes the next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Difference {
    /// Of the next view.
    pub revision: u64,
    /// If they are others.
    pub settings: Option<Arc<RegionSettings>>,
    /// Machines that are new or have changed, and those that are gone.
    pub hosts: Rows<u16, Host>,
    /// The same of containers.
    pub containers: Rows<String, ContainerRecord>,
    /// The same of tunnels.
    pub tunnels: Rows<String, TunnelRecord>,
    /// The same of clusters.
    pub clusters: Rows<String, ClusterRecord>,
    /// The same of proxies.
    pub proxies: Rows<String, Proxy>,
}

/// Rows of one table that differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<K, V> {
    /// New or changed.
    pub put: Vec<(K, Arc<V>)>,
    /// No longer there.
    pub gone: Vec<K>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { put: Vec::new(), gone: Vec::new() }
    }
}

impl View {
    /// What makes this view the next one.
    pub fn difference(&self, next: &Self) -> Difference {
        self.difference_with(next, rows(&self.hosts, &next.hosts))
    }

    /// The same, where it is known how the machines differ.
    pub(super) fn difference_with(&self, next: &Self, hosts: Rows<u16, Host>) -> Difference {
        Difference {
            revision: next.revision,
            settings: (self.settings != next.settings).then(|| next.settings.clone()),
            hosts,
            containers: rows(&self.containers, &next.containers),
            tunnels: rows(&self.tunnels, &next.tunnels),
            clusters: rows(&self.clusters, &next.clusters),
            proxies: rows(&self.proxies, &next.proxies),
        }
    }

    /// Becomes the next view.
    pub fn apply(&mut self, difference: Difference) {
        self.revision = difference.revision;
        if let Some(settings) = difference.settings {
            self.settings = settings;
        }
        change(&mut self.hosts, difference.hosts);
        change(&mut self.containers, difference.containers);
        change(&mut self.tunnels, difference.tunnels);
        change(&mut self.clusters, difference.clusters);
        change(&mut self.proxies, difference.proxies);
    }
}

impl Difference {
    /// Whether nothing differs but the revision.
    pub fn is_empty(&self) -> bool {
        *self == Self { revision: self.revision, ..Self::default() }
    }
}

fn rows<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
) -> Rows<K, V> {
    let same = |key: &K, value: &Arc<V>| {
        old.get(key).is_some_and(|known| Arc::ptr_eq(known, value) || known == value)
    };
    let put = new.iter().filter(|(key, value)| !same(key, value));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    Rows {
        put: put.map(|(key, value)| (key.clone(), value.clone())).collect(),
        gone: gone.cloned().collect(),
    }
}

fn change<K: Ord, V>(table: &mut BTreeMap<K, Arc<V>>, rows: Rows<K, V>) {
    for key in &rows.gone {
        table.remove(key);
    }
    table.extend(rows.put);
}
