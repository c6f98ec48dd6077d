//! What stands behind the TLS servers: a program that answers as it is asked to.
//!
//! A request says how many bytes follow it, how many to answer with, and whether to close then.

use std::{net::Ipv4Addr, thread};

use anyhow::{Context as _, Result};
use tests::netns::NetNs;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::cores::on;
use crate::cpu;

/// Bytes of one read or write.
pub(super) const PIECE: usize = 256 * 1024;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// A responder on its own thread; it ends with this guard.
pub(super) struct Backend {
    _stop: oneshot::Sender<()>,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Bytes that follow it.
    pub(super) upload: u64,
    /// Bytes of the answer.
    pub(super) answer: u64,
    /// Whether the backend closes after the answer.
    pub(super) last: bool,
}

impl Request {
    /// Bytes of a request without what follows.
    const SIZE: usize = 17;

    /// As it is sent.
    pub(super) fn bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.upload.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.answer.to_be_bytes());
        bytes[16] = self.last.into();
        bytes
    }

    async fn read(from: &mut TcpStream) -> std::io::Result<Self> {
        let (upload, answer) = (from.read_u64().await?, from.read_u64().await?);
        Ok(Self { upload, answer, last: from.read_u8().await? != 0 })
    }
}

impl Backend {
    /// Where it listens.
    pub(super) const PORT: u16 = 8000;

    /// Starts it inside a namespace.
    pub(super) fn start(netns: &NetNs) -> Result<Self> {
        let listener = netns.enter(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, Self::PORT)).into())?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(std::net::TcpListener::from(socket))
        })?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        on(cpu::CLIENT, || {
            thread::Builder::new()
                .name("backend".to_owned())
                .spawn(move || {
                    runtime.block_on(async {
                        tokio::select! {
                            served = serve(listener) => served,
                            _guard_gone = stopped => Ok(()),
                        }
                    })
                })
                .context("no thread for the backend")
        })?;
        Ok(Self { _stop: stop })
    }
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        // A client that breaks off is noticed by who measures.
        tokio::spawn(async move { answer(client).await.ok() });
    }
}

async fn answer(mut client: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    loop {
        let request = Request::read(&mut client).await?;
        if request.upload > 0 {
            let mut sink = vec![0; PIECE];
            let mut left = request.upload;
            while left > 0 {
                let room = sink.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match client.read(&mut sink[..room]).await? {
                    0 => return Ok(()),
                    amount => left -= amount as u64,
                }
            }
        }
        let mut left = request.answer;
        while left > 0 {
            let room = PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= client.write(&ZEROS[..room]).await? as u64;
        }
        if request.last {
            return client.shutdown().await;
        }
    }
}
