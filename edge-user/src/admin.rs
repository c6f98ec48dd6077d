//! The daemon's side of the commands: gRPC over a unix socket.

mod answers;
mod caller;
mod connection;
pub mod fuzzing;
mod gather;
mod life;
mod proxies;
mod region;
mod trace;

use std::{
    collections::HashSet, io, os::fd::OwnedFd, path::Path, pin::Pin, sync::Arc, time::Duration,
};

use futures::Stream;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use self::answers::{describe, describe_tunnel, place_in_clusters};
pub use self::{
    life::Lives,
    proxies::ProxyService,
    region::{GatewayPart, RegionPart},
};
use crate::{
    datapath::Datapath,
    host::containers::{Place, Request as ContainerRequest},
    region::{
        bounds::{Asked, Defaults},
        tunnel::TunnelOptions,
    },
    wire::admin::{
        AttachEvent, AttachRequest, CreateTokenRequest, CreateTokenResponse, DownEvent,
        DownRequest, EndMemberRequest, EndMemberResponse, ForgetHostRequest, ForgetHostResponse,
        GatherEvent, GatherRequest, ListContainersRequest, ListContainersResponse,
        ListHostsRequest, ListHostsResponse, ListTunnelsRequest, ListTunnelsResponse,
        StatusRequest, StatusResponse, TraceEvent, TraceRequest,
        admin_server::{Admin, AdminServer},
        proxies_server::ProxiesServer,
    },
};

/// For the last words of a daemon to reach `edge down`.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers the commands.
pub struct AdminService {
    /// Containers, tunnels, and how they end.
    pub lives: Lives,
    /// The daemon's part in its region.
    pub region: Arc<RegionPart>,
    /// What decides about packets.
    pub datapath: Arc<Datapath>,
    /// What the daemon took and why.
    pub status: StatusResponse,
    /// One task for each container.
    pub tasks: TaskTracker,
    /// Asks the daemon to end.
    pub down: mpsc::Sender<Leaver>,
}

/// Who asked the daemon to end for good, and waits to hear what was removed.
#[derive(Debug)]
pub struct Leaver(mpsc::Sender<Result<DownEvent, Status>>);

impl Leaver {
    /// Names something that is gone.
    pub async fn tell(&self, removed: impl Into<String>) {
        let event = DownEvent { removed: removed.into() };
        // Who does not wait, or does not read, does not care.
        tokio::time::timeout(FAREWELL, self.0.send(Ok(event))).await.ok();
    }

    /// Everything is gone. Gives the news a moment to leave the process.
    pub async fn done(self) {
        self.tell("").await;
        tokio::time::timeout(FAREWELL, self.0.closed()).await.ok();
    }
}

/// Serves the commands on a socket until the shutdown.
pub async fn serve(
    service: AdminService,
    proxies: ProxyService,
    listener: UnixListener,
) -> Result<(), tonic::transport::Error> {
    let shutdown = service.lives.shutdown.clone();
    let containers = service.lives.containers.clone();
    let incoming = connection::incoming(listener, containers.clone());
    let from_host = move |request| caller::from_host(&containers, request);
    tonic::transport::Server::builder()
        .add_service(ProxiesServer::with_interceptor(proxies, from_host.clone()))
        .add_service(AdminServer::with_interceptor(service, from_host))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
}

/// Makes the socket, for root and the members of a group only; or goes on with an earlier
/// daemon's, which gets the same mode.
pub fn bind(
    path: &Path,
    group: Option<&str>,
    inherited: Option<OwnedFd>,
) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;

    use anyhow::Context as _;

    if inherited.is_none()
        && let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("{}: cannot be replaced", path.display()));
    }
    let group = match group {
        Some(name) => Some(
            nix::unistd::Group::from_name(name)
                .context("the group database cannot be read")?
                .with_context(|| format!("group {name}: there is none; make it with groupadd"))?,
        ),
        None => None,
    };
    let listener = match inherited {
        Some(open) => UnixListener::from_std(open.into()),
        None => UnixListener::bind(path),
    };
    let listener =
        listener.with_context(|| format!("{}: the socket cannot be made", path.display()))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    let owner = group.map_or(nix::unistd::Gid::from_raw(0), |group| group.gid);
    nix::unistd::chown(path, None, Some(owner))?;
    Ok(listener)
}

#[tonic::async_trait]
impl Admin for AdminService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachEvent, Status>> + Send>>;

    type TraceStream = ReceiverStream<Result<TraceEvent, Status>>;

    type GatherStream = ReceiverStream<Result<GatherEvent, Status>>;

    type DownStream = ReceiverStream<Result<DownEvent, Status>>;

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut request = request.into_inner();
        let ports = ports(&request, self.lives.tunnels.defaults())?;
        let (events, stream) = mpsc::channel(16);
        let lives = self.lives.clone();
        // A task of its own: a caller that goes away half-way leaves nothing behind.
        if let Some(resume) = request.resume.take() {
            let span = tracing::info_span!("container", id = resume.container);
            self.tasks.spawn(lives.resume(resume, ports, events).instrument(span));
        } else {
            let wanted = container_request(request)?;
            let span = tracing::info_span!("container", name = wanted.name);
            self.tasks.spawn(lives.attach(wanted, ports, events).instrument(span));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn gather(
        &self,
        request: Request<GatherRequest>,
    ) -> Result<Response<Self::GatherStream>, Status> {
        if request.get_ref().launch.is_some() && !caller::is_root(&request) {
            return Err(Status::permission_denied(
                "spread: only root may have other machines start programs; use sudo",
            ));
        }
        let (events, stream) = mpsc::channel(2);
        let gang = gather::Gang::of(self.lives.clone(), request.into_inner())?;
        self.tasks.spawn(gang.gather(events));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn end_member(
        &self,
        request: Request<EndMemberRequest>,
    ) -> Result<Response<EndMemberResponse>, Status> {
        gather::end_member(&self.lives, request.into_inner()).await?;
        Ok(Response::new(EndMemberResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let host = self.lives.containers.region().host();
        let list = self.lives.containers.list();
        let mut containers: Vec<_> =
            list.iter().map(|one| describe(one, host, self.lives.containers.proxies())).collect();
        if request.into_inner().region {
            containers.extend(self.region.other_containers());
        }
        place_in_clusters(&mut containers, &self.lives.clusters.known().borrow());
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn list_tunnels(
        &self,
        request: Request<ListTunnelsRequest>,
    ) -> Result<Response<ListTunnelsResponse>, Status> {
        let list = self.lives.tunnels.list();
        let mut tunnels: Vec<_> =
            list.iter().map(|tunnel| describe_tunnel(tunnel, &self.lives.steering)).collect();
        if request.into_inner().region {
            tunnels.extend(self.region.other_tunnels(&self.lives.steering));
        }
        Ok(Response::new(ListTunnelsResponse { tunnels }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.status.clone()))
    }

    async fn list_hosts(
        &self,
        _request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let hosts = self.region.hosts(self.lives.containers.list().len());
        Ok(Response::new(ListHostsResponse { hosts }))
    }

    async fn forget_host(
        &self,
        request: Request<ForgetHostRequest>,
    ) -> Result<Response<ForgetHostResponse>, Status> {
        self.region.forget(request.into_inner().id).await?;
        Ok(Response::new(ForgetHostResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let token = self.region.token(request.into_inner()).await?;
        Ok(Response::new(CreateTokenResponse { token }))
    }

    async fn trace(
        &self,
        request: Request<TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        let known = trace::Known::new(self.lives.containers.clone(), self.region.clone());
        let begun =
            trace::begin(&request.into_inner(), &self.lives, &self.datapath, &known).await?;
        let (events, stream) = mpsc::channel(16);
        self.tasks.spawn(trace::tell(begun, known, events, self.lives.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn down(
        &self,
        _request: Request<DownRequest>,
    ) -> Result<Response<Self::DownStream>, Status> {
        let (events, stream) = mpsc::channel(16);
        let asked = self.down.send(Leaver(events)).await;
        asked.map_err(|_ends| Status::unavailable("daemon: it is about to end; try again"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn container_request(request: AttachRequest) -> Result<ContainerRequest, Status> {
    let place = match (request.pid, request.netns.as_str()) {
        (0, "") => {
            return Err(Status::invalid_argument(
                "attach: neither a process nor a namespace is named; name one",
            ));
        }
        (0, path) => Place::Path(path.into()),
        (pid, "") => Place::Process(pid),
        _ => {
            return Err(Status::invalid_argument(
                "attach: both a process and a namespace are named; name one",
            ));
        }
    };
    let workspace = if request.workspace.is_empty() { "main".into() } else { request.workspace };
    Ok(ContainerRequest {
        name: request.name,
        workspace,
        place,
        egress: !request.no_egress,
        private: request.i6pn,
        proxy: Some(request.proxy).filter(|name| !name.is_empty()),
    })
}

fn ports(
    request: &AttachRequest,
    defaults: &Defaults,
) -> Result<Vec<(u16, TunnelOptions)>, Status> {
    let asked = request.options.as_ref().map(Asked::try_from).transpose();
    let asked = asked.map_err(|error| Status::invalid_argument(format!("tunnel: {error}")))?;
    let held = defaults.for_operator(&asked.unwrap_or_default());
    let plain = TunnelOptions { native_ipv6: request.native_ipv6, ..held };
    let lists = [
        (&request.encrypted_ports, plain.clone()),
        (&request.h2_ports, TunnelOptions { h2: true, ..plain.clone() }),
        (&request.unencrypted_ports, TunnelOptions { unencrypted: true, ..plain }),
    ];
    let mut seen = HashSet::new();
    let mut ports = Vec::new();
    for (list, options) in lists {
        for number in list {
            let port = u16::try_from(*number).ok().filter(|port| *port != 0).ok_or_else(|| {
                Status::invalid_argument(format!("port {number}: not a port; use 1 to 65535"))
            })?;
            if !seen.insert(port) {
                return Err(Status::invalid_argument(format!(
                    "port {port}: given twice; a container port has one tunnel"
                )));
            }
            ports.push((port, options.clone()));
        }
    }
    Ok(ports)
}
