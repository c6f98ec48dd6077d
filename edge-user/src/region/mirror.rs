//! A gateway's copy of the region's state, kept current by a watch of the store, and what of it
//! concerns one machine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    cluster::ClusterRecord,
    proxy::{Proxy, ProxyRecord},
    roster::{
        self, About, ContainerRecord, HostRecord, Presence, RegionSettings, Role, TunnelRecord,
    },
    store::{Change, Entry, Seen, Store, StoreError},
    view::{Difference, Host, Rows, View},
};

/// Between two attempts to watch a store that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// The region's state as of one revision.
#[derive(Debug, Default)]
pub struct State {
    revision: u64,
    settings: Arc<RegionSettings>,
    /// As views have them, which share these.
    hosts: BTreeMap<u16, Arc<Host>>,
    news: News,
    present: BTreeMap<u16, Presence>,
    containers: BTreeMap<String, Arc<ContainerRecord>>,
    /// The containers of each workspace, and of each host.
    by_workspace: HashMap<String, BTreeSet<String>>,
    by_host: HashMap<u16, BTreeSet<String>>,
    /// By key: container and port.
    tunnels: BTreeMap<String, Arc<TunnelRecord>>,
    /// By key: workspace and name.
    clusters: BTreeMap<String, Arc<ClusterRecord>>,
    /// The same.
    proxies: BTreeMap<String, Arc<ProxyRecord>>,
    /// The gateways that serve addresses of proxies.
    holders: BTreeMap<Ipv4Addr, u16>,
}

/// Which machines were written about after a revision: found without looking at the others, since
/// each session asks after each write.
#[derive(Debug, Default)]
struct News {
    /// Nothing before this is known.
    since: u64,
    by_revision: BTreeSet<(u64, u16)>,
    /// The last, of those that are gone too.
    of: HashMap<u16, u64>,
}

/// The copy.
#[derive(Debug)]
pub struct Mirror {
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

impl Mirror {
    /// Reads the state, and follows it until the shutdown.
    ///
    /// # Errors
    /// The store's own; later failures are logged, and the copy stays as it was meanwhile.
    pub async fn start(
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let snapshot = store.snapshot(roster::PREFIX).await?;
        let mirror = Arc::new(Self { state: RwLock::default(), revision: watch::channel(0).0 });
        let after = snapshot.revision;
        mirror.learn(Seen::Snapshot(snapshot));
        let following = mirror.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = following.follow(store, after) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(mirror)
    }

    /// Tells of each new revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Looks at the state; others wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn follow(&self, store: Arc<dyn Store>, mut after: u64) {
        loop {
            let mut watch = store.watch(roster::PREFIX, Some(after));
            while let Some(seen) = watch.next().await {
                match seen {
                    Ok(seen) => after = self.learn(seen),
                    Err(error) => {
                        tracing::warn!(%error, "the region's state cannot be followed; what is known stays");
                        break;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn learn(&self, seen: Seen) -> u64 {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match seen {
            Seen::Snapshot(snapshot) => {
                *state = State::default();
                for (key, Entry { value, revision }) in snapshot.entries {
                    state.apply(Change { key, revision, value: Some(value) });
                }
                state.revision = snapshot.revision;
                // Who is gone since is not told.
                state.news.since = snapshot.revision;
            }
            Seen::Changes(changes) => changes.into_iter().for_each(|change| state.apply(change)),
        }
        let revision = state.revision;
        drop(state);
        self.revision.send_replace(revision);
        revision
    }
}

impl State {
    /// Of the last write in it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A machine that has joined.
    pub fn host(&self, id: u16) -> Option<&HostRecord> {
        self.hosts.get(&id).map(|host| &host.record)
    }

    /// What the gateway of a tunnel's raw socket said of itself.
    pub fn home(&self, tunnel: &TunnelRecord) -> Option<&About> {
        Some(&self.host(tunnel.place.raw.as_ref()?.gateway)?.about)
    }

    /// The session of a machine that keeps its lease.
    pub fn presence(&self, id: u16) -> Option<&Presence> {
        self.present.get(&id)
    }

    /// host:port of every gateway that is there.
    pub fn control(&self) -> Vec<String> {
        self.there().flat_map(|machine| machine.about.control.clone()).collect()
    }

    /// All tunnels, those of hosts that are away too, and whether the host is there.
    pub fn tunnels(&self) -> impl Iterator<Item = (&Arc<TunnelRecord>, bool)> {
        self.tunnels.values().map(|tunnel| (tunnel, self.present.contains_key(&tunnel.host)))
    }

    /// How many members of gangs the machines that are there may start for others: all that take
    /// part but this one.
    pub fn rooms(&self, but: u16) -> BTreeMap<u16, u16> {
        let others = self.there().filter(|host| host.id != but && host.about.runs_members > 0);
        let mut rooms: BTreeMap<_, _> =
            others.map(|host| (host.id, host.about.runs_members)).collect();
        let living = self.clusters.values().filter(|cluster| cluster.over.is_none());
        for share in living.flat_map(|cluster| &cluster.shares) {
            if let Some(room) = rooms.get_mut(&share.host) {
                *room = room.saturating_sub(share.count);
            }
        }
        rooms
    }

    /// The machines that keep their leases.
    fn there(&self) -> impl Iterator<Item = &HostRecord> {
        self.hosts.values().filter(|host| host.alive).map(|host| &host.record)
    }

    /// A container, whether its host is there or not.
    pub fn container(&self, id: &str) -> Option<&Arc<ContainerRecord>> {
        self.containers.get(id)
    }

    /// What concerns this machine.
    pub fn concerning(&self, machine: u16) -> View {
        View { hosts: self.hosts.clone(), ..self.but_hosts(machine) }
    }

    /// What of that is new to a machine that was shown this view.
    pub fn news(&self, machine: u16, shown: &View) -> Difference {
        match self.news.after(shown.revision) {
            Some(changed) => {
                let mut hosts = Rows::default();
                for id in changed {
                    match (self.hosts.get(&id), shown.hosts.get(&id)) {
                        (Some(host), known) if known != Some(host) => {
                            hosts.put.push((id, host.clone()));
                        }
                        (None, Some(_)) => hosts.gone.push(id),
                        _ => {}
                    }
                }
                shown.difference_with(&self.but_hosts(machine), hosts)
            }
            None => shown.difference(&self.concerning(machine)),
        }
    }

    fn but_hosts(&self, machine: u16) -> View {
        let all = self.host(machine).is_some_and(|host| host.role == Role::Gateway);
        let there = |host: &u16| self.present.contains_key(host);
        let own = self.by_host.get(&machine).into_iter().flatten();
        let workspaces: BTreeSet<&str> =
            own.filter_map(|id| Some(self.containers.get(id)?.workspace.as_str())).collect();
        let clusters = self.clusters.iter().filter(|(_, cluster)| {
            let asked = cluster.shares.iter().any(|share| share.host == machine);
            all || asked || workspaces.contains(cluster.workspace.as_str())
        });
        let clusters = clusters.map(|(key, cluster)| (key.clone(), cluster.clone())).collect();
        let proxies = self
            .proxies
            .iter()
            .filter(|(_, proxy)| all || workspaces.contains(proxy.workspace.as_str()));
        let proxies = proxies.map(|(key, record)| {
            (key.clone(), Arc::new(Proxy::of(ProxyRecord::clone(record), &self.holders)))
        });
        let proxies = proxies.collect();
        let mine = workspaces.into_iter().filter_map(|name| self.by_workspace.get(name)).flatten();
        let ids: Box<dyn Iterator<Item = &String>> =
            if all { Box::new(self.containers.keys()) } else { Box::new(mine) };
        let containers = ids.filter_map(|id| self.containers.get(id));
        let tunnels = self.tunnels.values().filter(|tunnel| all || tunnel.host == machine);
        View {
            revision: self.revision,
            settings: self.settings.clone(),
            hosts: BTreeMap::new(),
            containers: containers
                .filter(|container| there(&container.host))
                .map(|container| (container.id.clone(), container.clone()))
                .collect(),
            tunnels: tunnels
                .filter(|tunnel| there(&tunnel.host))
                .map(|tunnel| (tunnel.id.clone(), tunnel.clone()))
                .collect(),
            clusters,
            proxies,
        }
    }

    fn apply(&mut self, Change { key, revision, value }: Change) {
        self.revision = revision;
        let Some(rest) = key.strip_prefix(roster::PREFIX) else { return };
        let (kind, id) = rest.split_once('/').unwrap_or((rest, ""));
        match kind {
            "settings" => self.settings = Arc::new(read(&key, value).unwrap_or_default()),
            "host" => {
                let present = &self.present;
                number(&mut self.hosts, &key, id, value, |record: HostRecord| {
                    Arc::new(Host { alive: present.contains_key(&record.id), record })
                });
                self.news.tell(id, revision);
            }
            "presence" => {
                number(&mut self.present, &key, id, value, |presence| presence);
                self.see(id);
                self.news.tell(id, revision);
            }
            "container" => self.put_container(id, read(&key, value)),
            "tunnel" => keyed(&mut self.tunnels, &key, id, value),
            "cluster" => keyed(&mut self.clusters, &key, id, value),
            "proxy" => keyed(&mut self.proxies, &key, id, value),
            "proxy-holder" => number(&mut self.holders, &key, id, value, |holder| holder),
            _ => {}
        }
    }

    /// Whether a machine is there has perhaps changed.
    fn see(&mut self, id: &str) {
        let Ok(id) = id.parse() else { return };
        let alive = self.present.contains_key(&id);
        if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.alive != alive) {
            Arc::make_mut(host).alive = alive;
        }
    }

    fn put_container(&mut self, id: &str, record: Option<ContainerRecord>) {
        if let Some(old) = self.containers.remove(id) {
            remove(&mut self.by_workspace, &old.workspace, id);
            remove(&mut self.by_host, &old.host, id);
        }
        if let Some(new) = record {
            self.by_workspace.entry(new.workspace.clone()).or_default().insert(id.to_owned());
            self.by_host.entry(new.host).or_default().insert(id.to_owned());
            self.containers.insert(id.to_owned(), Arc::new(new));
        }
    }
}

impl News {
    /// Something was written about a machine.
    fn tell(&mut self, id: &str, revision: u64) {
        let Ok(id) = id.parse() else { return };
        if let Some(before) = self.of.insert(id, revision) {
            self.by_revision.remove(&(before, id));
        }
        self.by_revision.insert((revision, id));
    }

    /// The machines that were written about after a revision, if that is known.
    fn after(&self, revision: u64) -> Option<impl Iterator<Item = u16>> {
        let later = (revision.saturating_add(1), 0)..;
        (revision >= self.since).then(|| self.by_revision.range(later).map(|(_, id)| *id))
    }
}

fn number<K: FromStr + Ord, T: DeserializeOwned, Row>(
    table: &mut BTreeMap<K, Row>,
    key: &str,
    id: &str,
    value: Option<Value>,
    row: impl FnOnce(T) -> Row,
) {
    let Ok(id) = id.parse() else { return };
    match read(key, value) {
        Some(record) => drop(table.insert(id, row(record))),
        None => drop(table.remove(&id)),
    }
}

fn keyed<T: DeserializeOwned>(
    table: &mut BTreeMap<String, Arc<T>>,
    key: &str,
    id: &str,
    value: Option<Value>,
) {
    match read(key, value) {
        Some(record) => drop(table.insert(id.to_owned(), Arc::new(record))),
        None => drop(table.remove(id)),
    }
}

fn remove<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<String>>, key: &K, id: &str) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

/// A record that this version does not understand is as if it were not there.
fn read<T: DeserializeOwned>(key: &str, value: Option<Value>) -> Option<T> {
    match serde_json::from_value(value?) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::error!(key, %error, "a record of the region cannot be understood; run one version of edge on all gateways");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_new_makes_the_view_that_was_shown_the_one_that_there_is() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut dice = StdRng::seed_from_u64(seed);
        let mut state = State::default();
        let mut shown: Vec<View> = (1..4).map(|machine| state.concerning(machine)).collect();
        for revision in 1..3_000 {
            let id = dice.random_range(1..12);
            let (blocks, about) = (Vec::new(), About::default());
            let key = dice.random_range(0..3).to_string();
            let record = HostRecord { id, role: Role::Host, key, blocks, about };
            let (key, value) = match dice.random_range(0..5) {
                0 | 1 => (roster::host(id), Some(json!(record))),
                2 => (roster::host(id), None),
                3 => (roster::presence(id), Some(json!(Presence { session: 1, lease: 1 }))),
                _ => (roster::presence(id), None),
            };
            state.apply(Change { key, revision, value });
            for (machine, shown) in (1..).zip(&mut shown) {
                if dice.random_bool(0.2) {
                    shown.apply(state.news(machine, shown));
                    assert_eq!(*shown, state.concerning(machine));
                }
            }
        }
    }
}
