//! Why a tunnel did not start, in the words that its owner reads.

use crate::region::{member::CallError, ports::PortError, store::StoreError};

/// Why a tunnel did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not 1–65535.
    #[error("Invalid port number {0}")]
    InvalidPort(u32),
    /// `h2` and `unencrypted` exclude each other.
    #[error("H2 can only be used with encrypted ports")]
    H2Unencrypted,
    /// `proxy_protocol` and `unencrypted` exclude each other: the kernel relays no bytes of its
    /// own, and it shows programs who the client is anyway.
    #[error(
        "the PROXY protocol goes with encrypted ports only; over raw TCP programs see the client's \
         own address: leave one of the two out"
    )]
    ProxyProtocolUnencrypted,
    /// The owner of the tunnel on this port still holds it.
    #[error("Port {0} is already forwarded")]
    AlreadyForwarded(u16),
    /// The container has all the tunnels that it may have.
    #[error("a container may have {0} tunnels at a time; stop one that is not needed")]
    TooMany(usize),
    /// The container ended, before the call or during it.
    #[error("container {0} has ended; start another one")]
    ContainerEnded(String),
    /// There is no raw port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The region's gateways said no, or none can be reached.
    #[error(transparent)]
    Region(#[from] CallError),
    /// It cannot be recorded.
    #[error(transparent)]
    Record(#[from] StoreError),
    /// The data path refused, and nothing is left of the attempt.
    #[error(
        "port {port} could not be made public: {source:#}; try again, and see the daemon's log \
         if it stays so"
    )]
    Steering {
        /// The container's port.
        port: u16,
        /// What the data path said.
        source: anyhow::Error,
    },
    /// The daemon is going down.
    #[error("the daemon is stopping; try again when it is back")]
    Stopping,
}
