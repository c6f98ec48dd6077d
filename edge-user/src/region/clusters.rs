//! The clusters that this machine knows of, and what it says of its own members.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    claims::{ClaimError, Claims, Terms},
    cluster::{ClusterError, ClusterMember, ClusterRecord},
    member::{CallError, Member},
    roster,
    store::{Seen, Store, StoreError},
    tunnel::Container,
    view::View,
};
use crate::error::causes;

/// A member of another machine that is not heard of for this long has ended: more than a daemon
/// needs for a restart. A machine that dies is noticed by its lease before.
const ABSENCE: Duration = Duration::from_secs(20);
/// How often absent members are looked for while there are any.
const LOOK: Duration = Duration::from_secs(1);
/// Between attempts to watch a store that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Clusters, by workspace and name.
pub type Known = BTreeMap<String, Arc<ClusterRecord>>;

/// The clusters of this machine's workspaces.
pub struct Clusters {
    way: Way,
    known: watch::Sender<Arc<Known>>,
    /// Is told before everybody else.
    first: First,
}

/// What must be true before anybody hears of a change.
type First = Box<dyn Fn(&Known) + Send + Sync>;

/// Who keeps the records.
enum Way {
    /// This machine itself, which has this number.
    Alone(Claims, u16),
    /// The gateways.
    Member(Arc<Member>),
}

/// Why a container does not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// This machine says no.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The gateways say no, or none can be reached.
    #[error(transparent)]
    Region(#[from] CallError),
}

impl Clusters {
    /// Of a machine that is alone, and has this number; records live as long as this store's.
    /// `first` is told of all changes before they are known here, beginning with the first that
    /// is heard.
    pub fn alone(
        leased: Arc<dyn Store>,
        host: u16,
        first: impl Fn(&Known) + Send + Sync + 'static,
    ) -> Self {
        Self::by(Way::Alone(Claims::new(leased, Terms::default()), host), Box::new(first))
    }

    /// The same of a machine of a region.
    pub fn of(member: Arc<Member>, first: impl Fn(&Known) + Send + Sync + 'static) -> Self {
        Self::by(Way::Member(member), Box::new(first))
    }

    fn by(way: Way, first: First) -> Self {
        Self { way, known: watch::channel(Arc::default()).0, first }
    }

    /// Follows the records until the shutdown.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = self.learn() => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// The clusters that are known, now and as they change.
    pub fn known(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// The cluster that a container is a member of, and its rank.
    pub fn of_container(&self, id: &str) -> Option<(Arc<ClusterRecord>, usize)> {
        let known = self.known.borrow().clone();
        known.values().find_map(|cluster| Some((cluster.clone(), cluster.rank(id)?)))
    }

    /// The private address of the member with this rank.
    pub fn ranked(&self, workspace: &str, name: &str, rank: usize) -> Option<Ipv6Addr> {
        let known = self.known.borrow().clone();
        let cluster = known.get(&format!("{workspace}/{name}"))?;
        let member = cluster.members.get(rank).filter(|member| !member.finished)?;
        cluster.over.is_none().then_some(member.i6pn)
    }

    /// Lets containers of this machine join the cluster of this name, in this order.
    ///
    /// # Errors
    /// If they do not fit, or no gateway can be reached.
    pub async fn join(
        &self,
        name: &str,
        size: u16,
        containers: &[Arc<Container>],
    ) -> Result<ClusterRecord, JoinError> {
        let ids = || containers.iter().map(|one| one.id.clone());
        match &self.way {
            Way::Member(member) => Ok(member.join_cluster(name, size, ids().collect()).await?),
            Way::Alone(claims, host) => {
                let member = |one: &Arc<Container>| ClusterMember {
                    container: one.id.clone(),
                    host: *host,
                    ipv4: one.ipv4,
                    i6pn: one.i6pn,
                    finished: false,
                };
                let members: Vec<_> = containers.iter().map(member).collect();
                let workspace = containers.first().map(|one| one.workspace.as_str());
                let workspace = workspace.unwrap_or_default();
                Ok(claims.join_cluster(None, workspace, name, size, &members).await?)
            }
        }
    }

    /// A container of this machine has ended: well, or for a reason. If it is a member, its
    /// cluster is over for that.
    pub async fn end_member(&self, container: &str, failure: Option<&str>) {
        let ended = match &self.way {
            Way::Alone(claims, host) => {
                let ended = claims.end_member(*host, None, container, failure).await;
                ended.map_err(JoinError::from)
            }
            // The gateways hear of members only.
            Way::Member(_) if self.of_container(container).is_none() => return,
            Way::Member(member) => {
                member.end_member(container, failure).await.map_err(JoinError::from)
            }
        };
        if let Err(error) = ended {
            let error = causes(&error);
            // The others find out by its absence.
            tracing::warn!(container, error, "the region does not hear that a member has ended");
        }
    }

    async fn learn(&self) {
        match &self.way {
            Way::Alone(claims, _) => loop {
                let mut watch = claims.store().watch(roster::CLUSTERS, None);
                let mut known = Known::new();
                while let Some(seen) = watch.next().await {
                    match seen.and_then(|seen| take_in(&mut known, seen)) {
                        Ok(()) => self.publish(&known),
                        Err(error) => {
                            tracing::warn!(%error, "clusters cannot be followed");
                            break;
                        }
                    }
                }
                tokio::time::sleep(AGAIN).await;
            },
            Way::Member(member) => {
                let mut views = member.view();
                let mut absences = Absences::default();
                let mut look = tokio::time::interval(LOOK);
                loop {
                    let view = views.borrow_and_update().clone();
                    // Before the first session nothing is known, not even that there is none.
                    if view.revision > 0 {
                        self.publish(&view.clusters);
                    }
                    for (container, why) in absences.overdue(member.host(), &view) {
                        self.end_member(&container, Some(&why)).await;
                    }
                    tokio::select! {
                        changed = views.changed() => if changed.is_err() { return },
                        _ = look.tick(), if !absences.0.is_empty() => {}
                    }
                }
            }
        }
    }

    fn publish(&self, new: &Known) {
        (self.first)(new);
        self.known.send_if_modified(|known| {
            let differs = **known != *new;
            if differs {
                *known = Arc::new(new.clone());
            }
            differs
        });
    }
}

fn take_in(known: &mut Known, seen: Seen) -> Result<(), StoreError> {
    let short = |key: &str| key.trim_start_matches(roster::CLUSTERS).to_owned();
    match seen {
        Seen::Snapshot(snapshot) => {
            known.clear();
            for (key, entry) in snapshot.entries {
                known.insert(short(&key), Arc::new(entry.read(&key)?));
            }
        }
        Seen::Changes(changes) => {
            for change in changes {
                let key = short(&change.key);
                let read = |value| {
                    serde_json::from_value(value)
                        .map_err(|source| StoreError::Value { key: change.key.clone(), source })
                };
                match change.value.map(read).transpose()? {
                    Some(record) => drop(known.insert(key, Arc::new(record))),
                    None => drop(known.remove(&key)),
                }
            }
        }
    }
    Ok(())
}

/// Members of this machine's clusters that nothing is heard of, and since when.
#[derive(Default)]
struct Absences(HashMap<String, Instant>);

impl Absences {
    /// For each cluster with a member that has been absent for too long: a member here, and what
    /// is to be said of the cluster.
    fn overdue(&mut self, host: u16, view: &View) -> Vec<(String, String)> {
        let mut still = HashMap::new();
        let mut over = Vec::new();
        for cluster in view.clusters.values().filter(|cluster| cluster.over.is_none()) {
            let Some(own) = cluster.members.iter().find(|one| one.host == host && !one.finished)
            else {
                continue;
            };
            let absent = |member: &&ClusterMember| {
                !member.finished && !view.containers.contains_key(&member.container)
            };
            for member in cluster.members.iter().filter(absent) {
                let since = self.0.get(&member.container).copied().unwrap_or_else(Instant::now);
                still.insert(member.container.clone(), since);
                if since.elapsed() >= ABSENCE {
                    let rank = cluster.rank(&member.container).unwrap_or_default();
                    let why = format!(
                        "hears nothing any more of rank {rank} (container {} on host {}); see whether that machine lives",
                        member.container, member.host
                    );
                    over.push((own.container.clone(), why));
                    break;
                }
            }
        }
        self.0 = still;
        over
    }
}

impl JoinError {
    /// As a call answers it.
    pub fn status(self) -> Status {
        match self {
            Self::Claim(error) => error.into(),
            Self::Region(error) => Status::new(error.code(), causes(&error)),
        }
    }
}

impl From<ClusterError> for JoinError {
    fn from(error: ClusterError) -> Self {
        Self::Claim(error.into())
    }
}
