//! What the control plane asks of the data path when a tunnel begins and ends.

use std::{future::Future, sync::Arc};

use super::tunnel::Tunnel;

/// Makes raw TCP tunnels real. Implemented by the daemon over the kernel's tables.
pub trait Steering: Send + Sync + 'static {
    /// Writes the pair public (address, port) ↔ (container address, port) and reserves the
    /// port in the container's namespace. Called before the tunnel is told to anyone.
    fn open(&self, tunnel: Arc<Tunnel>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The same for a tunnel that outlived the last daemon: its connections and what was counted
    /// of them go on.
    fn resume(&self, tunnel: Arc<Tunnel>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Resets the container's connections on the tunnel's port, then removes the pair.
    /// Never fails for a container that is already gone.
    fn close(&self, tunnel: Arc<Tunnel>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Whether a program of the machine itself holds this public TCP port, so that no
    /// tunnel may take it.
    fn in_use(&self, port: u16) -> bool;
}
