//! What a daemon is told to be.

use std::{net::SocketAddr, time::Duration};

use crate::{
    cli::{
        GatewayArgs, HostArgs, Name, UpArgs,
        region::{OthersArgs, Reply},
        values::{self, PortRange},
    },
    region::{
        etcd,
        roster::{Carriage, RegionSettings},
    },
};

/// What a daemon is told, by whichever command.
#[derive(Debug, Clone)]
pub struct Orders {
    /// What all daemons have. A host learns from its region what of it concerns all machines.
    pub(crate) args: UpArgs,
    /// What it is to its region.
    pub(crate) role: Role,
}

/// What a daemon is to its region.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// All of it: the region of one machine.
    Single,
    /// It holds the region's state and its public side.
    Gateway(Box<Gateway>),
    /// It runs containers.
    Host(Host),
}

/// What only gateways are told.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) region: Name,
    pub(crate) underlays: Vec<String>,
    pub(crate) control: SocketAddr,
    pub(crate) carriage: Carriage,
    pub(crate) region_key: bool,
    /// Where the region's state is, if it is not this machine's own.
    pub(crate) etcd: Option<(etcd::Place, etcd::Access)>,
    pub(crate) others: OthersArgs,
}

/// What only hosts are told.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) join: Option<String>,
    pub(crate) underlays: Vec<String>,
    pub(crate) reply: Reply,
    pub(crate) others: OthersArgs,
}

impl Role {
    /// What people and metrics call it.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Gateway(_) => "gateway",
            Self::Host(_) => "host",
        }
    }
}

impl Orders {
    /// The interfaces towards the region's other machines.
    pub(crate) fn underlays(&self) -> &[String] {
        match &self.role {
            Role::Single => &[],
            Role::Gateway(gateway) => &gateway.underlays,
            Role::Host(host) => &host.underlays,
        }
    }

    /// Members of gangs that it starts for other machines, at a time.
    pub(crate) fn runs_members(&self) -> u16 {
        let others = match &self.role {
            Role::Single => return 0,
            Role::Gateway(gateway) => gateway.others,
            Role::Host(host) => host.others,
        };
        others.runs_members.unwrap_or_default()
    }

    /// How long keys of WireGuard live.
    pub(crate) fn key_life(&self) -> Duration {
        match &self.role {
            Role::Single => Duration::MAX,
            Role::Gateway(gateway) => gateway.others.key_life,
            Role::Host(host) => host.others.key_life,
        }
    }

    /// What a host learns of its region.
    pub(crate) fn learn(&mut self, settings: &RegionSettings) {
        let (first, last) = settings.raw_ports;
        self.args.domain.clone_from(&settings.domain);
        self.args.ipv4_pool = settings.ipv4_pool;
        self.args.raw_ports = PortRange { first, last };
    }
}

impl From<UpArgs> for Orders {
    fn from(args: UpArgs) -> Self {
        Self { args, role: Role::Single }
    }
}

impl From<GatewayArgs> for Orders {
    fn from(args: GatewayArgs) -> Self {
        let GatewayArgs { up, region, underlay, control, carriage, region_key, store, others } =
            args;
        let (underlays, etcd) = (underlay.underlays, store.etcd());
        let gateway = Gateway { region, underlays, control, carriage, region_key, etcd, others };
        Self { args: up, role: Role::Gateway(Box::new(gateway)) }
    }
}

impl From<HostArgs> for Orders {
    fn from(args: HostArgs) -> Self {
        let HostArgs { join, underlay, reply, uplinks, datapath, others, bounds, operation } = args;
        // Of the public side a host has nothing; the rest is the region's to say.
        let args = UpArgs {
            domain: String::new(),
            cert: None,
            key: None,
            uplinks,
            public_addresses: Vec::new(),
            tls_port: None,
            http_port: None,
            raw_ports: PortRange { first: u16::MAX, last: u16::MAX },
            ipv4_pool: values::DEFAULT_POOL,
            datapath,
            proxy_addresses: Vec::new(),
            idle_half_closed: Duration::MAX,
            bounds,
            total_connections: None,
            unfinished_handshakes: None,
            handshake_deadline: Duration::MAX,
            operation,
        };
        Self { args, role: Role::Host(Host { join, underlays: underlay.underlays, reply, others }) }
    }
}
