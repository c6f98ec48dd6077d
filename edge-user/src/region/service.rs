//! What a gateway answers the hosts of its region. Who asks is what the certificate says.

mod clusters;
mod tunnels;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use futures::Stream;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{
    claims::{ClaimError, Claims},
    convert,
    identity::{Authority, IdentityError, Peer, public_key_hash},
    mirror::Mirror,
    proxy::Traffic,
    registry::{Follower, Registry},
    roster::Role,
    session::{Session, Sessions},
};
use crate::{
    error::causes,
    wire::region::{self as wire, region_server::Region},
};

/// Attempts to join in vain that one address (IPv6: one /64) may make in a minute.
const GUESSES: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
/// Events on their way to one host.
const EVENTS: usize = 4;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The machine that the certificate names, if it showed one.
    pub peer: Option<Arc<Peer>>,
    /// Where it calls from.
    pub address: SocketAddr,
}

/// Counts what went under the addresses that a gateway serves. It may wait for the kernel.
pub type CountTraffic = Arc<dyn Fn() -> BTreeMap<Ipv4Addr, Traffic> + Send + Sync>;

/// Answers hosts.
pub struct RegionService<R> {
    pub(super) authority: Arc<Authority>,
    pub(super) claims: Arc<Claims>,
    pub(super) mirror: Arc<Mirror>,
    pub(super) tunnels: Arc<Follower<R>>,
    pub(super) sessions: Sessions,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    /// Who knows what went under the addresses that this gateway serves, once it is there.
    pub(super) traffic: OnceLock<CountTraffic>,
    guesses: DefaultKeyedRateLimiter<IpAddr>,
    /// One start or stop of a container's tunnels at a time.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl<R> fmt::Debug for RegionService<R> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("RegionService").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl<R: Registry> RegionService<R> {
    pub(super) fn new(
        authority: Arc<Authority>,
        claims: Arc<Claims>,
        mirror: Arc<Mirror>,
        tunnels: Arc<Follower<R>>,
        sessions: Sessions,
        shutdown: CancellationToken,
    ) -> Self {
        let guesses = RateLimiter::keyed(Quota::per_minute(GUESSES));
        let (tasks, locks, traffic) = Default::default();
        Self {
            authority,
            claims,
            mirror,
            tunnels,
            sessions,
            tasks,
            shutdown,
            traffic,
            guesses,
            locks,
        }
    }

    /// The host that calls, if the region still knows it by this key.
    async fn host<T>(&self, request: &Request<T>) -> Result<Arc<Peer>, Status> {
        let caller = request.extensions().get::<Caller>();
        let peer = caller.and_then(|caller| caller.peer.clone()).ok_or_else(|| {
            Status::unauthenticated(
                "this call needs a host's certificate; join the region first, with a token",
            )
        })?;
        if peer.region != self.authority.region() {
            return Err(Status::permission_denied(format!(
                "the certificate is of region {}, and this gateway is of {}; name a gateway of the host's own region",
                peer.region,
                self.authority.region()
            )));
        }
        if peer.has_expired() {
            return Err(Status::unauthenticated(
                "the host's certificate has expired; join anew with a new token",
            ));
        }
        let record = self.claims.record(peer.id).await?;
        if record.key != peer.key_hash() || record.role != peer.role {
            return Err(ClaimError::UnknownHost(peer.id).into());
        }
        Ok(peer)
    }
}

#[tonic::async_trait]
impl<R: Registry> Region for Arc<RegionService<R>> {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::SessionEvent, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let address = request.extensions().get::<Caller>().map(|caller| caller.address);
        let address = address.map_or(Ipv6Addr::UNSPECIFIED.into(), |address| network(address.ip()));
        let wire::JoinRequest { secret, signing_request } = request.into_inner();
        let signing_request = CertificateSigningRequestParams::from_der(&signing_request.into())
            .map_err(|error| Status::invalid_argument(IdentityError::Request(error).to_string()))?;
        let key = public_key_hash(&signing_request.public_key.subject_public_key_info());
        let host = match self.claims.join(&secret, &key).await {
            Ok(host) => host,
            Err(error) => return Err(self.unwelcome(address, error)),
        };
        let certificate =
            self.authority.admit(Role::Host, host, &signing_request).map_err(internal)?;
        tracing::info!(host, %address, "a machine has joined");
        Ok(Response::new(wire::JoinResponse {
            host: host.into(),
            region: self.authority.region().to_owned(),
            certificate: certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
        }))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        let peer = self.host(&request).await?;
        let renewed = self.authority.renew(peer.role, peer.id, &peer.public_key);
        let certificate = renewed.map_err(internal)?.to_vec();
        Ok(Response::new(wire::RenewResponse { certificate }))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = self.host(&request).await?;
        let (events, stream) = mpsc::channel(EVENTS);
        let session = Session {
            claims: self.claims.clone(),
            mirror: self.mirror.clone(),
            sessions: self.sessions.clone(),
            peer,
            events,
            shutdown: self.shutdown.clone(),
        };
        self.tasks.spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lease_block(
        &self,
        request: Request<wire::LeaseBlockRequest>,
    ) -> Result<Response<wire::LeaseBlockResponse>, Status> {
        let peer = self.host(&request).await?;
        let block = self.claims.lease_block(peer.id).await?.to_string();
        Ok(Response::new(wire::LeaseBlockResponse { block }))
    }

    async fn return_block(
        &self,
        request: Request<wire::ReturnBlockRequest>,
    ) -> Result<Response<wire::ReturnBlockResponse>, Status> {
        let peer = self.host(&request).await?;
        let block = request.into_inner().block;
        let block = block.parse().map_err(|_unreadable| {
            Status::invalid_argument(format!("{block:?} is no block; name one as 100.64.0.64/26"))
        })?;
        self.claims.return_block(peer.id, block).await?;
        Ok(Response::new(wire::ReturnBlockResponse {}))
    }

    async fn workspace(
        &self,
        request: Request<wire::WorkspaceRequest>,
    ) -> Result<Response<wire::WorkspaceResponse>, Status> {
        self.host(&request).await?;
        let id = self.claims.workspace(&request.into_inner().name).await?;
        Ok(Response::new(wire::WorkspaceResponse { id }))
    }

    async fn put_container(
        &self,
        request: Request<wire::PutContainerRequest>,
    ) -> Result<Response<wire::PutContainerResponse>, Status> {
        let peer = self.host(&request).await?;
        let container = request.into_inner().container.unwrap_or_default();
        let container = convert::read_container(&container)?;
        self.claims.put_container(peer.id, container).await?;
        Ok(Response::new(wire::PutContainerResponse {}))
    }

    async fn delete_container(
        &self,
        request: Request<wire::DeleteContainerRequest>,
    ) -> Result<Response<wire::DeleteContainerResponse>, Status> {
        let peer = self.host(&request).await?;
        let id = request.into_inner().id;
        let existed = self.claims.delete_container(peer.id, &id).await?;
        Ok(Response::new(wire::DeleteContainerResponse { existed }))
    }

    async fn start_tunnel(
        &self,
        request: Request<wire::StartTunnelRequest>,
    ) -> Result<Response<wire::StartTunnelResponse>, Status> {
        let peer = self.host(&request).await?;
        // In a task of its own: a host that goes away half-way leaves nothing half-made.
        let (this, request) = (self.clone(), request.into_inner());
        let started = self.tasks.spawn(async move { this.start(peer.id, request).await }).await;
        let tunnel = started.map_err(|_panicked| stopping())??;
        Ok(Response::new(wire::StartTunnelResponse { tunnel: Some(convert::tunnel(&tunnel)) }))
    }

    async fn join_cluster(
        &self,
        request: Request<wire::JoinClusterRequest>,
    ) -> Result<Response<wire::JoinClusterResponse>, Status> {
        let peer = self.host(&request).await?;
        let cluster = self.join_members(peer.id, request.into_inner()).await?;
        Ok(Response::new(wire::JoinClusterResponse { cluster: Some(convert::cluster(&cluster)) }))
    }

    async fn end_member(
        &self,
        request: Request<wire::EndMemberRequest>,
    ) -> Result<Response<wire::EndMemberResponse>, Status> {
        let peer = self.host(&request).await?;
        self.end_of_member(peer.id, &request.into_inner()).await?;
        Ok(Response::new(wire::EndMemberResponse {}))
    }

    async fn take_share(
        &self,
        request: Request<wire::TakeShareRequest>,
    ) -> Result<Response<wire::TakeShareResponse>, Status> {
        let peer = self.host(&request).await?;
        let launch = self.take(peer.id, request.get_ref()).await?;
        Ok(Response::new(wire::TakeShareResponse { launch }))
    }

    async fn refuse_share(
        &self,
        request: Request<wire::RefuseShareRequest>,
    ) -> Result<Response<wire::RefuseShareResponse>, Status> {
        let peer = self.host(&request).await?;
        let wire::RefuseShareRequest { cluster, why } = request.into_inner();
        self.claims.refuse_share(peer.id, &cluster, &why).await?;
        Ok(Response::new(wire::RefuseShareResponse {}))
    }

    async fn proxy_traffic(
        &self,
        request: Request<wire::ProxyTrafficRequest>,
    ) -> Result<Response<wire::ProxyTrafficResponse>, Status> {
        let peer = self.host(&request).await?;
        let Some(count) = self.traffic.get().cloned() else {
            return Err(Status::unavailable("the gateway has just started; ask again in a moment"));
        };
        let counted = tokio::task::spawn_blocking(move || count()).await;
        let counted = counted.map_err(|_panicked| stopping())?;
        let proxies = self.mirror.read(|state| state.concerning(peer.id)).proxies;
        let told = proxies.values().flat_map(|proxy| &proxy.record.addresses);
        let addresses =
            told.filter_map(|one| Some(convert::traffic(one.ip, *counted.get(&one.ip)?)));
        Ok(Response::new(wire::ProxyTrafficResponse { addresses: addresses.collect() }))
    }

    async fn stop_tunnel(
        &self,
        request: Request<wire::StopTunnelRequest>,
    ) -> Result<Response<wire::StopTunnelResponse>, Status> {
        let peer = self.host(&request).await?;
        let (this, request) = (self.clone(), request.into_inner());
        let stopped = self.tasks.spawn(async move { this.stop(peer.id, request).await }).await;
        let existed = stopped.map_err(|_panicked| stopping())??;
        Ok(Response::new(wire::StopTunnelResponse { existed }))
    }
}

impl<R> RegionService<R> {
    /// Who guesses learns nothing and fills no log; who has a token joins beside it.
    fn unwelcome(&self, address: IpAddr, error: ClaimError) -> Status {
        self.guesses.retain_recent();
        let guessed = matches!(error, ClaimError::Token(_));
        if guessed && self.guesses.check_key(&address).is_err() {
            return Status::resource_exhausted(format!(
                "more than {GUESSES} attempts to join came from this network in vain within a minute; wait, then try again"
            ));
        }
        tracing::warn!(%address, %error, "a machine may not join");
        error.into()
    }
}

/// What one person is likely to have all of.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

fn internal(error: IdentityError) -> Status {
    Status::internal(causes(&error))
}

fn stopping() -> Status {
    Status::unavailable("the gateway stops; another one, or this one again, will serve the host")
}
