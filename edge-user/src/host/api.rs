//! The API that containers see: the networking part of Modal's own, over plain HTTP/2.
//!
//! The unmodified `modal` package of PyPI speaks it. A container may start and stop its own
//! tunnels, ask who is in its cluster and which proxies its workspace has, and nothing else; what
//! is not here is answered UNIMPLEMENTED.

mod connection;
mod proxies;
#[cfg(test)]
mod tests;

use std::{future::Future, net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use self::connection::Peer;
use super::callers::Callers;
use crate::{
    region::{
        bounds::Asked,
        cluster::ClusterRecord,
        gate::{Gate, TakenOver},
        member::CallError,
        ports::PortError,
        proxy::Proxy,
        steering::Steering,
        tunnel::{Container, TunnelOptions},
        tunnels::{Owner, StartError, Tunnels},
    },
    wire::modal::{
        ClientHelloResponse, ClusterGetRequest, ClusterGetResponse, ClusterStats, ProxyGetRequest,
        ProxyGetResponse, ProxyListResponse, TaskClusterHelloRequest, TaskClusterHelloResponse,
        TunnelStartRequest, TunnelStartResponse, TunnelStopRequest, TunnelStopResponse, TunnelType,
        modal_client_server::{ModalClient, ModalClientServer},
    },
};

/// Where a container finds the API (TCP port 80) and DNS (port 53).
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// Connections of one container at a time; one more is closed at once.
const CONNECTIONS_EACH: usize = 64;
/// Connections of all containers.
const CONNECTIONS: usize = 1024;
/// Calls of one connection at a time; more wait.
const CALLS: u32 = 32;
/// Bytes of a request. The largest that is served has a dozen.
const MESSAGE: usize = 4096;
/// Bytes of a request's metadata.
const METADATA: u32 = 16 * 1024;
/// Bytes of an idempotency key, which is kept with the tunnel.
const KEY: usize = 128;
/// A peer that answers no ping for this long, after as long in silence, has gone: what its
/// connection started may then be taken over.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long calls that are under way may take after the daemon was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why the API stopped.
#[derive(Debug, thiserror::Error)]
#[error("the API for containers stopped: {0}; restart the daemon")]
pub struct ApiError(#[from] tonic::transport::Error);

/// Serves the API to the containers of this host until `shutdown`, then lets calls that are
/// under way finish.
///
/// # Errors
/// [`ApiError`] if the server fails. Connections fail one by one and never end it.
pub async fn serve<C: Callers, S: Steering>(
    listener: TcpListener,
    callers: Arc<C>,
    tunnels: Arc<Tunnels<S>>,
    gate: Gate,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ApiError> {
    let service = ModalClientServer::new(Api { callers, tunnels, gate });
    let stopping = CancellationToken::new();
    let told = async {
        shutdown.await;
        stopping.cancel();
    };
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(METADATA)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service.max_decoding_message_size(MESSAGE))
        .serve_with_incoming_shutdown(
            connection::incoming(listener, CONNECTIONS, CONNECTIONS_EACH),
            told,
        );
    tokio::select! {
        served = server => Ok(served?),
        () = async { stopping.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("API calls were still under way when the daemon stopped");
            Ok(())
        }
    }
}

/// What a program in the container finds in its environment, so that the `modal` package
/// works there.
pub fn environment(container: &Container) -> Vec<(String, String)> {
    [
        ("MODAL_SERVER_URL", format!("http://{SERVICE_ADDRESS}")),
        // Makes it a container's client: no credentials, no configuration file.
        ("MODAL_IS_REMOTE", "1".to_owned()),
        ("MODAL_TASK_ID", task(&container.id)),
        // Read without a default when a cluster forms; it picks NCCL's number of sockets.
        ("MODAL_CLOUD_PROVIDER", "CLOUD_PROVIDER_UNSPECIFIED".to_owned()),
        // With `HTTP_PROXY` in the environment it would ask the proxy for the API.
        ("MODAL_DISABLE_API_PROXY", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What Modal calls a container.
fn task(container: &str) -> String {
    format!("ta-{}", container.strip_prefix("co-").unwrap_or(container))
}

struct Api<C, S> {
    callers: Arc<C>,
    tunnels: Arc<Tunnels<S>>,
    gate: Gate,
}

#[tonic::async_trait]
impl<C: Callers, S: Steering> ModalClient for Api<C, S> {
    async fn client_hello(
        &self,
        request: Request<()>,
    ) -> Result<Response<ClientHelloResponse>, Status> {
        self.caller(&request)?;
        Ok(Response::new(ClientHelloResponse::default()))
    }

    async fn tunnel_start(
        &self,
        request: Request<TunnelStartRequest>,
    ) -> Result<Response<TunnelStartResponse>, Status> {
        let _pass = self.gate.pass().await.map_err(taken_over)?;
        let (container, peer) = self.caller(&request)?;
        let key = text(&request, "x-idempotency-key");
        if key.is_some_and(|key| key.len() > KEY) {
            return Err(Status::invalid_argument(format!(
                "x-idempotency-key: it is too long; use at most {KEY} bytes"
            )));
        }
        let retry = text(&request, "x-retry-attempt").unwrap_or_default();
        let span = tracing::debug_span!("api-tunnel-start", container = container.id, retry);
        let wanted = request.get_ref();
        let (port, unencrypted) = (wanted.port, wanted.unencrypted);
        let h2 = wanted.tunnel_type() == TunnelType::H2;
        let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
        let asked = wanted.options.as_ref().map(Asked::try_from).transpose();
        let asked = asked.map_err(|error| invalid(&error))?.unwrap_or_default();
        let held =
            self.tunnels.defaults().for_container(&asked).map_err(|error| invalid(&error))?;
        let options = TunnelOptions { unencrypted, h2, ..held };
        let owner = Owner::Connection(peer.alive);
        let tunnel = self
            .tunnels
            .start(&container, port, options, owner, key)
            .instrument(span)
            .await
            .map_err(|error| status(&error))?;
        let raw = tunnel.raw.clone();
        Ok(Response::new(TunnelStartResponse {
            host: tunnel.host.clone(),
            port: tunnel.tls_port.into(),
            unencrypted_port: raw.as_ref().map(|raw| raw.port.into()),
            unencrypted_host: raw.map(|raw| raw.host),
        }))
    }

    async fn tunnel_stop(
        &self,
        request: Request<TunnelStopRequest>,
    ) -> Result<Response<TunnelStopResponse>, Status> {
        let _pass = self.gate.pass().await.map_err(taken_over)?;
        let (container, _) = self.caller(&request)?;
        let exists = self.tunnels.stop(&container, request.get_ref().port).await;
        Ok(Response::new(TunnelStopResponse { exists }))
    }

    async fn task_cluster_hello(
        &self,
        request: Request<TaskClusterHelloRequest>,
    ) -> Result<Response<TaskClusterHelloResponse>, Status> {
        // Who asks is known by its address, not by what it says of itself.
        let (container, _) = self.caller(&request)?;
        let (cluster, rank) = self.cluster(&container)?;
        Ok(Response::new(TaskClusterHelloResponse {
            cluster_id: cluster.id.clone(),
            cluster_rank: u32::try_from(rank).unwrap_or(u32::MAX),
            container_ips: cluster.members.iter().map(|one| one.i6pn.to_string()).collect(),
            container_ipv4_ips: cluster.members.iter().map(|one| one.ipv4.to_string()).collect(),
            // Of NVLink between machines, which edge knows nothing of.
            imex_peer_ips: Vec::new(),
            fabric_ids: Vec::new(),
        }))
    }

    async fn cluster_get(
        &self,
        request: Request<ClusterGetRequest>,
    ) -> Result<Response<ClusterGetResponse>, Status> {
        let (container, _) = self.caller(&request)?;
        let (cluster, _) = self.cluster(&container)?;
        if cluster.id != request.get_ref().cluster_id {
            return Err(Status::not_found(
                "this container is of no cluster with this id; it may ask for its own only",
            ));
        }
        let cluster = ClusterStats {
            task_ids: cluster.members.iter().map(|one| task(&one.container)).collect(),
            cluster_id: cluster.id.clone(),
            ..ClusterStats::default()
        };
        Ok(Response::new(ClusterGetResponse { cluster: Some(cluster) }))
    }

    async fn proxy_get(
        &self,
        request: Request<ProxyGetRequest>,
    ) -> Result<Response<ProxyGetResponse>, Status> {
        let found = self.proxies(&request)?;
        let ProxyGetRequest { name, environment_name } = request.into_inner();
        let proxy = found.iter().find(|proxy| proxy.record.name == name).ok_or_else(|| {
            Status::not_found(format!(
                "the container's workspace has no proxy {name:?}; its operator makes one with `edge proxy create`"
            ))
        })?;
        let status = |address: &_| self.callers.status_of(proxy, address);
        let proxy = Some(proxies::told(proxy, &environment_name, status));
        Ok(Response::new(ProxyGetResponse { proxy }))
    }

    async fn proxy_list(
        &self,
        request: Request<()>,
    ) -> Result<Response<ProxyListResponse>, Status> {
        let found = self.proxies(&request)?;
        let told = |proxy: &Arc<Proxy>| {
            proxies::told(proxy, "", |address| self.callers.status_of(proxy, address))
        };
        let proxies = found.iter().map(told).collect();
        Ok(Response::new(ProxyListResponse { proxies }))
    }
}

impl<C: Callers, S> Api<C, S> {
    /// The proxies of the caller's workspace.
    fn proxies<T>(&self, request: &Request<T>) -> Result<Vec<Arc<Proxy>>, Status> {
        let (container, _) = self.caller(request)?;
        Ok(self.callers.proxies_of(&container.workspace))
    }

    /// The caller's cluster, and its rank.
    fn cluster(&self, container: &Container) -> Result<(Arc<ClusterRecord>, usize), Status> {
        self.callers.cluster(&container.id).ok_or_else(|| {
            Status::failed_precondition(
                "this container is of no cluster; start it with `edge run --cluster SIZE`",
            )
        })
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<(Arc<Container>, Peer), Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let container = self.callers.by_address(peer.address).ok_or_else(|| {
            tracing::warn!(source = %peer.address, "an API call from no container of this host");
            Status::permission_denied(format!(
                "{} is no container of this host; call from inside one",
                peer.address
            ))
        })?;
        Ok((container, peer))
    }
}

fn text<'r, T>(request: &'r Request<T>, name: &str) -> Option<&'r str> {
    request.metadata().get(name)?.to_str().ok()
}

/// The package calls again, over a connection to the other daemon.
fn taken_over(error: TakenOver) -> Status {
    Status::unavailable(error.to_string())
}

/// The package retries UNAVAILABLE, and turns the others into errors of its own.
fn status(error: &StartError) -> Status {
    let words = error.to_string();
    match error {
        StartError::InvalidPort(_)
        | StartError::H2Unencrypted
        | StartError::ProxyProtocolUnencrypted => Status::invalid_argument(words),
        StartError::AlreadyForwarded(_) => Status::already_exists(words),
        StartError::TooMany(_) | StartError::Port(PortError::Exhausted { .. }) => {
            Status::resource_exhausted(words)
        }
        StartError::ContainerEnded(_) => Status::permission_denied(words),
        StartError::Stopping => Status::unavailable(words),
        // As Modal says it.
        StartError::Region(CallError::Unavailable(_)) => {
            Status::unavailable("Relay server is unavailable")
        }
        StartError::Region(CallError::Refused { code: Code::ResourceExhausted, text }) => {
            Status::resource_exhausted(text)
        }
        // What is inside the daemon is not for the container.
        StartError::Port(PortError::Store(_))
        | StartError::Region(_)
        | StartError::Record(_)
        | StartError::Steering { .. } => Status::unavailable(
            "the port could not be made public; try again, and see the daemon's log for the reason",
        ),
    }
}
