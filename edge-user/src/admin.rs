//! The daemon's side of the commands: gRPC over a unix socket.

mod caller;
pub mod fuzzing;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use futures::Stream;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;

use crate::{
    host::{
        api,
        containers::{AttachError, Attached, Containers, Place, Request as ContainerRequest},
        steering::KernelSteering,
    },
    region::{
        tunnel::{Tunnel, TunnelOptions},
        tunnels::{Owner, StartError, Tunnels},
    },
    wire::admin::{
        self as wire, AttachEvent, AttachRequest, ListContainersRequest, ListContainersResponse,
        ListTunnelsRequest, ListTunnelsResponse, StatusRequest, StatusResponse,
        admin_server::{Admin, AdminServer},
        attach_event::Event,
    },
};

/// Answers the commands.
pub struct AdminService {
    /// The host's containers.
    pub containers: Arc<Containers>,
    /// The region's tunnels.
    pub tunnels: Arc<Tunnels<KernelSteering>>,
    /// What the kernel carries for them.
    pub steering: Arc<KernelSteering>,
    /// What `edge up` took and why.
    pub status: StatusResponse,
    /// Where the daemon's keys and its store are.
    pub state_dir: PathBuf,
    /// One task for each container.
    pub tasks: TaskTracker,
    /// Ends them all.
    pub shutdown: CancellationToken,
}

/// Serves the commands on a socket until the shutdown.
pub async fn serve(
    service: AdminService,
    listener: UnixListener,
) -> Result<(), tonic::transport::Error> {
    let shutdown = service.shutdown.clone();
    let containers = service.containers.clone();
    let from_host = move |request| caller::from_host(&containers, request);
    tonic::transport::Server::builder()
        .add_service(AdminServer::with_interceptor(service, from_host))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await
}

/// Makes the socket, for root and the members of a group only.
pub fn bind(path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;

    use anyhow::Context as _;

    if let Err(error) = std::fs::remove_file(path)
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
    let listener = UnixListener::bind(path)
        .with_context(|| format!("{}: the socket cannot be made", path.display()))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if let Some(group) = group {
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    Ok(listener)
}

type Events = mpsc::Sender<Result<AttachEvent, Status>>;

#[tonic::async_trait]
impl Admin for AdminService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<AttachEvent, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let request = request.into_inner();
        let ports = ports(&request)?;
        let wanted = container_request(request)?;
        let (events, stream) = mpsc::channel(16);
        let life = Life {
            containers: self.containers.clone(),
            tunnels: self.tunnels.clone(),
            steering: self.steering.clone(),
            state_dir: self.state_dir.clone(),
            shutdown: self.shutdown.clone(),
        };
        // A task of its own: a caller that goes away half-way leaves nothing behind.
        let span = tracing::info_span!("container", name = wanted.name);
        self.tasks.spawn(life.live(wanted, ports, events).instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_containers(
        &self,
        _request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let containers = self.containers.list().iter().map(|one| describe(one)).collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn list_tunnels(
        &self,
        _request: Request<ListTunnelsRequest>,
    ) -> Result<Response<ListTunnelsResponse>, Status> {
        let list = self.tunnels.list();
        let tunnels = list.iter().map(|tunnel| describe_tunnel(tunnel, &self.steering)).collect();
        Ok(Response::new(ListTunnelsResponse { tunnels }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.status.clone()))
    }
}

/// One container, from the call that attaches it to the end of that call.
struct Life {
    containers: Arc<Containers>,
    tunnels: Arc<Tunnels<KernelSteering>>,
    steering: Arc<KernelSteering>,
    state_dir: PathBuf,
    shutdown: CancellationToken,
}

impl Life {
    async fn live(
        self,
        wanted: ContainerRequest,
        ports: Vec<(u16, TunnelOptions)>,
        events: Events,
    ) {
        let attached = match self.containers.attach(wanted).await {
            Ok(attached) => attached,
            Err(error) => {
                tracing::info!(error = %text(&error), "not attached");
                // A caller that is gone needs no answer.
                events.send(Err(attach_status(&error))).await.ok();
                return;
            }
        };
        let container = &attached.container;
        tracing::info!(id = container.id, name = container.name, "attached");
        match self.start(&attached, &ports, &events).await {
            Ok(()) => tokio::select! {
                () = events.closed() => {}
                () = self.shutdown.cancelled() => {}
            },
            Err(status) => {
                events.send(Err(status)).await.ok();
            }
        }
        self.tunnels.container_ended(container).await;
        self.containers.detach(&attached).await;
        tracing::info!(id = container.id, name = container.name, "ended");
    }

    async fn start(
        &self,
        attached: &Attached,
        ports: &[(u16, TunnelOptions)],
        events: &Events,
    ) -> Result<(), Status> {
        let mut ready = vec![Event::Attached(wire::Attached {
            container: Some(describe(attached)),
            environment: api::environment(&attached.container)
                .into_iter()
                .map(|(name, value)| wire::Variable { name, value })
                .collect(),
            resolv_conf: format!("nameserver {}\n", api::SERVICE_ADDRESS),
            hidden: self.state_dir.to_str().map(str::to_owned).into_iter().collect(),
        })];
        for (port, options) in ports {
            let tunnel = self
                .tunnels
                .start(&attached.container, (*port).into(), *options, Owner::Daemon, None)
                .await
                .map_err(|error| start_status(&error))?;
            ready.push(Event::Tunnel(describe_tunnel(&tunnel, &self.steering)));
        }
        for event in ready {
            // A caller that is gone is noticed right after.
            events.send(Ok(AttachEvent { event: Some(event) })).await.ok();
        }
        Ok(())
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
    Ok(ContainerRequest { name: request.name, workspace, place, egress: !request.no_egress })
}

fn ports(request: &AttachRequest) -> Result<Vec<(u16, TunnelOptions)>, Status> {
    let native_ipv6 = request.native_ipv6;
    let plain = TunnelOptions { native_ipv6, ..TunnelOptions::default() };
    let lists = [
        (&request.encrypted_ports, plain),
        (&request.h2_ports, TunnelOptions { h2: true, ..plain }),
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
            ports.push((port, options));
        }
    }
    Ok(ports)
}

fn describe(attached: &Attached) -> wire::Container {
    let container = &attached.container;
    let (pid, netns) = match &attached.place {
        Place::Process(pid) => (*pid, format!("/proc/{pid}/ns/net")),
        Place::Path(path) => (0, path.display().to_string()),
    };
    wire::Container {
        id: container.id.clone(),
        name: container.name.clone(),
        workspace: container.workspace.clone(),
        host: "local".into(),
        pid,
        netns,
        ipv4: container.ipv4.to_string(),
        i6pn: container.i6pn.to_string(),
        proxy: String::new(),
        egress: if attached.egress { "nat" } else { "none" }.into(),
    }
}

fn describe_tunnel(tunnel: &Tunnel, steering: &KernelSteering) -> wire::Tunnel {
    use std::sync::atomic::Ordering::Relaxed;

    let kernel = steering.traffic(tunnel);
    let port = if tunnel.tls_port == 443 { String::new() } else { format!(":{}", tunnel.tls_port) };
    wire::Tunnel {
        id: tunnel.id.clone(),
        workspace: tunnel.container.workspace.clone(),
        container: tunnel.container.name.clone(),
        port: tunnel.port.into(),
        url: format!("https://{}{port}", tunnel.host),
        tls: format!("{}:{}", tunnel.host, tunnel.tls_port),
        tcp: tunnel.raw.as_ref().map(|raw| format!("{}:{}", raw.host, raw.port)),
        h2: tunnel.options.h2,
        path: steering.path(tunnel).into(),
        connections: tunnel.stats.connections.load(Relaxed) + kernel.connections,
        bytes_in: tunnel.stats.bytes_in.load(Relaxed) + kernel.inbound.bytes,
        bytes_out: tunnel.stats.bytes_out.load(Relaxed) + kernel.outbound.bytes,
        last_error: tunnel.stats.last_error(),
    }
}

fn attach_status(error: &AttachError) -> Status {
    let code = match error {
        AttachError::NameTaken(..) | AttachError::NamespaceTaken(_) => Code::AlreadyExists,
        AttachError::OwnNamespace | AttachError::Workspace(_) => Code::InvalidArgument,
        AttachError::NoNamespace(..) => Code::NotFound,
        AttachError::Address(_) => Code::ResourceExhausted,
        AttachError::Wiring(_) => Code::Internal,
    };
    Status::new(code, format!("container: {}", text(error)))
}

fn start_status(error: &StartError) -> Status {
    let code = match error {
        StartError::InvalidPort(_) | StartError::H2Unencrypted => Code::InvalidArgument,
        StartError::AlreadyForwarded(_) => Code::AlreadyExists,
        StartError::TooMany(_) | StartError::Port(_) => Code::ResourceExhausted,
        StartError::ContainerEnded(_) => Code::FailedPrecondition,
        StartError::Steering { .. } => Code::Internal,
        StartError::Stopping => Code::Unavailable,
    };
    Status::new(code, format!("tunnel: {}", text(error)))
}

/// An error with all that caused it.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    crate::error::causes(error)
}
