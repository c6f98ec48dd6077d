//! Clusters, as hosts join them and leave them.

use tonic::Status;

use super::RegionService;
use crate::{
    region::{
        claims::{ClaimError, Joining, Spread},
        cluster::{ClusterError, ClusterMember, ClusterRecord},
        registry::Registry,
    },
    wire::region as wire,
};

impl<R: Registry> RegionService<R> {
    /// Lets containers of a host join.
    pub(super) async fn join_members(
        &self,
        host: u16,
        request: wire::JoinClusterRequest,
    ) -> Result<ClusterRecord, Status> {
        let size = u16::try_from(request.size);
        let size = size.map_err(|_large| ClaimError::from(ClusterError::Size(request.size)))?;
        let (mut members, mut workspace) = (Vec::new(), String::new());
        for id in &request.containers {
            let container = self.claims.own_container(host, id).await?;
            if !container.private {
                return Err(ClaimError::from(ClusterError::NotPrivate(id.clone())).into());
            }
            if !members.is_empty() && container.workspace != workspace {
                return Err(Status::invalid_argument(format!(
                    "container {id} is not of workspace {workspace:?} as the others are; a cluster has one workspace"
                )));
            }
            workspace = container.workspace;
            members.push(ClusterMember {
                container: container.id,
                host,
                ipv4: container.ipv4,
                i6pn: container.i6pn,
                finished: false,
            });
        }
        if members.is_empty() {
            return Err(Status::invalid_argument("nobody is to join the cluster; name containers"));
        }
        // What it holds: while the host is away for a while, its clusters are nobody else's.
        let hold = Some(self.claims.hold(host).await?);
        let rooms = |launch| Spread { launch, rooms: self.mirror.read(|state| state.rooms(host)) };
        let joining = Joining {
            workspace: &workspace,
            name: &request.name,
            size,
            members: &members,
            cluster: Some(&*request.cluster).filter(|id| !id.is_empty()),
            spread: request.launch.map(rooms),
        };
        let cluster = self.claims.join_cluster(hold, &joining).await?;
        tracing::info!(host, cluster = cluster.id, name = cluster.name, "containers have joined");
        Ok(cluster)
    }

    /// A member of a host has ended.
    pub(super) async fn end_of_member(
        &self,
        host: u16,
        request: &wire::EndMemberRequest,
    ) -> Result<(), Status> {
        let hold = Some(self.claims.hold(host).await?);
        let failure = request.failure.as_deref();
        Ok(self.claims.end_member(host, hold, &request.container, failure).await?)
    }

    /// A host takes on what it is to start.
    pub(super) async fn take(
        &self,
        host: u16,
        request: &wire::TakeShareRequest,
    ) -> Result<Vec<u8>, Status> {
        let hold = Some(self.claims.hold(host).await?);
        let launch = self.claims.take_share(host, hold, &request.cluster, request.taker).await?;
        tracing::info!(host, cluster = request.cluster, "a host starts members of a gang");
        Ok(launch)
    }
}
