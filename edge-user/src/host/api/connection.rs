//! Accepted connections: who is at the other end, and whether they are still there.

use std::{
    io::{IoSlice, Result},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::server::Connected;

use crate::host::callers::{Place, Places};

/// A connection with its caller's identity.
pub(super) struct Connection {
    stream: TcpStream,
    address: IpAddr,
    /// The only strong one: it goes with the connection.
    alive: Arc<()>,
    _place: Place,
}

/// What a call knows of the connection it came over.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Verified by the data path.
    pub(super) address: IpAddr,
    /// Dead once the connection has closed.
    pub(super) alive: Weak<()>,
}

/// Accepts connections for ever, as many at a time from each source.
pub(super) fn incoming(
    listener: TcpListener,
    each: usize,
) -> impl Stream<Item = Result<Connection>> + Send {
    stream::unfold((listener, Places::new(each)), |(listener, places)| async move {
        let connection = accept(&listener, &places).await;
        Some((Ok(connection), (listener, places)))
    })
}

async fn accept(listener: &TcpListener, places: &Places) -> Connection {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                // Without a pause, running out of open files would keep a processor busy.
                tracing::warn!(%error, "an API connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = places.take(address) else {
            tracing::warn!(source = %address, "too many API connections; one more was closed");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, source = %address, "an API connection closed at once");
            continue;
        }
        tracing::debug!(source = %address, "API connection opened");
        return Connection { stream, address, alive: Arc::new(()), _place: place };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        tracing::debug!(source = %self.address, "API connection closed");
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.address, alive: Arc::downgrade(&self.alive) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
