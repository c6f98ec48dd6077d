//! One-byte requests: a server that gives bytes back, and the clients that count what they got.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;
use tests::netns::NetNs;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
};
use tokio_socks::tcp::Socks5Stream;

use crate::{cpu, summary::percentile};

const BACKLOG: u32 = 4096;
/// A connection that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on one port of a namespace; it ends with this guard.
pub(crate) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it.
    pub(crate) fn start(netns: &NetNs, port: u16) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let netns = netns.clone();
        let thread = thread::spawn(move || {
            netns.enter(|| {
                let served = serve(port, stopped, &ready);
                if let Err(error) = served {
                    // The receiver is gone if the failure came later; then clients show it.
                    ready.send(Err(error)).ok();
                }
            });
        });
        is_ready.recv().context("the server ended at once")??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed already.
            thread.join().ok();
        }
    }
}

fn serve(
    port: u16,
    stopped: oneshot::Receiver<()>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) -> Result<()> {
    cpu::pin(cpu::SERVER)?;
    runtime()?.block_on(async {
        let socket = TcpSocket::new_v6()?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        let listener = socket.listen(BACKLOG)?;
        ready.send(Ok(()))?;
        tokio::select! {
            _ = stopped => Ok(()),
            ended = accept(listener) => ended,
        }
    })
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut byte = [0; 1];
            while matches!(client.read(&mut byte).await, Ok(1..)) {
                // A client that is gone is not ours to report: it counts for itself.
                client.write_all(&byte).await.ok();
            }
        });
    }
}

/// Where clients connect to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// The SOCKS server on the way, if there is one.
    pub(crate) socks: Option<SocketAddr>,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address, socks: None }
    }
}

/// What clients saw of round trips.
pub(crate) struct RoundTrips {
    /// In a second, over all connections.
    pub(crate) rate: f64,
    /// Microseconds that 99 of 100 did not exceed.
    pub(crate) p99: f64,
}

/// One byte there and back, again and again, over so many connections.
pub(crate) fn round_trips(
    from: &NetNs,
    to: impl Into<Target>,
    connections: usize,
    time: Duration,
) -> Result<RoundTrips> {
    let to = to.into();
    inside(from, async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect(to).await?);
        }
        let begun = Instant::now();
        let clients = clients.into_iter().map(|client| ping(client, begun + time));
        let mut all = futures::future::try_join_all(clients).await?.concat();
        let elapsed = begun.elapsed().as_secs_f64();
        ensure!(!all.is_empty(), "no round trip to {} in {time:?}", to.address);
        #[expect(clippy::cast_precision_loss, reason = "a count of one second")]
        let rate = all.len() as f64 / elapsed;
        Ok(RoundTrips { rate, p99: percentile(&mut all, 0.99) })
    })
}

/// Connections in a second, with so many at once: connect, one byte there and back, reset.
pub(crate) fn new_connections(
    from: &NetNs,
    to: impl Into<Target>,
    at_once: usize,
    time: Duration,
) -> Result<f64> {
    let to = to.into();
    inside(from, async {
        let begun = Instant::now();
        let clients = (0..at_once).map(|_| knock(to, begun + time));
        let counts = futures::future::try_join_all(clients).await?;
        Ok(counts.iter().sum::<f64>() / begun.elapsed().as_secs_f64())
    })
}

/// Microseconds of every round trip until the deadline.
async fn ping(mut client: TcpStream, deadline: Instant) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut before = Instant::now();
    while before < deadline {
        client.write_all(&[1]).await?;
        client.read_exact(&mut [0]).await.context("the server broke off")?;
        let after = Instant::now();
        times.push((after - before).as_secs_f64() * 1e6);
        before = after;
    }
    Ok(times)
}

async fn knock(to: Target, deadline: Instant) -> Result<f64> {
    let mut count = 0.0;
    while Instant::now() < deadline {
        let mut client = connect(to).await?;
        // With a reset, so that no port rests in TIME_WAIT: there are more connections in a
        // minute than ports.
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        client.write_all(&[1]).await?;
        client.read_exact(&mut [0]).await.context("the server broke off")?;
        count += 1.0;
    }
    Ok(count)
}

async fn connect(to: Target) -> Result<TcpStream> {
    let dialled = tokio::time::timeout(PATIENCE, dial(to)).await;
    let client = dialled.map_err(io::Error::from).flatten();
    let client = client.with_context(|| format!("cannot connect to {}", to.address))?;
    client.set_nodelay(true)?;
    Ok(client)
}

async fn dial(Target { address, socks }: Target) -> io::Result<TcpStream> {
    let Some(socks) = socks else { return TcpStream::connect(address).await };
    let stream = Socks5Stream::connect(socks, address).await.map_err(io::Error::other)?;
    Ok(stream.into_inner())
}

fn inside<T: Send>(from: &NetNs, what: impl Future<Output = Result<T>> + Send) -> Result<T> {
    from.enter(|| {
        cpu::pin(cpu::CLIENT)?;
        runtime()?.block_on(what)
    })
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
