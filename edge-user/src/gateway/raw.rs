//! One client of a raw TCP port that the kernel does not steer: from the machine itself, from
//! inside the region, over IPv6, or because no program is attached.
//!
//! Nothing is read before the container is reached, so that protocols work whose server speaks
//! first, and nothing is ever guessed from the bytes.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tracing::Span;

use super::{
    Gateway,
    buffered::Buffered,
    closing,
    metrics::Way,
    relay::{End, Terms, relay},
};
use crate::region::tunnel::{Dial, Directory};

/// Serves `client`; returns how it ended, for the log.
pub(super) async fn serve<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    client: TcpStream,
    peer: SocketAddr,
) -> String {
    // One listener serves all ports: the local address keeps the one that was dialled.
    let port = match client.local_addr().and_then(|local| {
        closing::prepare(&client)?;
        Ok(local.port())
    }) {
        Ok(port) => port,
        Err(error) => return format!("gone before it was served: {error}"),
    };
    let tunnel = gateway.directory.by_raw_port(port);
    let Some(tunnel) = tunnel.filter(|tunnel| !tunnel.ended.is_cancelled()) else {
        closing::reset(&client);
        return format!("reset: no tunnel on port {port}");
    };
    Span::current().record("tunnel", tracing::field::display(&tunnel.id));
    let _admitted = match gateway.admission.admit(&tunnel, peer.ip(), Way::Userspace) {
        Ok(admitted) => admitted,
        Err(denial) => {
            gateway.metrics.denied_at(&tunnel, &denial);
            closing::reset(&client);
            return format!("reset: {denial}");
        }
    };
    tunnel.stats.connected();
    let dialled = tokio::select! {
        biased;
        () = tunnel.ended.cancelled() => Err(End::TunnelEnded),
        () = gateway.abort.cancelled() => Err(End::Aborted),
        dialled = gateway.dial.dial(tunnel.clone()) => Ok(dialled),
    };
    let container = match dialled {
        Ok(Ok(container)) => container,
        Ok(Err(error)) => {
            gateway.metrics.dial_failed(&tunnel, &error);
            closing::reset(&client);
            return format!("reset: the container was not reached: {}", error.label());
        }
        Err(end) => {
            closing::reset(&client);
            return end.to_string();
        }
    };
    if let Err(error) = closing::prepare(&container) {
        closing::reset(&client);
        return format!("the container's connection broke: {error}");
    }
    let terms = Terms {
        tunnel: &tunnel,
        way: Way::Userspace,
        metrics: gateway.metrics.path(Way::Userspace),
        guard: None,
        half_closed_idle: gateway.limits.half_closed_idle,
        idle: tunnel.options.bounds.idle,
        abort: &gateway.abort,
    };
    relay(Buffered::new(client), Buffered::new(container), terms).await.to_string()
}
