//! Where a container's namespace is.

use std::{fmt, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::netns::NetNs;

/// Where a container's namespace is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// That of a process; the container's first.
    Process(u32),
    /// Mounted at a path.
    Path(PathBuf),
}

impl Place {
    pub(super) fn open(&self) -> io::Result<NetNs> {
        match self {
            Self::Process(pid) => NetNs::of_process(*pid),
            Self::Path(path) => NetNs::at(path),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}
