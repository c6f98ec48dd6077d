//! The service namespace: the daemon's own place on the containers' side of the wire. It owns
//! 169.254.20.10 (DNS and the API) and the sockets that the relay dials containers from, so that
//! every packet to or from a container passes `tc_container`.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use edge_common::tables::AddressRow;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::{
    api::SERVICE_ADDRESS,
    containers::Containers,
    netns::{NetNs, SocketFactory},
    sockets::{self, Listening},
    wiring::{Plan, Wired, WiringError},
};
use crate::region::tunnel::{Dial, DialError, Tunnel};

/// A container that is there answers at once; this is for one that is not.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// The service namespace, wired.
pub struct Service {
    namespace: NetNs,
    wired: Wired,
    sockets: SocketFactory,
    containers: Arc<Containers>,
}

/// The sockets that serve containers.
#[derive(Debug)]
pub struct ServiceSockets {
    /// The API, port 80.
    pub api: TcpListener,
    /// DNS, port 53.
    pub dns_tcp: TcpListener,
    /// DNS, port 53.
    pub dns_udp: UdpSocket,
}

impl ServiceSockets {
    /// Those of an earlier daemon.
    ///
    /// # Errors
    /// If they are something else.
    pub fn inherited(api: OwnedFd, dns_tcp: OwnedFd, dns_udp: OwnedFd) -> io::Result<Self> {
        let tcp = |open: OwnedFd| TcpListener::from_std(open.into());
        let dns_udp = UdpSocket::from_std(dns_udp.into())?;
        Ok(Self { api: tcp(api)?, dns_tcp: tcp(dns_tcp)?, dns_udp })
    }
}

impl Service {
    /// Makes and wires the namespace.
    pub async fn start(
        containers: Arc<Containers>,
        veth: String,
        mtu: u32,
    ) -> Result<Self, WiringError> {
        let namespace = NetNs::create().map_err(WiringError::Namespace)?;
        let plan = Plan {
            veth,
            namespace: &namespace,
            // The first is what the relay's sockets speak from.
            addresses: vec![containers.service_address().into(), SERVICE_ADDRESS.into()],
            flags: AddressRow::SERVICE,
            workspace: 0,
            mtu,
        };
        let wired = containers.wiring().connect(&plan).await?;
        let sockets = SocketFactory::start(&namespace).map_err(WiringError::Namespace)?;
        Ok(Self { namespace, wired, sockets, containers })
    }

    /// Takes it off the wire.
    pub async fn stop(&self) {
        self.containers.wiring().disconnect(&self.wired).await;
    }

    /// Opens the sockets that serve containers.
    pub fn listen(&self) -> io::Result<ServiceSockets> {
        let address = |port| SocketAddr::from((SERVICE_ADDRESS, port));
        let tcp = |port| {
            let listener = self.namespace.run(|| std::net::TcpListener::bind(address(port)))?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let udp = self.namespace.run(|| std::net::UdpSocket::bind(address(53)))?;
        udp.set_nonblocking(true)?;
        Ok(ServiceSockets { api: tcp(80)?, dns_tcp: tcp(53)?, dns_udp: UdpSocket::from_std(udp)? })
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.sockets.tcp().await?;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Why the container refused.
    async fn explain(&self, tunnel: &Tunnel, refused: io::Error) -> DialError {
        let port = tunnel.port;
        let Some(attached) = self.containers.by_id(&tunnel.container.id) else {
            return DialError::Io(port, refused);
        };
        let look = move || sockets::listening(&attached.namespace, port);
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(Listening::Nobody)) => DialError::NotListening(port),
            Ok(Ok(Listening::Loopback(address))) => DialError::LoopbackOnly(port, address),
            _ => DialError::Io(port, refused),
        }
    }
}

impl Dial for Service {
    async fn dial(&self, tunnel: Arc<Tunnel>) -> Result<TcpStream, DialError> {
        let to = SocketAddr::from((tunnel.container.ipv4, tunnel.port));
        match tokio::time::timeout(DIAL_DEADLINE, self.connect(to)).await {
            Err(_elapsed) => Err(DialError::Timeout(tunnel.port, DIAL_DEADLINE)),
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(self.explain(&tunnel, error).await)
            }
            Ok(Err(error)) => Err(DialError::Io(tunnel.port, error)),
        }
    }
}
