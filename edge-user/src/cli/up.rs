//! Options of `edge up`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net};

use super::{
    bounds::BoundsArgs,
    values::{self, Name, PortRange, Uplink},
};

/// Options of `edge up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Tunnels are named *.DOMAIN; under r1.localhost browsers find them without any DNS
    #[arg(long, env = "EDGE_DOMAIN", default_value = "r1.localhost",
          value_parser = values::domain, help_heading = "Names")]
    pub domain: String,
    /// Certificate chain for *.DOMAIN in PEM; without one edge is its own authority (`edge ca`)
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Names")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert in PEM
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Names")]
    pub key: Option<PathBuf>,

    /// Interface towards the internet, or auto: that of the default route (repeatable)
    /// [default: none; tunnels are served on loopback]
    #[arg(long = "uplink", value_name = "IFACE", help_heading = "Network")]
    pub uplinks: Vec<Uplink>,
    /// Address that clients dial where the machine itself does not have it, as behind 1:1 NAT
    /// (repeatable) [default: the uplinks' addresses]
    #[arg(long = "public-address", value_name = "IP", help_heading = "Network")]
    pub public_addresses: Vec<IpAddr>,
    /// TCP port of the TLS names [default: 443, else the next free of 8443…]
    #[arg(long, value_name = "PORT", value_parser = values::port(), help_heading = "Network")]
    pub tls_port: Option<u16>,
    /// TCP port that sends plain HTTP on to the TLS names [default: 80, else the next free of
    /// 8080…]
    #[arg(long, value_name = "PORT", value_parser = values::port(), help_heading = "Network")]
    pub http_port: Option<u16>,
    /// TCP ports that raw tunnels are given
    #[arg(
        long,
        value_name = "FIRST-LAST",
        default_value = "20000-29999",
        help_heading = "Network"
    )]
    pub raw_ports: PortRange,
    /// Containers' IPv4 addresses; must not be in use on any network the machine talks to
    #[arg(long, value_name = "CIDR", default_value = "100.64.0.0/10",
          value_parser = values::ipv4_pool, help_heading = "Network")]
    pub ipv4_pool: Ipv4Net,
    /// What carries raw TCP and packets between containers
    #[arg(long, value_enum, default_value_t, help_heading = "Network")]
    pub datapath: Datapath,
    /// End a relayed connection that one side has closed after this much silence
    #[arg(long, value_name = "DURATION", default_value = "10m",
          value_parser = humantime::parse_duration, help_heading = "Network")]
    pub idle_half_closed: Duration,

    /// Addresses of proxies, IPv4 or IPv6, that edge may put on the first uplink where the machine
    /// does not have them itself (repeatable)
    #[arg(long, value_name = "CIDR", requires = "uplinks", help_heading = "Network")]
    pub proxy_addresses: Vec<IpNet>,

    /// What holds for a tunnel whose owner says nothing; a container cannot go beyond it.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// Connections of all tunnels that userspace serves at a time; one more is reset [default: as
    /// many as the limit on open files leaves room for]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub total_connections: Option<usize>,
    /// Clients that have not finished their TLS handshake, at a time, half of them from one
    /// source; with one more the oldest is reset [default: a quarter of the connections, 4096
    /// at most]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub unfinished_handshakes: Option<usize>,
    /// Time for a client's first message, and again for the rest of its handshake
    #[arg(long, value_name = "DURATION", default_value = "10s",
          value_parser = humantime::parse_duration, help_heading = "Bounds")]
    pub handshake_deadline: Duration,

    /// How it runs.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// How a daemon runs.
#[derive(Debug, Clone, Args)]
pub struct OperationArgs {
    /// Keys, names and leases that outlive the daemon [default: /var/lib/edge/<INSTANCE>]
    #[arg(long, env = "EDGE_STATE_DIR", value_name = "DIR", help_heading = "Operation")]
    pub state_dir: Option<PathBuf>,
    /// Take over from the running daemon of this name without refusing a client; without one,
    /// just start
    #[arg(long, help_heading = "Operation")]
    pub replace: bool,
    /// How long relayed connections may go on after SIGTERM, or after a successor took over
    #[arg(long, value_name = "DURATION", default_value = "30s",
          value_parser = humantime::parse_duration, help_heading = "Operation")]
    pub drain: Duration,
    /// Where /metrics, /livez and /readyz answer
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464", help_heading = "Operation")]
    pub admin: SocketAddr,
    /// How long the owners of containers that outlived a daemon have to claim them from the next
    #[arg(long, value_name = "DURATION", default_value = "60s",
          value_parser = humantime::parse_duration, help_heading = "Operation")]
    pub lease: Duration,
    /// Log every single decision of the kernel half, for debugging; slow (with EDGE_LOG=debug)
    #[arg(long, help_heading = "Operation")]
    pub log_decisions: bool,
    /// Containers with --i6pn find each other as NAME.WORKSPACE.SUFFIX
    #[arg(long, value_name = "SUFFIX", default_value = "edge.internal",
          value_parser = values::domain, help_heading = "Names")]
    pub dns_suffix: String,
    /// Unix group whose members may give commands to the daemon [default: root only]
    #[arg(long, value_name = "NAME", help_heading = "Operation")]
    pub group: Option<String>,
}

/// What carries raw TCP and packets between containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Datapath {
    /// The fastest that each uplink's driver does well
    #[default]
    Auto,
    /// XDP on every uplink, or refuse to start
    Xdp,
    /// TCX only, as on veth and bonds
    Tcx,
    /// No program on the uplinks: slower, needs nothing of the kernel
    Userspace,
}

impl OperationArgs {
    /// The directory of what outlives the daemon.
    pub fn state_dir(&self, instance: &Name) -> PathBuf {
        match &self.state_dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from("/var/lib/edge").join(instance.as_str()),
        }
    }
}
