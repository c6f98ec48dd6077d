//! Why a machine does not join, or a call to its region does not succeed.

use tonic::{Code, Status};

use crate::region::{identity::IdentityError, store::StoreError};

/// Why a machine is not of the region.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The gateway's authority is not the one that the token names.
    #[error(
        "the gateway at {0} is not of the region that the token is for, or somebody stands in between: \
         its authority's certificate has another hash; check the address, or make a new token"
    )]
    WrongAuthority(String),
    /// The gateway said no.
    #[error("{0}")]
    Refused(String),
    /// No gateway answers.
    #[error(
        "no gateway of the region answers ({0}); check that its control port can be reached from here"
    )]
    Unreachable(String),
    /// A key or a certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why a call to the region did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No gateway can be reached, or it cannot reach the store. The call may have been carried
    /// out all the same, and may be made again.
    #[error(
        "the region's control plane cannot be reached: {0}; what runs goes on, and this can be tried again"
    )]
    Unavailable(String),
    /// The region said no.
    #[error("{text}")]
    Refused {
        /// Its kind.
        code: Code,
        /// A sentence for people.
        text: String,
    },
    /// The answer makes no sense.
    #[error(transparent)]
    Malformed(#[from] crate::region::convert::Malformed),
    /// The machine's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CallError {
    /// What it is to who asked this machine.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Unavailable(_) => Code::FailedPrecondition,
            Self::Malformed(_) | Self::Store(_) => Code::Internal,
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            // What the transport says of a connection that broke.
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => {
                Self::Unavailable(text)
            }
            code => Self::Refused { code, text },
        }
    }
}
