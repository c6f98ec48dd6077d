//! Who is calling: containers are known by the source address that the data path verified.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use tokio::net::{TcpSocket, UdpSocket};

use super::containers::Attached;
use crate::region::{
    cluster::ClusterRecord,
    proxy::{Proxy, ProxyAddress, Status as ProxyStatus},
    tunnel::Container,
};

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

/// Sockets in a container's own namespace: what is sent by them goes the way of all that it sends.
#[derive(Clone)]
pub struct OwnWay(Arc<Attached>);

impl OwnWay {
    pub(super) fn new(attached: Arc<Attached>) -> Self {
        Self(attached)
    }

    /// A UDP socket on a port of the kernel's choice.
    ///
    /// # Errors
    /// The kernel's, and if the container is gone.
    pub async fn udp(&self) -> io::Result<UdpSocket> {
        let socket = self.inside(|own| std::net::UdpSocket::bind((own, 0))).await?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// A TCP socket.
    ///
    /// # Errors
    /// The kernel's, and if the container is gone.
    pub async fn tcp(&self) -> io::Result<TcpSocket> {
        self.inside(|own| {
            let socket = TcpSocket::new_v4()?;
            // A namespace may have routes of its own; this address has edge's.
            socket.bind((own, 0).into())?;
            Ok(socket)
        })
        .await
    }

    async fn inside<R: Send + 'static>(
        &self,
        make: impl FnOnce(Ipv4Addr) -> io::Result<R> + Send + 'static,
    ) -> io::Result<R> {
        let attached = self.0.clone();
        let made = tokio::task::spawn_blocking(move || {
            attached.namespace.run(|| make(attached.container.ipv4))
        });
        made.await.map_err(io::Error::other)?
    }
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

    /// How what that container asks others goes on, if not by the machine's own sockets.
    fn own_way(&self, _address: IpAddr) -> Option<OwnWay> {
        None
    }

    /// The proxies of a workspace.
    fn proxies_of(&self, _workspace: &str) -> Vec<Arc<Proxy>> {
        Vec::new()
    }

    /// What one of a proxy's addresses is, seen from this machine.
    fn status_of(&self, proxy: &Proxy, address: &ProxyAddress) -> ProxyStatus {
        proxy.status(address)
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
