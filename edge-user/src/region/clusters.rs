//! The clusters that this machine knows of, and what it says of its own members.

mod absences;

use std::{collections::BTreeMap, net::Ipv6Addr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::absences::Absences;
use super::{
    claims::{ClaimError, Claims, Joining, Terms},
    cluster::{ClusterError, ClusterMember, ClusterRecord},
    member::{CallError, Member},
    roster,
    spread::SpreadError,
    store::{Seen, Store, StoreError},
    tunnel::Container,
};
use crate::error::causes;

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

/// The cluster that containers are to join.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many make it whole.
    pub size: u16,
    /// Its id, if only that one is meant; else empty.
    pub cluster: String,
    /// What other machines are to start, so that it becomes whole.
    pub launch: Option<Vec<u8>>,
}

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
        wanted: &Wanted,
        containers: &[Arc<Container>],
    ) -> Result<ClusterRecord, JoinError> {
        let ids = || containers.iter().map(|one| one.id.clone());
        match &self.way {
            Way::Member(member) => Ok(member.join_cluster(wanted, ids().collect()).await?),
            Way::Alone(..) if wanted.launch.is_some() => {
                let (name, source) = (wanted.name.clone(), SpreadError::Alone);
                Err(ClusterError::NotSpread { name, source }.into())
            }
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
                let joining = Joining {
                    workspace: workspace.unwrap_or_default(),
                    name: &wanted.name,
                    size: wanted.size,
                    members: &members,
                    cluster: Some(&*wanted.cluster).filter(|id| !id.is_empty()),
                    spread: None,
                };
                Ok(claims.join_cluster(None, &joining).await?)
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
                        _ = look.tick(), if !absences.is_empty() => {}
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
