//! The public ports of userspace: which addresses, and the first number that is free on all.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::handover::Holdings;
use crate::{
    cli::UpArgs,
    gateway::Gateway,
    host::service::{Service, ServiceSockets},
    region::tunnel::{Dial, Directory},
};

/// What successors know them by.
const TLS: &str = "tls";
const HTTP: &str = "http";
const RAW: &str = "raw";
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The ports that TLS is served on unless one is asked for: the first that is free.
pub(crate) fn tls_ports() -> impl Iterator<Item = u16> {
    std::iter::once(443).chain(8443..8543)
}

/// The same for plain HTTP.
pub(crate) fn http_ports() -> impl Iterator<Item = u16> {
    std::iter::once(80).chain(8080..8180)
}

/// All of them, open.
pub(super) struct Listeners {
    /// The port of the TLS names.
    pub(super) tls_port: u16,
    /// The port that sends plain HTTP on to them.
    pub(super) http_port: u16,
    /// Behind the raw ports.
    pub(super) raw_v4: TcpListener,
    /// The same for IPv6, where the machine has it.
    pub(super) raw_v6: Option<TcpListener>,
    tls: Vec<TcpListener>,
    http: Vec<TcpListener>,
}

impl Listeners {
    /// Opens what an earlier daemon did not leave.
    pub(super) fn open(
        args: &UpArgs,
        addresses: &[IpAddr],
        inherited: &mut Holdings,
    ) -> anyhow::Result<Self> {
        let earlier = inherited.take(TLS);
        let (tls_port, tls) =
            open("TLS", "--tls-port", addresses, args.tls_port, tls_ports(), earlier)?;
        let earlier = inherited.take(HTTP);
        let (http_port, http) =
            open("HTTP", "--http-port", addresses, args.http_port, http_ports(), earlier)?;
        let (raw_v4, raw_v6) = raw(inherited.take(RAW))?;
        Ok(Self { tls_port, http_port, raw_v4, raw_v6, tls, http })
    }

    /// Keeps them for a successor.
    pub(super) fn keep(&self, holdings: &mut Holdings) -> io::Result<()> {
        let raw = std::iter::once(&self.raw_v4).chain(&self.raw_v6);
        let all = self.tls.iter().map(|listener| (TLS, listener));
        let all = all.chain(self.http.iter().map(|listener| (HTTP, listener)));
        for (name, listener) in all.chain(raw.map(|listener| (RAW, listener))) {
            holdings.keep(name, listener)?;
        }
        Ok(())
    }

    /// Accepts clients until the shutdown.
    pub(super) fn serve<D: Directory, T: Dial>(
        self,
        gateway: &Arc<Gateway<D, T>>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        for listener in self.tls {
            tasks.spawn(gateway.clone().serve_tls(listener, shutdown.clone()));
        }
        for listener in self.http {
            tasks.spawn(gateway.clone().serve_redirect(listener, shutdown.clone()));
        }
        for listener in std::iter::once(self.raw_v4).chain(self.raw_v6) {
            tasks.spawn(gateway.clone().serve_raw(listener, shutdown.clone()));
        }
    }
}

/// The sockets of the service namespace, opened or gone on with, and kept for a successor.
pub(super) fn service(
    service: &Service,
    inherited: &mut Holdings,
    holdings: &mut Holdings,
) -> anyhow::Result<ServiceSockets> {
    let names = ["api", "dns-tcp", "dns-udp"];
    let sockets = match names.map(|name| inherited.take(name).next()) {
        [Some(api), Some(tcp), Some(udp)] => ServiceSockets::inherited(api, tcp, udp),
        _ => service.listen(),
    };
    let sockets = sockets.context("DNS and API sockets of the service namespace")?;
    holdings.keep(names[0], &sockets.api)?;
    holdings.keep(names[1], &sockets.dns_tcp)?;
    holdings.keep(names[2], &sockets.dns_udp)?;
    Ok(sockets)
}

/// Loopback, and what the uplinks have.
pub(super) fn addresses(uplinks: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    loopback.into_iter().chain(uplinks).collect()
}

/// Listens on one port of all addresses: the one that was asked for, or the first free of the
/// usual ones. What an earlier daemon listened on is gone on with, and its port is the first of the
/// usual ones.
fn open(
    what: &str,
    option: &str,
    addresses: &[IpAddr],
    wanted: Option<u16>,
    usual: impl Iterator<Item = u16>,
    inherited: impl Iterator<Item = OwnedFd>,
) -> anyhow::Result<(u16, Vec<TcpListener>)> {
    let inherited = Inherited::new(inherited).with_context(|| format!("{what} listeners"))?;
    if let Some(port) = wanted {
        let listeners = on_all(addresses, port, &inherited).with_context(|| {
            format!("{what} port {port}: cannot be used; free it, or choose another with {option}")
        })?;
        return Ok((port, listeners));
    }
    let mut last = None;
    for port in inherited.port().into_iter().chain(usual) {
        match on_all(addresses, port, &inherited) {
            Ok(listeners) => return Ok((port, listeners)),
            Err(error) => last = Some(error),
        }
    }
    let cause = last.map(|error| error.to_string()).unwrap_or_default();
    Err(anyhow!("{what} port: none of the usual ones is free ({cause}); choose one with {option}"))
}

/// The sockets that `sk_lookup` steers raw ports to, the second for IPv6 where the machine has it.
/// They need some address of their own, where nobody looks for them.
fn raw(
    inherited: impl Iterator<Item = OwnedFd>,
) -> anyhow::Result<(TcpListener, Option<TcpListener>)> {
    let mut inherited = Inherited::new(inherited).context("raw TCP listeners")?.0.into_iter();
    if let Some(v4) = inherited.next() {
        let adopt = |socket: Socket| TcpListener::from_std(socket.into());
        return Ok((adopt(v4)?, inherited.next().map(adopt).transpose()?));
    }
    let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("raw TCP listener")?;
    Ok((v4, listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).ok()))
}

/// Listening sockets of an earlier daemon.
struct Inherited(Vec<Socket>);

impl Inherited {
    fn new(sockets: impl Iterator<Item = OwnedFd>) -> io::Result<Self> {
        let adopt = |open: OwnedFd| {
            let socket = Socket::from(open);
            // For who serves it has to be, whatever became of it on the way.
            socket.set_nonblocking(true).map(|()| socket)
        };
        sockets.map(adopt).collect::<io::Result<_>>().map(Self)
    }

    fn port(&self) -> Option<u16> {
        Some(self.0.first()?.local_addr().ok()?.as_socket()?.port())
    }

    fn at(&self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let is_it = |socket: &&Socket| {
            socket.local_addr().is_ok_and(|local| local.as_socket() == Some(address))
        };
        let Some(socket) = self.0.iter().find(is_it) else { return Ok(None) };
        TcpListener::from_std(socket.try_clone()?.into()).map(Some)
    }
}

fn on_all(addresses: &[IpAddr], port: u16, inherited: &Inherited) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        if let Some(listener) = inherited.at(address)? {
            listeners.push(listener);
            continue;
        }
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 has no ::1.
            Err(error)
                if address.ip() == IpAddr::from(Ipv6Addr::LOCALHOST)
                    && error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
