//! The gateway's userspace half: names, TLS, and bytes copied for those whom the kernel does
//! not serve.
//!
//! In reading order: [`Gateway`] accepts; `tls` or `raw` finds the tunnel, dials its container
//! and hands both ends to `relay`, which moves bytes by two `flow`s. [`certificates`] says
//! what a client is shown, `tunnel_tls` keeps each tunnel's sessions apart, and `h2_guard`
//! each tenant's requests. `admission` keeps clients to the tunnel's bounds, and `denial` is why
//! one is not served. `apology` and `redirect` are for browsers.

mod accept;
mod admission;
mod apology;
pub mod authority;
pub mod authority_error;
mod buffered;
pub mod certificates;
mod client_hello;
mod closing;
mod denial;
mod flow;
pub mod fuzzing;
mod h2_frames;
mod h2_guard;
mod hpack;
pub mod metrics;
pub mod operator_files;
mod proxy_header;
mod raw;
mod redirect;
pub mod region_tunnels;
mod relay;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel_tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, field};

use self::{
    admission::Admission, certificates::Certificates, denial::Denial, metrics::Metrics,
    tunnel_tls::TunnelConfigs,
};
use crate::{
    places::Turnover,
    region::{
        bounds::Source,
        tunnel::{Dial, Directory},
    },
};

/// Bounds on what clients may take of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time for a ClientHello, for the rest of the handshake, and for a plain HTTP request.
    pub hello: Duration,
    /// Bytes of a ClientHello on the wire; a post-quantum one has about 1,800.
    pub hello_bytes: usize,
    /// How long a client whose container was not reached may take to show that it speaks HTTP.
    pub first_request: Duration,
    /// When a connection closed in one direction is given up for silence in the other. One
    /// open in both directions is never.
    pub half_closed_idle: Duration,
    /// Connections of all tunnels at a time. Each takes two open files; one more is reset.
    pub connections: usize,
    /// Clients that have not finished their handshake, or their plain HTTP request, at a time;
    /// half of them from one source. With one more the oldest is reset.
    pub handshakes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            hello_bytes: 64 * 1024,
            first_request: Duration::from_secs(2),
            half_closed_idle: Duration::from_secs(300),
            connections: 8192,
            handshakes: 2048,
        }
    }
}

/// Relays clients to containers. Shared by all its listeners.
pub struct Gateway<D, T> {
    directory: Arc<D>,
    dial: Arc<T>,
    configs: TunnelConfigs,
    metrics: Metrics,
    limits: Limits,
    handshakes: Turnover<Source>,
    admission: Admission,
    connections: TaskTracker,
    abort: CancellationToken,
}

/// What a listener's connections speak.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Tls,
    Raw,
    Redirect,
}

impl<D: Directory, T: Dial> Gateway<D, T> {
    /// A gateway that finds tunnels in `directory` and reaches containers by `dial`.
    pub fn new(
        directory: Arc<D>,
        dial: Arc<T>,
        certificates: Certificates,
        metrics: Metrics,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory,
            dial,
            configs: TunnelConfigs::new(Arc::new(certificates)),
            metrics,
            limits,
            handshakes: Turnover::new(limits.handshakes, limits.handshakes.div_ceil(2)),
            admission: Admission::new(),
            connections: TaskTracker::new(),
            abort: CancellationToken::new(),
        })
    }

    /// Terminates TLS on `listener` until `shutdown`. Connections then live on.
    pub async fn serve_tls(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        self.serve(Kind::Tls, listener, shutdown).await;
    }

    /// Relays raw TCP on `listener` until `shutdown`: the tunnel is the one whose public port
    /// was dialled. Connections then live on.
    pub async fn serve_raw(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        self.serve(Kind::Raw, listener, shutdown).await;
    }

    /// Sends plain HTTP clients on `listener` to https until `shutdown`.
    pub async fn serve_redirect(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) {
        self.serve(Kind::Redirect, listener, shutdown).await;
    }

    /// Waits until all connections have ended, for `grace` at most; resets those left. To be
    /// called when the listeners have stopped. Returns how many were reset.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.connections.close();
        if tokio::time::timeout(grace, self.connections.wait()).await.is_ok() {
            return 0;
        }
        let left = self.connections.len();
        self.abort.cancel();
        self.connections.wait().await;
        left
    }

    async fn serve(
        self: Arc<Self>,
        kind: Kind,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) {
        let local = listener.local_addr().ok().map(field::display);
        let span = tracing::info_span!("listener", ?kind, local);
        let take = |client: TcpStream, peer: SocketAddr| {
            let span =
                tracing::debug_span!(parent: None, "client", ?kind, %peer, tunnel = field::Empty);
            if self.connections.len() >= self.limits.connections {
                let denial = Denial::OpenFiles(self.limits.connections);
                self.metrics.denied(&denial);
                tracing::debug!(parent: &span, %denial, "reset");
                closing::reset(&client);
                return;
            }
            let gateway = self.clone();
            self.connections.spawn(gateway.client(kind, client, peer).instrument(span));
        };
        accept::accept(listener, shutdown, take).instrument(span).await;
    }

    async fn client(self: Arc<Self>, kind: Kind, client: TcpStream, peer: SocketAddr) {
        let end = match kind {
            // Boxed, so that none takes the room of the largest.
            Kind::Tls => Box::pin(tls::serve(&self, client, peer)).await,
            Kind::Raw => Box::pin(raw::serve(&self, client, peer)).await,
            Kind::Redirect => Box::pin(redirect::serve(&self, client, peer)).await,
        };
        tracing::debug!(parent: Span::current(), end, "connection over");
    }
}
