//! Connections that say a byte from time to time and want it back: whether they go on.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::{echo, netns::NetNs, server::Server};

/// A server that gives back byte for byte; it ends with this guard.
#[derive(Debug)]
pub struct Listener {
    _server: Server,
    address: SocketAddr,
}

/// A connection to it.
#[derive(Debug)]
pub struct Talk(TcpStream);

const PORT: u16 = 7100;

impl Listener {
    /// On an address of a namespace.
    #[track_caller]
    pub fn at(netns: &NetNs, address: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(address.into(), PORT);
        let server = Server::at(netns, address, |mut client, _| {
            let mut byte = [0];
            while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
        });
        Self { _server: server, address }
    }

    /// From inside a namespace.
    #[track_caller]
    pub fn dial(&self, from: &NetNs) -> Talk {
        let dialled = echo::dial(from, self.address);
        Talk(dialled.unwrap_or_else(|error| panic!("cannot dial {}: {error}", self.address)))
    }
}

impl Talk {
    /// Says a byte, and waits for it.
    ///
    /// # Errors
    /// If the connection has broken, or nothing comes for long.
    pub fn say(&self) -> io::Result<()> {
        let mut stream = &self.0;
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0]))
    }

    /// Waits no longer than this from now on.
    pub fn hurry(&self, wait: Duration) {
        self.0.set_read_timeout(Some(wait)).expect("a timeout");
    }
}
