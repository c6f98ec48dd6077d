//! What `edge run` and the first processes of its container say to each other: one JSON value
//! per packet of a socket pair, so that a message is whole or absent.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::sys;

/// Below the socket's send buffer, far above any real message.
const MAX_MESSAGE: usize = 64 * 1024;

/// From `edge run` to the container.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// The namespace is wired: finish it and start the program.
    Start(Setup),
    /// Send the program this signal.
    Signal(i32),
}

/// From the container to `edge run`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The namespaces exist and may be attached.
    Unshared,
    /// The program runs.
    Started,
    /// It never will; the exit code and the sentence to print.
    Failed {
        /// One of `error::Kind`'s.
        exit: u8,
        /// Thing, cause and remedy.
        text: String,
    },
}

/// What the container's inside is made of.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    /// The container's name.
    pub hostname: String,
    /// Contents of its /etc/resolv.conf.
    pub resolv_conf: String,
    /// Contents of its /etc/hosts.
    pub hosts: String,
    /// Added to the program's environment, in order.
    pub environment: Vec<(String, String)>,
    /// Directories that it shall find empty.
    pub hidden: Vec<PathBuf>,
}

/// A socket pair; the ends are closed on exec.
pub fn pair() -> io::Result<(Socket, Socket)> {
    Socket::pair(Domain::UNIX, Type::SEQPACKET, None)
}

/// Sends a message.
pub fn send(socket: &Socket, message: &impl Serialize) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    (&*socket).write(&packet).map(|_whole| ())
}

/// Receives a message; none when the other side is gone.
pub fn receive<M: DeserializeOwned>(socket: &Socket) -> io::Result<Option<M>> {
    let mut packet = vec![0; MAX_MESSAGE];
    let length = loop {
        match (&*socket).read(&mut packet) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A peer that ended with our messages unread resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break 0,
            result => break result?,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&packet[..length])?))
}

/// The same for a task that must not block.
#[derive(Debug)]
pub struct AsyncControl(AsyncFd<Socket>);

impl AsyncControl {
    /// Takes one end of the pair.
    pub fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        sys::watch_socket(socket).map(Self)
    }

    /// Sends a message.
    pub async fn send(&self, command: &Command) -> io::Result<()> {
        self.0.async_io(tokio::io::Interest::WRITABLE, |socket| send(socket, command)).await
    }

    /// Receives a message; none when the other side is gone.
    pub async fn receive(&self) -> io::Result<Option<Report>> {
        self.0.async_io(tokio::io::Interest::READABLE, receive).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_the_end_is_seen() {
        let (here, there) = pair().unwrap();
        let hosts = "x".repeat(40_000);
        send(&here, &Command::Start(Setup { hosts, ..Setup::default() })).unwrap();
        send(&here, &Command::Signal(15)).unwrap();
        drop(here);
        let first = receive::<Command>(&there).unwrap();
        assert!(matches!(first, Some(Command::Start(setup)) if setup.hosts.len() == 40_000));
        assert!(matches!(receive(&there).unwrap(), Some(Command::Signal(15))));
        assert!(receive::<Command>(&there).unwrap().is_none());
    }
}
