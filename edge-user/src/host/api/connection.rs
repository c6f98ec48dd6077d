//! Accepted connections: who is at the other end, and whether they are still there.

use std::{
    io::Result,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;

use crate::{
    places::{Place, Places},
    watched::Watched,
};

/// A connection with its caller's identity.
type Connection = Watched<TcpStream, Guest>;

/// What goes with a connection.
pub(super) struct Guest {
    address: IpAddr,
    /// The only strong one: it goes with the connection.
    alive: Arc<()>,
    _place: Place<IpAddr>,
}

/// What a call knows of the connection it came over.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Verified by the data path.
    pub(super) address: IpAddr,
    /// Dead once the connection has closed.
    pub(super) alive: Weak<()>,
}

/// Accepts connections for ever, so many at a time in all and from each source.
pub(super) fn incoming(
    listener: TcpListener,
    all: usize,
    each: usize,
) -> impl Stream<Item = Result<Connection>> + Send {
    stream::unfold((listener, Places::new(all)), move |(listener, places)| async move {
        let connection = accept(&listener, &places, each).await;
        Some((Ok(connection), (listener, places)))
    })
}

async fn accept(listener: &TcpListener, places: &Places<IpAddr>, each: usize) -> Connection {
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
        let Some(place) = places.take(address, each) else {
            tracing::debug!(source = %address, "too many API connections; one more was closed");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, source = %address, "an API connection closed at once");
            continue;
        }
        tracing::debug!(source = %address, "API connection opened");
        let guest = Guest { address, alive: Arc::new(()), _place: place };
        return Watched::http2(stream, guest);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        tracing::debug!(source = %self.address, "API connection closed");
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let guest = self.held();
        Peer { address: guest.address, alive: Arc::downgrade(&guest.alive) }
    }
}
