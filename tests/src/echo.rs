//! A TCP server that gives back what it was sent, and a client that compares.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{lab::PATIENCE, netns::NetNs, server::Server};

/// A server on one port of a namespace, on all its addresses. It reads to the end of what a
/// client sends, then sends all of it back. It ends with this guard.
#[derive(Debug)]
pub struct Echo {
    _server: Server,
    clients: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Echo {
    /// Starts it.
    #[track_caller]
    pub fn serve(netns: &NetNs, port: u16) -> Self {
        Self::at(netns, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// The same on one address.
    #[track_caller]
    pub fn at(netns: &NetNs, address: SocketAddr) -> Self {
        let clients = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let seen = clients.clone();
        let server = Server::at(netns, address, move |client, address| {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(address);
            // A client that breaks off is for the client's own test to judge.
            give_back(client).ok();
        });
        Self { _server: server, clients }
    }

    /// The ends of the connections so far, as the server saw them.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any connection came from this address.
    pub fn saw(&self, address: &str) -> bool {
        let address: IpAddr = address.parse().expect("an address");
        self.clients().iter().any(|client| client.ip() == address)
    }
}

/// Dials from inside a namespace; waits as long as a test would.
pub fn dial(from: &NetNs, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    })
}

/// Sends so many bytes through an [`Echo`] and back; panics unless each comes back as it was.
#[track_caller]
pub fn round_trip(from: &NetNs, to: SocketAddr, bytes: usize) {
    let stream = dial(from, to).unwrap_or_else(|error| panic!("cannot dial {to}: {error}"));
    let sent = noise(bytes);
    let mut received = Vec::with_capacity(bytes);
    (&stream).write_all(&sent).unwrap_or_else(|error| panic!("cannot send to {to}: {error}"));
    stream.shutdown(Shutdown::Write).expect("half-closing");
    let read = (&stream).read_to_end(&mut received);
    read.unwrap_or_else(|error| {
        panic!("of {bytes} bytes {to} gave back {}: {error}", received.len())
    });
    if sent != received {
        let first = sent.iter().zip(&received).position(|(a, b)| a != b);
        let back = received.len();
        panic!("sent {bytes} bytes and got {back} back; the first that differs: {first:?}");
    }
}

/// Bytes without a pattern, the same at every call.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_ne_bytes());
    }
    noise.truncate(bytes);
    noise
}

fn give_back(mut client: TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    client.read_to_end(&mut all)?;
    client.write_all(&all)
}
