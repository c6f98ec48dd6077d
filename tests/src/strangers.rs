//! Many connections at once, from addresses of their own.

use std::{
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{lab::Lab, netns::NetNs};

/// No call on a connection takes longer, so that no test hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// An address of the internet that strangers come from: not the one that everybody else uses.
#[derive(Debug, Clone)]
pub struct Strangers {
    netns: NetNs,
    address: IpAddr,
}

impl Strangers {
    /// Adds the address 192.0.2.`last` to the internet; 100 and above are free.
    #[track_caller]
    pub fn new(lab: &Lab, last: u8) -> Self {
        more_files();
        let address = IpAddr::from([192, 0, 2, last]);
        lab.internet.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        Self { netns: lab.internet.clone(), address }
    }

    /// Does the same on as many new connections, one after the other.
    ///
    /// # Errors
    /// The first that could not be made.
    pub fn each<T: Send>(
        &self,
        count: usize,
        to: SocketAddr,
        mut with: impl FnMut(TcpStream) -> T + Send,
    ) -> io::Result<Vec<T>> {
        self.netns.enter(|| (0..count).map(|_| self.connect(to).map(&mut with)).collect())
    }

    /// Opens as many connections; returns those that were not reset at once.
    pub fn tries(&self, count: usize, to: SocketAddr) -> Vec<TcpStream> {
        self.netns.enter(|| (0..count).filter_map(|_| self.connect(to).ok()).collect())
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(self.address, 0).into())?;
        socket.connect_timeout(&to.into(), DEADLINE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Whether the other side has ended a connection, however; it may have sent something before.
pub fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let over = loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(_) => break true,
        }
    };
    stream.set_nonblocking(false).expect("a socket");
    over
}

/// A ClientHello whose name has 64 KiB, in records of 16 KiB: well-formed but for its size.
pub fn long_hello() -> Vec<u8> {
    let block = |body: &[u8]| {
        let length = u16::try_from(body.len()).expect("a short block");
        [&length.to_be_bytes()[..], body].concat()
    };
    let name = [&[0][..], &block(&[b'a'; 65_535 - 5])].concat();
    let extension = [&[0, 0][..], &block(&block(&name))].concat();
    let suites = [0, 2, 0x13, 0x01];
    let body = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &extension].concat();
    let length = u32::try_from(body.len()).expect("a short message");
    let message = [&[1][..], &length.to_be_bytes()[1..], &body].concat();
    let record = |part: &[u8]| [&[0x16, 3, 1][..], &block(part)].concat();
    message.chunks(1 << 14).flat_map(record).collect()
}

/// Lets this process open as many files as the machine lets it.
fn more_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit that is allowed");
}
