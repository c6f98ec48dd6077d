//! What the daemon knows, in the words of the wire.

use std::collections::HashMap;

use tonic::{Code, Status};

use crate::{
    host::{
        containers::{AttachError, Attached, ClaimError, Place},
        steering::KernelSteering,
    },
    proxy::{board::Board, plan::Standing},
    region::{affiliation::AffiliationError, clusters::Known, tunnel::Tunnel, tunnels::StartError},
    wire::admin as wire,
};

pub(super) fn describe(attached: &Attached, host: Option<u16>, proxies: &Board) -> wire::Container {
    let container = &attached.container;
    let (pid, netns) = match &attached.place {
        Place::Process(pid) => (*pid, format!("/proc/{pid}/ns/net")),
        Place::Path(path) => (0, path.display().to_string()),
    };
    let standing = proxies.standing(&container.id);
    let egress = match (attached.egress, &attached.proxy) {
        (false, _) => "none",
        (true, Some(_)) => "proxy",
        (true, None) => "nat",
    };
    wire::Container {
        id: container.id.clone(),
        name: container.name.clone(),
        workspace: container.workspace.clone(),
        host: host.map_or_else(|| "local".to_owned(), |number| number.to_string()),
        pid,
        netns,
        ipv4: container.ipv4.to_string(),
        i6pn: container.i6pn.to_string(),
        proxy: attached.proxy.as_ref().map(|proxy| proxy.name.clone()).unwrap_or_default(),
        egress: egress.into(),
        private: attached.private,
        proxy_ip: standing.and_then(Standing::address).map(|ip| ip.to_string()),
        proxy_problem: standing.and_then(Standing::problem),
        cluster: None,
    }
}

/// Says of each container what it is in its cluster.
pub(super) fn place_in_clusters(containers: &mut [wire::Container], known: &Known) {
    let members = known.values().flat_map(|cluster| {
        let ranked = cluster.members.iter().enumerate();
        ranked.map(move |(rank, member)| (member.container.as_str(), (cluster, rank)))
    });
    let members: HashMap<_, _> = members.collect();
    for container in containers {
        container.cluster = members.get(container.id.as_str()).map(|(cluster, rank)| {
            let (id, name) = (cluster.id.clone(), cluster.name.clone());
            let rank = u32::try_from(*rank).unwrap_or_default();
            wire::ClusterPlace { id, name, rank, size: cluster.size.into() }
        });
    }
}

pub(super) fn describe_tunnel(tunnel: &Tunnel, steering: &KernelSteering) -> wire::Tunnel {
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
        options: Some((&tunnel.options).into()),
    }
}

pub(super) fn attach_status(error: &AttachError) -> Status {
    let code = match error {
        AttachError::NameTaken(..) | AttachError::NamespaceTaken(_) => Code::AlreadyExists,
        AttachError::OwnNamespace | AttachError::Region(AffiliationError::Workspace(_)) => {
            Code::InvalidArgument
        }
        AttachError::Region(AffiliationError::Region(error)) => error.code(),
        AttachError::NoNamespace(..) | AttachError::NoProxy(..) => Code::NotFound,
        AttachError::Address(_) => Code::ResourceExhausted,
        AttachError::Wiring(_) | AttachError::Record(_) => Code::Internal,
    };
    Status::new(code, format!("container: {}", text(error)))
}

pub(super) fn claim_status(error: &ClaimError) -> Status {
    let code = match error {
        ClaimError::Gone(_) => Code::NotFound,
        ClaimError::Owned(_) => Code::AlreadyExists,
        ClaimError::WrongToken(_) => Code::PermissionDenied,
    };
    Status::new(code, format!("container: {}", text(error)))
}

pub(super) fn start_status(error: &StartError) -> Status {
    let code = match error {
        StartError::InvalidPort(_)
        | StartError::H2Unencrypted
        | StartError::ProxyProtocolUnencrypted => Code::InvalidArgument,
        StartError::AlreadyForwarded(_) => Code::AlreadyExists,
        StartError::TooMany(_) | StartError::Port(_) => Code::ResourceExhausted,
        StartError::ContainerEnded(_) => Code::FailedPrecondition,
        StartError::Region(error) => error.code(),
        StartError::Record(_) | StartError::Steering { .. } => Code::Internal,
        StartError::Stopping => Code::Unavailable,
    };
    Status::new(code, format!("tunnel: {}", text(error)))
}

/// An error with all that caused it.
pub(super) fn text(error: &(dyn std::error::Error + 'static)) -> String {
    crate::error::causes(error)
}
