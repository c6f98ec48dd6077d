//! The public side of a machine: what listens, and the relay behind it.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;

use super::{
    ground,
    handover::Holdings,
    listeners::{self, Listeners},
    machine::Machine,
    open_files,
    role::{Orders, Role},
    serve::Found,
};
use crate::{
    cli::UpArgs,
    gateway::{
        self, Gateway, Limits,
        authority::{self, Authority},
        certificates::Certificates,
    },
    host::{netns::NetNs, service::Service, uplink::Uplink},
};

/// The relay and what it dials from.
pub(super) type Relay = Gateway<Found, Service>;

/// What listens for clients; hosts have none of it.
pub(super) struct PublicSide {
    pub(super) listeners: Listeners,
    /// The public ports that userspace serves.
    pub(super) own: Vec<SocketAddr>,
}

impl PublicSide {
    /// Opens what an earlier daemon did not leave, and lets the kernel half know of it.
    pub(super) fn open(
        orders: &Orders,
        machine: &Machine,
        uplinks: &[Uplink],
        inherited: &mut Holdings,
        holdings: &mut Holdings,
    ) -> anyhow::Result<Option<Self>> {
        if matches!(orders.role, Role::Host(_)) {
            return Ok(None);
        }
        let public: Vec<IpAddr> =
            listeners::addresses(uplinks.iter().flat_map(|uplink| uplink.addresses.clone()));
        let listeners = Listeners::open(&orders.args, &public, inherited)?;
        listeners.keep(holdings)?;
        let ports = [listeners.tls_port, listeners.http_port];
        let own = public.iter().flat_map(|ip| ports.map(|port| SocketAddr::new(*ip, port)));
        let own: Vec<_> = own.collect();
        ground::listen(machine, &own)?;
        let namespace = NetNs::current().context("the daemon's own network namespace")?;
        let raw = [Some(&listeners.raw_v4), listeners.raw_v6.as_ref()];
        machine.datapath.serve_raw_ports(namespace.as_fd(), raw)?;
        Ok(Some(Self { listeners, own }))
    }

    /// The relay, and the path of the authority's certificate: empty if the operator gave one.
    pub(super) fn gateway(
        &self,
        args: &UpArgs,
        state_dir: &Path,
        found: &Found,
        service: &Arc<Service>,
        registry: &prometheus::Registry,
        open_files: u64,
    ) -> anyhow::Result<(Arc<Relay>, String)> {
        let (certificates, ca) = certificates(args, state_dir)?;
        certificates.register(registry)?;
        let metrics = gateway::metrics::Metrics::new(registry)?;
        let (found, limits) = (Arc::new(found.clone()), limits(args, open_files));
        Ok((Gateway::new(found, service.clone(), certificates, metrics, limits), ca))
    }
}

fn limits(args: &UpArgs, open_files: u64) -> Limits {
    let room = usize::try_from(open_files::connections(open_files)).unwrap_or(usize::MAX);
    let connections = args.total_connections.map_or(room, |wanted| wanted.min(room)).max(1);
    // A quarter leaves the others to those who have finished. Each may hold a hello's 64 KiB.
    let handshakes = args.unfinished_handshakes.unwrap_or((connections / 4).min(4096)).max(2);
    Limits {
        hello: args.handshake_deadline,
        half_closed_idle: args.idle_half_closed,
        connections,
        handshakes,
        ..Limits::default()
    }
}

fn certificates(args: &UpArgs, state_dir: &Path) -> anyhow::Result<(Certificates, String)> {
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        return Ok((Certificates::from_files(cert, key, &args.domain)?, String::new()));
    }
    let dir = state_dir.join(authority::DIRECTORY);
    let ca = Authority::pair(&dir).certificate.display().to_string();
    Ok((Certificates::own(Authority::open_or_create(&dir, &args.domain)?), ca))
}
