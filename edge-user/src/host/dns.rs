//! DNS for containers: their own names here, all others through the host's resolvers.
//!
//! Queries arrive on sockets of the service namespace; what is forwarded leaves by ordinary
//! sockets of the host, so that a resolver on the host's loopback works too; that of a proxied
//! container leaves by its proxy, from sockets in its own namespace.

pub mod fuzzing;
mod question;
#[cfg(test)]
mod tests;
mod upstream;

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{OpCode, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::{
    question::Question,
    upstream::{Transport, UpstreamError, Upstreams},
};
use super::callers::{Callers, Peer};
use crate::{places::Places, region::tunnel::Container};

/// Queries of one container that are being answered at a time; others are dropped, and the
/// container's resolver asks again.
const QUERIES_EACH: usize = 256;
/// Queries of all containers: each that is forwarded holds a socket.
const QUERIES: usize = 1024;
/// TCP connections of one container at a time.
const CONNECTIONS_EACH: usize = 16;
/// TCP connections of all containers.
const CONNECTIONS: usize = 256;
/// A TCP connection without a query for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// What is under way when the daemon stops may take this much longer.
const FAREWELL: Duration = Duration::from_secs(5);
/// The name that is a container's own private address, and the zone around it.
const OWN_NAME: &str = "i6pn.modal.local";
const OWN_ZONE: &str = "modal.local";

/// What the answers depend on.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// The region's domain, lower case, without a final dot.
    pub domain: String,
    /// Containers are named NAME.WORKSPACE.SUFFIX; lower case, without a final dot.
    pub suffix: String,
    /// Names the upstream resolvers; read again when it changes.
    pub resolv_conf: PathBuf,
}

/// Answers the containers' queries on these two sockets until `shutdown`.
///
/// `locate` knows where a live tunnel's name leads; it is asked for lower-case names under the
/// region's domain, without a final dot. Names that it does not know go to the upstream
/// resolvers, but those under `.localhost` never leave the machine.
pub async fn serve<C, L>(
    udp: UdpSocket,
    tcp: TcpListener,
    callers: Arc<C>,
    locate: L,
    settings: DnsSettings,
    shutdown: impl Future<Output = ()>,
) where
    C: Callers,
    L: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    let upstreams = Upstreams::new(settings.resolv_conf, 53);
    let zones = Zones { domain: settings.domain, suffix: settings.suffix };
    serve_with(udp, tcp, callers, locate, zones, upstreams, shutdown).await;
}

async fn serve_with<C, L>(
    udp: UdpSocket,
    tcp: TcpListener,
    callers: Arc<C>,
    locate: L,
    zones: Zones,
    upstreams: Upstreams,
    shutdown: impl Future<Output = ()>,
) where
    C: Callers,
    L: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    let dns = Arc::new(Dns {
        callers,
        locate,
        zones,
        upstreams,
        queries: Places::new(QUERIES),
        tasks: TaskTracker::new(),
    });
    tokio::select! {
        () = serve_udp(&dns, udp) => {}
        () = serve_tcp(&dns, &tcp) => {}
        () = shutdown => tracing::debug!("DNS for containers ends"),
    }
    // Another daemon may have the sockets by now, but not these queries.
    dns.tasks.close();
    timeout(FAREWELL, dns.tasks.wait()).await.ok();
}

/// The names that are answered here.
struct Zones {
    domain: String,
    suffix: String,
}

struct Dns<C, L> {
    callers: Arc<C>,
    locate: L,
    zones: Zones,
    upstreams: Upstreams,
    queries: Places<IpAddr>,
    /// Queries and connections that are under way.
    tasks: TaskTracker,
}

/// What this server says of a name by itself.
enum Local {
    /// The name exists and has these addresses, perhaps none of the type that was asked for.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    Nothing,
    /// Nobody can tell at this moment.
    Unknown,
}

/// Receives queries for ever.
async fn serve_udp<C, L>(dns: &Arc<Dns<C, L>>, udp: UdpSocket)
where
    C: Callers,
    L: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    let udp = Arc::new(udp);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, peer) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let (here, udp, query) = (dns.clone(), udp.clone(), buffer[..length].to_vec());
        let span = tracing::debug_span!("dns", source = %peer, transport = "udp");
        let work = async move {
            if let Some(reply) = here.answer(&query, peer.ip(), Transport::Udp).await
                && let Err(error) = udp.send_to(&reply, peer).await
            {
                tracing::debug!(%error, "a reply could not be sent");
            }
        };
        dns.tasks.spawn(work.instrument(span));
    }
}

async fn serve_tcp<C, L>(dns: &Arc<Dns<C, L>>, tcp: &TcpListener)
where
    C: Callers,
    L: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    let places = Places::new(CONNECTIONS);
    loop {
        let (stream, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip().to_canonical(), CONNECTIONS_EACH) else {
            tracing::debug!(source = %peer, "too many DNS connections; one more was closed");
            continue;
        };
        let here = dns.clone();
        let span = tracing::debug_span!("dns", source = %peer, transport = "tcp");
        let work = async move {
            let outcome = here.connection(stream, peer).await;
            tracing::debug!(?outcome, "connection closed");
            drop(place);
        };
        dns.tasks.spawn(work.instrument(span));
    }
}

/// Without a pause, an error that stays would keep a processor busy.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a DNS query could not be received");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

impl<C, L> Dns<C, L>
where
    C: Callers,
    L: Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static,
{
    async fn connection(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let mut query = vec![0; length.into()];
            timeout(IDLE, stream.read_exact(&mut query)).await??;
            let Some(reply) = self.answer(&query, peer.ip(), Transport::Tcp).await else {
                return Ok(());
            };
            timeout(IDLE, stream.write_all(&upstream::framed(&reply)?)).await??;
        }
    }

    /// The reply to a query; none to garbage.
    async fn answer(&self, query: &[u8], source: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        let source = source.to_canonical();
        let Some(_place) = self.queries.take(source, QUERIES_EACH) else {
            tracing::debug!("too many queries at a time; one more was dropped");
            return None;
        };
        let question = match Question::read(query) {
            Ok(question) => question,
            Err(refusal) => return refusal,
        };
        let Some(container) = self.callers.by_address(source) else {
            tracing::debug!("a query from no container of this host");
            return question.refuse(ResponseCode::Refused);
        };
        if question.op_code() != OpCode::Query {
            return question.refuse(ResponseCode::NotImp);
        }
        match self.local(&container, source, question.name()) {
            Some(Local::Addresses(addresses)) => question.answer(&addresses),
            Some(Local::Nothing) => question.refuse(ResponseCode::NXDomain),
            Some(Local::Unknown) => question.refuse(ResponseCode::ServFail),
            // A transfer is many messages, and nothing for a container.
            None if matches!(question.kind(), RecordType::AXFR | RecordType::IXFR) => {
                question.refuse(ResponseCode::Refused)
            }
            None if !self.callers.may_ask_outside(source) => question.refuse(ResponseCode::Refused),
            None => match self.ask(query, &question, transport, source).await {
                Ok(reply) => Some(reply),
                Err(error) => {
                    tracing::warn!(%error, "a name could not be resolved");
                    question.refuse(ResponseCode::ServFail)
                }
            },
        }
    }

    /// Asks the host's resolvers: for a proxied container from its own namespace, so that its
    /// questions leave by the proxy as all else does.
    async fn ask(
        &self,
        query: &[u8],
        question: &Question,
        transport: Transport,
        source: IpAddr,
    ) -> Result<Vec<u8>, UpstreamError> {
        let way = self.callers.own_way(source);
        self.upstreams.ask(query, question, transport, way.as_ref()).await
    }

    fn local(&self, container: &Container, source: IpAddr, name: &Name) -> Option<Local> {
        let name = name.to_lowercase().to_ascii();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name == OWN_NAME && self.callers.is_private(source) {
            return Some(Local::Addresses(vec![container.i6pn.into()]));
        }
        if is_under(name, OWN_ZONE) {
            return Some(Local::Nothing);
        }
        if is_under(name, &self.zones.suffix) {
            return Some(self.private(container, source, name));
        }
        let ours = is_under(name, &self.zones.domain);
        if ours && let Some(addresses) = (self.locate)(name) {
            return Some(Local::Addresses(addresses));
        }
        if !is_under(name, "localhost") {
            return None;
        }
        Some(if !ours || name == "localhost" {
            // All other names of the machine itself are the container's own loopback.
            Local::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
        } else if name == self.zones.domain {
            // The domain itself exists, for there are names under it.
            Local::Addresses(Vec::new())
        } else {
            Local::Nothing
        })
    }
}

impl<C: Callers, L> Dns<C, L> {
    /// A name of the private network: `<name>.<workspace>.<suffix>`. Of other workspaces than the
    /// caller's own there is none.
    fn private(&self, container: &Container, source: IpAddr, name: &str) -> Local {
        if !self.callers.is_private(source) {
            return Local::Nothing;
        }
        let within = name.strip_suffix(&self.zones.suffix).unwrap_or(name);
        let within = within.strip_suffix('.').unwrap_or(within);
        match within.rsplit_once('.') {
            Some((peer, workspace)) if workspace == container.workspace => {
                match self.callers.peer(workspace, peer) {
                    Peer::At(address) => Local::Addresses(vec![address.into()]),
                    Peer::Nobody => Local::Nothing,
                    Peer::Unknown => Local::Unknown,
                }
            }
            // There are names under these.
            None if within.is_empty() || within == container.workspace => {
                Local::Addresses(Vec::new())
            }
            _ => Local::Nothing,
        }
    }
}

fn is_under(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
