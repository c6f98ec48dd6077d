//! The service namespace: the daemon's own place on the containers' side of the wire. It owns
//! 169.254.20.10 (DNS and the API) and the sockets that the relay dials containers from, so that
//! every packet to or from a container passes `tc_container`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edge_common::tables::AddressRow;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::{
    api::SERVICE_ADDRESS,
    containers::Containers,
    links::Links,
    netns::{self, NetNs, SocketFactory},
    sockets::{self, Listening},
    sysctl,
    wiring::{self, PeerError, Plan, Tenant, Wired, WiringError},
};
use crate::region::tunnel::{Dial, DialError, Tunnel};

/// A container that is there answers at once; this is for one that is not.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Where its namespace is mounted, in the run directory.
const PIN: &str = "service.ns";

/// The service namespace, wired.
pub struct Service {
    namespace: NetNs,
    wired: Wired,
    /// Whether an earlier daemon made it.
    adopted: bool,
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
    /// Takes up the namespace that an earlier daemon left in the run directory, or makes and wires
    /// one. If it was taken up, its link comes later, by [`Service::relink`].
    pub async fn start(
        containers: Arc<Containers>,
        links: &Links,
        veth: String,
        mtu: u32,
        run_dir: &Path,
    ) -> Result<Self, WiringError> {
        let pin = Self::pin_path(run_dir);
        // The first is what the relay's sockets speak from.
        let addresses = vec![containers.service_address().into(), SERVICE_ADDRESS.into()];
        let wiring = containers.wiring();
        let (namespace, wired, adopted) = match left(links, &veth, &pin, &addresses).await {
            Ok((namespace, ifindex)) => {
                let wired = Wired::of(veth, ifindex, addresses);
                wiring.adopt(&wired, AddressRow::SERVICE, Tenant::NONE).await?;
                (namespace, wired, true)
            }
            // It may be there all the same, and a predecessor's.
            Err(PeerError::Link(error)) => return Err(error.into()),
            Err(PeerError::Namespace(error)) if !netns::is_gone(&error) => {
                return Err(WiringError::Namespace(error));
            }
            Err(why) => {
                tracing::debug!(%why, "the service namespace is made anew");
                links.remove(&veth).await?;
                NetNs::unpin(&pin).map_err(WiringError::Namespace)?;
                let namespace = NetNs::create().map_err(WiringError::Namespace)?;
                namespace.pin(&pin).map_err(WiringError::Namespace)?;
                let flags = AddressRow::SERVICE;
                let tenant = Tenant::NONE;
                let plan = Plan { veth, namespace: &namespace, addresses, flags, tenant, mtu };
                let wired = wiring.connect(&plan).await?;
                (namespace, wired, false)
            }
        };
        tune(&namespace).map_err(WiringError::Namespace)?;
        let sockets = SocketFactory::start(&namespace).map_err(WiringError::Namespace)?;
        Ok(Self { namespace, wired, adopted, sockets, containers })
    }

    /// Puts this daemon's program on the link of a namespace that was taken up, once all rows are
    /// there.
    pub fn relink(&self) -> Result<(), WiringError> {
        if self.adopted { self.take_link() } else { Ok(()) }
    }

    /// Puts this daemon's program on the link, whatever is there.
    pub fn take_link(&self) -> Result<(), WiringError> {
        self.containers.wiring().relink(&self.wired)
    }

    /// Where its namespace is mounted.
    pub fn pin_path(run_dir: &Path) -> PathBuf {
        run_dir.join(PIN)
    }

    /// Lets go of the namespace in a run directory, whether a daemon runs or not.
    pub fn unpin(run_dir: &Path) -> io::Result<()> {
        NetNs::unpin(&Self::pin_path(run_dir))
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
            // The address of a container tells its host.
            return DialError::RefusedAway(port, tunnel.container.i6pn.segments()[4]);
        };
        let look = move || sockets::listening(&attached.namespace, port);
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(Listening::Nobody)) => DialError::NotListening(port),
            Ok(Ok(Listening::Loopback(address))) => DialError::LoopbackOnly(port, address),
            _ => DialError::Io(port, refused),
        }
    }
}

/// Settings for the relay's sockets, which dial one address and port again and again over a veth.
fn tune(namespace: &NetNs) -> io::Result<()> {
    namespace.run(|| {
        // Where clients close first its own port rests: for a second, as with timestamps is safe
        // (RFC 6191), instead of a minute, and nearly all ports may be taken. Else a tunnel would
        // be out of them at 500 connections a second.
        sysctl::write("net/ipv4/tcp_tw_reuse", "1")?;
        sysctl::write("net/ipv4/ip_local_port_range", "1024 65535")?;
        // A veth has no queue to spare: the machine's own choice might pace, which costs timers.
        sysctl::write("net/ipv4/tcp_congestion_control", "reno")
    })
}

/// The namespace that an earlier daemon left, and the index of its veth.
async fn left(
    links: &Links,
    veth: &str,
    pin: &Path,
    addresses: &[IpAddr],
) -> Result<(NetNs, u32), PeerError> {
    let namespace = NetNs::at(pin).map_err(PeerError::Namespace)?;
    let index = wiring::joined(links, veth, &namespace, addresses).await?;
    Ok((namespace, index))
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
