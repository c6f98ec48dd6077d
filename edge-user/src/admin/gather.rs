//! The members of a cluster on this machine: they come, wait for the others, and hear of its end.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use super::life::Lives;
use crate::{
    host::{cluster, containers::Attached},
    region::{
        cluster::{ClusterError, ClusterRecord},
        clusters::{JoinError, Known, Wanted},
    },
    wire::admin::{
        EndMemberRequest, GangMember, GatherEvent, GatherRequest, Gathered, OthersEnded, Resume,
        Variable, gather_event::Event,
    },
};

/// What the caller of Gather is told.
type Events = mpsc::Sender<Result<GatherEvent, Status>>;

/// Members that one call brings.
pub(super) struct Gang {
    lives: Lives,
    wanted: Wanted,
    wait: Duration,
    members: Vec<Arc<Attached>>,
}

impl Gang {
    /// Those that the caller may bring.
    ///
    /// # Errors
    /// If one is not its own, or cannot be a member.
    pub(super) fn of(lives: Lives, request: GatherRequest) -> Result<Self, Status> {
        let refused = |error: ClusterError| JoinError::from(error).status();
        let size = u16::try_from(request.size);
        let size = size.map_err(|_large| refused(ClusterError::Size(request.size)))?;
        let own = request.members.iter().map(|member| own(&lives, Some(member)));
        let members = own.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = members.first() else {
            return Err(Status::invalid_argument("cluster: nobody is to join; name containers"));
        };
        for member in &members {
            if !member.private {
                let id = member.container.id.clone();
                return Err(refused(ClusterError::NotPrivate(id)));
            }
            if member.container.workspace != first.container.workspace {
                return Err(Status::invalid_argument(
                    "cluster: the containers are of several workspaces; name those of one",
                ));
            }
        }
        let wait = Duration::from_millis(request.wait);
        let GatherRequest { name, cluster, launch, .. } = request;
        let launch = launch.map(|launch| launch.encode_to_vec());
        Ok(Self { lives, wanted: Wanted { name, size, cluster, launch }, wait, members })
    }

    /// Joins, says when the cluster is whole, and when it is over.
    pub(super) async fn gather(self, events: Events) {
        let ended = tokio::select! {
            ended = self.follow(&events) => ended,
            // Its containers end as well, and that is what the others hear.
            () = events.closed() => return,
            // The end of the call says so; the members are the next daemon's.
            () = self.lives.shutdown.cancelled() => return,
        };
        // A caller that is gone needs no answer.
        events.send(Err(ended)).await.ok();
    }

    async fn follow(&self, events: &Events) -> Status {
        let mut known = self.lives.clusters.known();
        let pass = match self.lives.gate.pass().await {
            Ok(pass) => pass,
            Err(error) => return Status::unavailable(error.to_string()),
        };
        let containers: Vec<_> = self.members.iter().map(|one| one.container.clone()).collect();
        let joined = self.lives.clusters.join(&self.wanted, &containers).await;
        drop(pass);
        let joined = match joined {
            Ok(joined) => joined,
            Err(error) => return error.status(),
        };
        tracing::info!(cluster = joined.id, name = joined.name, "containers have joined a cluster");
        let whole = tokio::time::timeout(self.wait, self.whole(&mut known, &joined));
        let whole = match whole.await {
            Ok(Ok(whole)) => whole,
            Ok(Err(over)) => return Status::failed_precondition(over),
            Err(_elapsed) => return self.incomplete(&joined).await,
        };
        let gathered = Event::Gathered(self.gathered(&whole));
        // A caller that is gone is noticed right after.
        events.send(Ok(GatherEvent { event: Some(gathered) })).await.ok();
        let mut seen = known.clone();
        tokio::select! {
            over = over(&mut known, &whole) => return Status::aborted(over),
            () = self.others_ended(&mut seen, &whole) => {}
        }
        let others_ended = Event::OthersEnded(OthersEnded {});
        events.send(Ok(GatherEvent { event: Some(others_ended) })).await.ok();
        Status::aborted(over(&mut known, &whole).await)
    }

    /// Waits until all members that this call did not bring have ended well.
    async fn others_ended(&self, known: &mut watch::Receiver<Arc<Known>>, cluster: &ClusterRecord) {
        let own = |id: &str| self.members.iter().any(|member| member.container.id == id);
        let have_ended = |known: &Arc<Known>| {
            find(known, cluster).is_some_and(|cluster| {
                cluster.members.iter().all(|one| one.finished || own(&one.container))
            })
        };
        if known.wait_for(have_ended).await.is_err() {
            // The daemon ends, and says so by itself.
            std::future::pending::<()>().await;
        }
    }

    /// The cluster when all have come; or why they never will.
    async fn whole(
        &self,
        known: &mut watch::Receiver<Arc<Known>>,
        joined: &ClusterRecord,
    ) -> Result<Arc<ClusterRecord>, String> {
        let is_settled = |known: &Arc<Known>| {
            find(known, joined).is_some_and(|one| one.is_whole() || one.over.is_some())
        };
        let settled = known.wait_for(is_settled).await;
        let settled = settled.ok().and_then(|known| find(&known, joined).cloned());
        match settled {
            Some(cluster) if cluster.is_running() => Ok(cluster),
            other => Err(sentence(joined, other.and_then(|one| one.over.clone()))),
        }
    }

    /// Ends what never became whole, everywhere.
    async fn incomplete(&self, joined: &ClusterRecord) -> Status {
        let known = self.lives.clusters.known().borrow().clone();
        let joined = find(&known, joined).map_or(joined, |one| &**one);
        let came = joined.members.len();
        let absent = joined.shares.iter().map(|share| share.host);
        let absent = absent.filter(|host| joined.members.iter().all(|one| one.host != *host));
        let absent: String = absent
            .map(|host| format!(", and none of those that host {host} is to start"))
            .collect();
        let waited = humantime::format_duration(self.wait);
        let why = format!(
            "has waited for {waited}, in which {came} of {} members came{absent}; start the others sooner, or give a longer --gather",
            joined.size
        );
        self.lives.clusters.end_member(&self.members[0].container.id, Some(&why)).await;
        Status::new(Code::FailedPrecondition, format!("cluster {:?}: it {why}", joined.name))
    }

    fn gathered(&self, cluster: &ClusterRecord) -> Gathered {
        let member = |attached: &Arc<Attached>| {
            let rank = cluster.rank(&attached.container.id)?;
            let environment = cluster::environment(cluster, rank, &attached.container)
                .into_iter()
                .map(|(name, value)| Variable { name, value });
            Some(GangMember {
                container: attached.container.id.clone(),
                rank: u32::try_from(rank).unwrap_or_default(),
                environment: environment.collect(),
            })
        };
        let members = self.members.iter().filter_map(member).collect();
        let hosts = cluster.members.iter().map(|member| member.host.into()).collect();
        Gathered { id: cluster.id.clone(), members, hosts }
    }
}

/// A member's program has ended.
///
/// # Errors
/// If it is not the caller's.
pub(super) async fn end_member(lives: &Lives, request: EndMemberRequest) -> Result<(), Status> {
    let _pass = lives.gate.pass().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let member = own(lives, request.member.as_ref())?;
    lives.clusters.end_member(&member.container.id, request.failure.as_deref()).await;
    Ok(())
}

/// Waits until a cluster is no more, and says why.
async fn over(known: &mut watch::Receiver<Arc<Known>>, cluster: &ClusterRecord) -> String {
    let is_over = |known: &Arc<Known>| find(known, cluster).is_none_or(|one| one.over.is_some());
    let over = known.wait_for(is_over).await;
    sentence(cluster, over.ok().and_then(|known| find(&known, cluster)?.over.clone()))
}

fn sentence(cluster: &ClusterRecord, why: Option<String>) -> String {
    let why = why.unwrap_or_else(|| "nothing is known of it any more; start it anew".to_owned());
    format!("cluster {:?}: {why}", cluster.name)
}

fn find<'k>(known: &'k Known, cluster: &ClusterRecord) -> Option<&'k Arc<ClusterRecord>> {
    let found = known.get(&format!("{}/{}", cluster.workspace, cluster.name))?;
    (found.id == cluster.id).then_some(found)
}

/// The container that a caller proves to be its own.
fn own(lives: &Lives, member: Option<&Resume>) -> Result<Arc<Attached>, Status> {
    let Resume { container, token } = member.cloned().unwrap_or_default();
    let attached = lives.containers.by_id(&container).ok_or_else(|| {
        Status::not_found(format!(
            "container {container}: it is not here any more; start its gang anew"
        ))
    })?;
    if attached.token != token {
        let name = &attached.container.name;
        return Err(Status::permission_denied(format!(
            "container {name:?}: the token is not its owner's; gather containers of your own"
        )));
    }
    Ok(attached)
}
