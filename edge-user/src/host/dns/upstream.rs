//! The host's resolvers: queries go to them byte for byte, but for the id.
//!
//! Passing messages through keeps every record type, EDNS option and truncation as it is. Each
//! query has a random id and a socket of its own, hence a random port: forging its answer takes
//! guessing both.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use hickory_proto::{
    op::{Header, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder},
};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{timeout, timeout_at},
};

use super::{super::callers::OwnWay, question::Question};

/// How long a container waits for an answer at most.
const TOTAL: Duration = Duration::from_secs(5);
/// How long one resolver has, before the next is asked or the same again.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often the resolvers are asked in turn, while time is left.
const ROUNDS: usize = 3;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How a query came, and so how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("{0} names no resolver; add a `nameserver` line to it")]
    NoResolver(PathBuf),
    #[error(
        "{0} names no resolver beyond the machine itself, and a proxied container's questions go by its proxy; add a `nameserver` line with a public one to it"
    )]
    NoneOutside(PathBuf),
    #[error("none of the resolvers {servers:?} answered: {last}; check that the host reaches them")]
    Unanswered { servers: Arc<[SocketAddr]>, last: io::Error },
}

/// The resolvers that a file names.
pub(super) struct Upstreams {
    resolv_conf: PathBuf,
    port: u16,
    known: Mutex<Known>,
}

struct Known {
    /// When the file was last looked at.
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
}

/// Tells one version of the file from another, also when it was replaced within a second.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    inode: u64,
    size: u64,
}

impl Upstreams {
    pub(super) fn new(resolv_conf: PathBuf, port: u16) -> Self {
        let known = Known { looked: None, stamp: None, servers: Arc::default() };
        Self { resolv_conf, port, known: Mutex::new(known) }
    }

    /// Asks one resolver after another for the answer to this message, and returns it with the
    /// id that the asker knows.
    pub(super) async fn ask(
        &self,
        message: &[u8],
        question: &Question,
        transport: Transport,
        way: Option<&OwnWay>,
    ) -> Result<Vec<u8>, UpstreamError> {
        let mut servers = self.servers();
        if way.is_some() && !servers.is_empty() {
            servers = servers.iter().copied().filter(is_outside).collect();
            if servers.is_empty() {
                return Err(UpstreamError::NoneOutside(self.resolv_conf.clone()));
            }
        }
        if servers.is_empty() {
            return Err(UpstreamError::NoResolver(self.resolv_conf.clone()));
        }
        let deadline = tokio::time::Instant::now() + TOTAL;
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        let mut second_best = None;
        for _ in 0..ROUNDS {
            for server in &*servers {
                let attempt =
                    timeout(ATTEMPT, exchange(*server, message, question, transport, way));
                match timeout_at(deadline, attempt).await {
                    Ok(Ok(Ok(reply))) if is_final(&reply) => return Ok(named(reply, question)),
                    Ok(Ok(Ok(reply))) => second_best = Some(reply),
                    Ok(Ok(Err(error))) => last = error,
                    Ok(Err(_)) | Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
            // All have been asked, and one at least said that it cannot tell.
            if let Some(reply) = second_best {
                return Ok(named(reply, question));
            }
            if tokio::time::Instant::now() >= deadline {
                break;
            }
        }
        Err(UpstreamError::Unanswered { servers, last })
    }

    /// The resolvers of the file as it is now, or a second ago.
    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return known.servers.clone();
        }
        known.looked = Some(Instant::now());
        let stamp = fs::metadata(&self.resolv_conf).ok().and_then(|file| {
            Some(Stamp { modified: file.modified().ok()?, inode: file.ino(), size: file.size() })
        });
        if stamp.is_none() || stamp != known.stamp {
            known.stamp = stamp;
            known.servers = self.read();
        }
        known.servers.clone()
    }

    fn read(&self) -> Arc<[SocketAddr]> {
        let read = fs::read(&self.resolv_conf);
        let parsed = read
            .map_err(|error| error.to_string())
            .and_then(|text| parse_resolv_conf(text).map_err(|error| error.to_string()));
        match parsed {
            Ok((config, _)) => {
                let servers = config.name_servers().iter();
                let servers: Arc<[_]> =
                    servers.map(|server| SocketAddr::new(server.ip, self.port)).collect();
                tracing::info!(file = %self.resolv_conf.display(), ?servers, "resolvers");
                servers
            }
            Err(error) => {
                tracing::warn!(file = %self.resolv_conf.display(), error, "no resolvers");
                Arc::default()
            }
        }
    }
}

/// A message with its length before it, as TCP carries it.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}

/// Whether a resolver is reached by IPv4, and not on the machine or its links only.
fn is_outside(server: &SocketAddr) -> bool {
    match server {
        SocketAddr::V4(v4) => !v4.ip().is_loopback() && !v4.ip().is_link_local(),
        SocketAddr::V6(_) => false,
    }
}

async fn exchange(
    server: SocketAddr,
    message: &[u8],
    question: &Question,
    transport: Transport,
    way: Option<&OwnWay>,
) -> io::Result<Vec<u8>> {
    let id = rand::random();
    let asked = with_id(message.to_vec(), id);
    match transport {
        Transport::Udp => {
            let any = match server {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            let socket = match way {
                Some(way) => way.udp().await?,
                None => UdpSocket::bind(any).await?,
            };
            socket.connect(server).await?;
            socket.send(&asked).await?;
            loop {
                let mut reply = Vec::with_capacity(usize::from(u16::MAX));
                socket.recv_buf(&mut reply).await?;
                // Anything else is a late answer to somebody, or a forgery.
                if question.is_answered_by(&reply, id, &asked) {
                    return Ok(reply);
                }
            }
        }
        Transport::Tcp => {
            let mut stream = match way {
                Some(way) => way.tcp().await?.connect(server).await?,
                None => TcpStream::connect(server).await?,
            };
            stream.write_all(&framed(&asked)?).await?;
            let mut reply = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut reply).await?;
            if question.is_answered_by(&reply, id, &asked) {
                Ok(reply)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else"))
            }
        }
    }
}

/// Whether no other resolver needs to be asked.
fn is_final(reply: &[u8]) -> bool {
    let code = Header::read(&mut BinDecoder::new(reply)).map(|header| header.response_code);
    !matches!(code, Ok(ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused))
}

fn named(reply: Vec<u8>, question: &Question) -> Vec<u8> {
    with_id(reply, question.id())
}

fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(first) = message.first_chunk_mut::<2>() {
        *first = id.to_be_bytes();
    }
    message
}
