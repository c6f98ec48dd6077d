//! What the store keeps of a region of several machines, and under which keys.
//!
//! All keys are under [`PREFIX`], so that one watch sees them in their order, but for the claims
//! of address blocks, which the region of one machine has as well. A host's presence has the
//! lease of its session. What it holds, its containers, their names and its tunnels, has a second,
//! longer lease: while a host is away nobody sees them, and nobody else can take them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{
    proxy::Membership,
    store::{LeaseId, StoreError, Write},
    tunnel::{RawSocket, TunnelOptions},
};

/// What the keys of the records begin with.
pub const PREFIX: &str = "region/";

/// The region's settings.
pub const SETTINGS: &str = "region/settings";
/// The host id that is tried next, so that ids come back as late as possible.
pub const NEXT_HOST: &str = "region/next-host";

/// A machine that has joined.
pub fn host(id: u16) -> String {
    format!("region/host/{id}")
}

/// Its presence.
pub fn presence(id: u16) -> String {
    format!("region/presence/{id}")
}

/// The lease of what it holds.
pub fn hold(id: u16) -> String {
    format!("region/hold/{id}")
}

/// A container.
pub fn container(id: &str) -> String {
    format!("region/container/{id}")
}

/// The claim of a container's name.
pub fn name(workspace: &str, name: &str) -> String {
    format!("region/name/{workspace}/{name}")
}

/// A tunnel, by what it makes public.
pub fn tunnel(container: &str, port: u16) -> String {
    format!("region/tunnel/{container}/{port}")
}

/// The claim of a raw port.
pub fn raw_port(port: u16) -> String {
    format!("region/raw/{port}")
}

/// What the keys of clusters begin with.
pub const CLUSTERS: &str = "region/cluster/";

/// A cluster.
pub fn cluster(workspace: &str, name: &str) -> String {
    format!("{CLUSTERS}{workspace}/{name}")
}

/// What the machines with a share of a cluster are to start, by its id.
pub fn launch(cluster: &str) -> String {
    format!("region/launch/{cluster}")
}

/// A join token, by the hash of its secret.
pub fn token(hash: &str) -> String {
    format!("region/token/{hash}")
}

/// The claim of an address block.
pub fn block(block: Ipv4Net) -> String {
    format!("block/{block}")
}

/// A put of a record.
///
/// # Errors
/// [`StoreError::Value`] for a record that is no JSON.
pub fn put(
    key: String,
    record: &impl Serialize,
    lease: Option<LeaseId>,
) -> Result<Write, StoreError> {
    match serde_json::to_value(record) {
        Ok(value) => Ok(Write::Put { key, value, lease }),
        Err(source) => Err(StoreError::Value { key, source }),
    }
}

/// What a certificate lets a machine be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It runs containers.
    Host,
    /// It serves the public names and ports, and sees all of the region.
    Gateway,
}

impl Role {
    /// What people and metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Gateway => "gateway",
        }
    }
}

/// What all machines of a region have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegionSettings {
    /// Its name: a label.
    pub region: String,
    /// Its number, part of every fdaa address.
    pub number: u16,
    /// Tunnels' names end with it.
    pub domain: String,
    /// What address blocks are taken from.
    pub ipv4_pool: Ipv4Net,
    /// Bytes of an IP packet between containers.
    pub mtu: u32,
    /// What clients of raw ports dial.
    pub raw_host: String,
    /// First and last raw port.
    pub raw_ports: (u16, u16),
    /// Region keys of encapsulated packets: send the first, take any.
    pub keys: Vec<u64>,
    /// How packets go from host to host.
    #[serde(default)]
    pub carriage: Carriage,
}

/// How packets go from host to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Carriage {
    /// In Geneve, over any underlay that routes
    #[default]
    Geneve,
    /// As they are, over one link that all machines share, with IPv6 on it
    Direct,
}

impl fmt::Display for Carriage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Geneve => "geneve",
            Self::Direct => "direct",
        })
    }
}

/// A machine of the region. What it announced is of its last session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host's number, part of its containers' fdaa addresses.
    pub id: u16,
    /// What it may be.
    pub role: Role,
    /// SHA-256 of its public key, hexadecimal: a certificate with another key is of a former host.
    pub key: String,
    /// Its address blocks.
    pub blocks: Vec<Ipv4Net>,
    /// What it said of itself.
    pub about: About,
}

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// Of edge.
    pub version: String,
    /// Towards the underlay; others send to the first of a family.
    pub underlay: Vec<IpAddr>,
    /// The interfaces.
    pub uplinks: Vec<Uplink>,
    /// What a gateway answers on.
    pub public: Vec<IpAddr>,
    /// host:port where a gateway's control plane is found.
    #[serde(default)]
    pub control: Vec<String>,
    /// How it is spoken to by WireGuard, if it can be.
    #[serde(default)]
    pub wireguard: Option<WireGuard>,
    /// Members of gangs that it starts for other machines, at a time; 0 if it takes no part.
    #[serde(default)]
    pub runs_members: u16,
}

/// A machine's end of WireGuard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// Its public key, in base64.
    pub key: String,
    /// The UDP port that a gateway listens on, on all addresses of its underlay; 0 for a host,
    /// which is where its packets come from.
    pub port: u16,
    /// Bytes of the largest IP packet that it takes so; 0 from machines that do not say.
    #[serde(default)]
    pub mtu: u32,
}

impl About {
    /// What a gateway answers on, in whatever order it said so. Gateways with the same addresses
    /// stand in for each other.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.public.iter().copied().collect()
    }
}

/// An interface towards the underlay or the internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub interface: String,
    /// `xdp+tcx`, `tcx` or `userspace`.
    pub hook: String,
    /// Bytes of an IP packet.
    pub mtu: u32,
}

/// A host's session, as long as it keeps its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Tells this session from the host's others.
    pub session: u64,
    /// Its lease.
    pub lease: LeaseId,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// `co-` and 12 characters, unique for ever.
    pub id: String,
    /// Unique among those of its workspace.
    pub name: String,
    /// The tenant's name.
    pub workspace: String,
    /// The tenant's id.
    pub workspace_id: u32,
    /// Where it runs.
    pub host: u16,
    /// Of one of its host's blocks.
    pub ipv4: Ipv4Addr,
    /// Its private address (fdaa…).
    pub i6pn: Ipv6Addr,
    /// Whether it may talk to the others of its workspace that may.
    #[serde(default)]
    pub private: bool,
    /// What it is to its proxy, if it has one.
    #[serde(default)]
    pub proxy: Option<Membership>,
}

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRecord {
    /// `tu-` and 12 characters.
    pub id: String,
    /// Where it leads.
    pub container: String,
    /// The container's host.
    pub host: u16,
    /// The container's port.
    pub port: u16,
    /// What holds for it.
    pub options: TunnelOptions,
    /// Where clients find it.
    pub place: Allotted,
}

/// Where clients find a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotted {
    /// The TLS name.
    pub name: String,
    /// The gateways' TLS port.
    pub tls_port: u16,
    /// The raw socket, if it was asked for.
    #[serde(with = "raw")]
    pub raw: Option<RawSocket>,
}

mod raw {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::RawSocket;

    pub(super) fn serialize<S: Serializer>(
        raw: &Option<RawSocket>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        raw.as_ref().map(|raw| (&raw.host, raw.port, raw.gateway)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<RawSocket>, D::Error> {
        let raw = Option::<Written>::deserialize(from)?;
        Ok(raw.map(|raw| match raw {
            Written::Now(host, port, gateway) => RawSocket { host, port, gateway },
            Written::Before(host, port) => RawSocket { host, port, gateway: 0 },
        }))
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Now(String, u16, u16),
        /// By a version that knew one gateway only.
        Before(String, u16),
    }
}
