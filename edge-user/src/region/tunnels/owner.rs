//! Who holds a tunnel, and whether they still do.

use std::sync::Weak;

/// Who started a tunnel. While the owner holds it nobody else may start one on its port;
/// afterwards the next call from the same container takes it over.
#[derive(Debug, Clone)]
pub enum Owner {
    /// The daemon, for ports given when the container began: held until the container ends.
    Daemon,
    /// An HTTP/2 connection, which keeps the other end of this alive: held until it closes.
    Connection(Weak<()>),
}

impl Owner {
    /// Whether the owner still holds what it started.
    pub fn holds(&self) -> bool {
        match self {
            Self::Daemon => true,
            Self::Connection(connection) => connection.strong_count() > 0,
        }
    }
}
