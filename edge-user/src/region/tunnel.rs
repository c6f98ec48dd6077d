//! A tunnel: one (container, port) made public, and what is known of it while it lives.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{allow, bounds::Bounds};

/// A container as the region knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `co-` and 12 characters, unique for ever.
    pub id: String,
    /// What its owner calls it; unique among the living of its workspace.
    pub name: String,
    /// The tenant it belongs to.
    pub workspace: String,
    /// Its address of the region's IPv4 range.
    pub ipv4: Ipv4Addr,
    /// Its private IPv6 address (fdaa…).
    pub i6pn: Ipv6Addr,
}

/// What a client dials to reach a raw TCP tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSocket {
    /// Name or address as it is printed; `localhost` in the local region.
    pub host: String,
    /// The public TCP port.
    pub port: u16,
    /// The number of the gateway whose address that is, which its replies go by; 0 where the
    /// machine is alone.
    pub gateway: u16,
}

/// What holds for a tunnel: what its owner asked for, joined with the daemon's defaults. The
/// default is a plain TLS tunnel for everybody, without bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelOptions {
    /// Also a raw TCP port.
    pub unencrypted: bool,
    /// Offer `h2` by ALPN; the container then speaks HTTP/2 with prior knowledge.
    pub h2: bool,
    /// Send IPv6 clients of the raw port through the kernel to the container's fdaa address.
    pub native_ipv6: bool,
    /// Tell the program each client's address by PROXY protocol version 2, over TLS.
    pub proxy_protocol: bool,
    /// How much the tunnel's clients may use of it.
    pub bounds: Bounds,
    /// Who may connect; empty is everybody.
    pub allow: Arc<[IpNet]>,
}

impl TunnelOptions {
    /// Whether a client may connect.
    pub fn permits(&self, client: IpAddr) -> bool {
        allow::permits(&self.allow, client)
    }
}

/// One (container, port) made public.
#[derive(Debug)]
pub struct Tunnel {
    /// `tu-` and 12 characters.
    pub id: String,
    /// Where it leads.
    pub container: Arc<Container>,
    /// The container's port.
    pub port: u16,
    /// The TLS name, lower case, without a final dot.
    pub host: String,
    /// The gateway's TLS port.
    pub tls_port: u16,
    /// The raw TCP socket, if it was asked for.
    pub raw: Option<RawSocket>,
    /// What its owner asked for.
    pub options: TunnelOptions,
    /// What userspace relayed for it.
    pub stats: Arc<TunnelStats>,
    /// Cancelled when the tunnel ends: every relayed connection is then reset.
    pub ended: CancellationToken,
}

/// Counters of the connections that userspace relays.
#[derive(Debug, Default)]
pub struct TunnelStats {
    /// Connections accepted so far.
    pub connections: AtomicU64,
    /// Bytes from clients to the container.
    pub bytes_in: AtomicU64,
    /// Bytes from the container to clients.
    pub bytes_out: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl TunnelStats {
    /// Remembers why the last connection failed, as a sentence for people.
    pub fn failed(&self, why: impl Into<String>) {
        if let Ok(mut last) = self.last_error.lock() {
            *last = Some(why.into());
        }
    }

    /// Why the last failed connection failed.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().ok().and_then(|last| last.clone())
    }

    /// Counts one more connection.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Finds the tunnel that a client means.
pub trait Directory: Send + Sync + 'static {
    /// By TLS name, any case.
    fn by_name(&self, name: &str) -> Option<Arc<Tunnel>>;
    /// By the raw port that was dialled on a public or loopback address.
    fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>>;
}

impl<D: Directory + ?Sized> Directory for Arc<D> {
    fn by_name(&self, name: &str) -> Option<Arc<Tunnel>> {
        (**self).by_name(name)
    }

    fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>> {
        (**self).by_raw_port(port)
    }
}

/// Why the container could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens on the port.
    #[error(
        "nothing listens on port {0} in the container; start the program, or forward the port it uses"
    )]
    NotListening(u16),
    /// A program listens, but only on the container's loopback.
    #[error("the program on port {0} listens on {1} only; make it bind 0.0.0.0")]
    LoopbackOnly(u16, IpAddr),
    /// A container of another host refused, whose namespace cannot be looked into from here.
    #[error(
        "the container on host {1} refused a connection on port {0}: nothing listens there, or on the \
         container's loopback only; start the program and make it bind 0.0.0.0"
    )]
    RefusedAway(u16, u16),
    /// The container did not answer in time.
    #[error("the container did not answer on port {0} within {1:?}")]
    Timeout(u16, std::time::Duration),
    /// Anything else.
    #[error("port {0} of the container cannot be reached: {1}")]
    Io(u16, #[source] std::io::Error),
}

impl DialError {
    /// All metric labels.
    pub const LABELS: [&str; 5] =
        ["not_listening", "loopback_only", "refused_away", "timeout", "io"];

    /// The metric label of this outcome.
    pub fn label(&self) -> &'static str {
        Self::LABELS[match self {
            Self::NotListening(_) => 0,
            Self::LoopbackOnly(..) => 1,
            Self::RefusedAway(..) => 2,
            Self::Timeout(..) => 3,
            Self::Io(..) => 4,
        }]
    }
}

/// Opens connections into containers, from a socket of the service namespace.
pub trait Dial: Send + Sync + 'static {
    /// Connects to the tunnel's port.
    fn dial(
        &self,
        tunnel: Arc<Tunnel>,
    ) -> impl Future<Output = Result<tokio::net::TcpStream, DialError>> + Send;
}
