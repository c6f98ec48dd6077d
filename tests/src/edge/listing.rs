//! What the listings of a daemon's commands hold, as `--json` prints them.

use std::net::IpAddr;

use serde::Deserialize;

/// A line of `edge containers --json`.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the names are the documentation: they are what users script on")]
pub struct Container {
    pub id: String,
    pub name: String,
    pub workspace: String,
    pub host: String,
    pub pid: Option<u32>,
    pub netns: String,
    pub ipv4: String,
    pub i6pn: String,
    pub proxy: Option<String>,
    #[serde(default)]
    pub proxy_ip: Option<String>,
    #[serde(default)]
    pub proxy_problem: Option<String>,
    pub egress: String,
    #[serde(default)]
    pub private: bool,
    pub cluster: Option<ClusterPlace>,
}

/// What a container is in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the documentation: they are what users script on")]
pub struct ClusterPlace {
    pub id: String,
    pub name: String,
    pub rank: u32,
    pub size: u32,
}

/// A line of `edge tunnels --json`.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the names are the documentation: they are what users script on")]
pub struct Tunnel {
    pub id: String,
    pub workspace: String,
    pub container: String,
    pub port: u16,
    pub url: String,
    pub tls: String,
    pub tcp: Option<String>,
    pub h2: bool,
    pub path: String,
    pub connections: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub last_error: Option<String>,
}

impl Tunnel {
    /// The public port of its raw socket; panics if it has none.
    #[track_caller]
    pub fn raw_port(&self) -> u16 {
        let port = self.tcp.as_ref().and_then(|tcp| tcp.rsplit_once(':')?.1.parse().ok());
        port.unwrap_or_else(|| panic!("no raw port: {self:?}"))
    }
}

/// A line of `edge hosts --json`.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the names are the documentation: they are what users script on")]
pub struct Host {
    pub id: u16,
    pub role: String,
    pub alive: bool,
    pub version: String,
    pub underlay: Vec<IpAddr>,
    pub hook: String,
    pub mtu: u32,
    pub lag_ms: Option<u64>,
    pub blocks: Vec<String>,
    pub containers: usize,
    pub runs_members: u16,
}
