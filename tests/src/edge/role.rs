//! What daemons there are.

/// What a machine is in its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `edge up`: the region of one machine.
    Alone,
    /// `edge gateway`.
    Gateway,
    /// `edge host`.
    Host,
}

impl Role {
    /// The command that starts it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Alone => "up",
            Self::Gateway => "gateway",
            Self::Host => "host",
        }
    }
}
