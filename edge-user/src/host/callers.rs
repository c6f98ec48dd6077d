//! Who is calling: containers are known by the source address that the data path verified.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use crate::region::{cluster::ClusterRecord, tunnel::Container};

/// Who has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A container with this private address.
    At(Ipv6Addr),
    /// Nobody.
    Nobody,
    /// Perhaps a container of another machine: no gateway has said yet who there is.
    Unknown,
}

/// Finds the container that an address belongs to.
pub trait Callers: Send + Sync + 'static {
    /// The living container with this address, if it is one of this host's.
    fn by_address(&self, address: IpAddr) -> Option<Arc<Container>>;

    /// Whether that container may ask others about names: a question carries words outside, and
    /// so is a way out.
    fn may_ask_outside(&self, _address: IpAddr) -> bool {
        true
    }

    /// Whether that container may talk to others of its workspace, and so may know their names.
    fn is_private(&self, _address: IpAddr) -> bool {
        true
    }

    /// The cluster that a container is a member of, and its rank.
    fn cluster(&self, _container: &str) -> Option<(Arc<ClusterRecord>, usize)> {
        None
    }

    /// Who has this name in a workspace's private network: a container's, or a rank's in a
    /// cluster, as `0.train`.
    fn peer(&self, _workspace: &str, _name: &str) -> Peer {
        Peer::Nobody
    }
}
