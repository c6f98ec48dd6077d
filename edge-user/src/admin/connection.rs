//! Accepted connections of commands: so many and no more, and those of containers, whose calls
//! are refused anyway, take nothing from the host's.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::caller::Caller;
use crate::{
    host::containers::Containers,
    places::{Place, Places},
    watched::Watched,
};

/// Connections at a time. Each `edge run` and `edge attach` is one for as long as it runs.
const CONNECTIONS: usize = 4096;
/// Connections of each caller that is not the host.
const OF_STRANGER: usize = 4;

/// A connection and its place.
type Connection = Watched<UnixStream, Place<Stranger>>;

/// The container whose connection it is; empty of one that cannot be told, none of the host.
type Stranger = Option<String>;

/// Accepts connections for ever.
pub(super) fn incoming(
    listener: UnixListener,
    containers: Arc<Containers>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let state = (listener, containers, Places::new(CONNECTIONS));
    stream::unfold(state, |(listener, containers, places)| async move {
        let connection = accept(&listener, &containers, &places).await;
        Some((Ok(connection), (listener, containers, places)))
    })
}

async fn accept(
    listener: &UnixListener,
    containers: &Containers,
    places: &Places<Stranger>,
) -> Connection {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Without a pause, running out of open files would keep a processor busy.
                tracing::warn!(%error, "a command's connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller = Caller::of(containers, stream.peer_cred().ok().and_then(|peer| peer.pid()));
        let (stranger, each) = match &caller {
            Caller::Host => (None, CONNECTIONS),
            Caller::Container { id, .. } => (Some(id.clone()), OF_STRANGER),
            Caller::Unknown(_) => (Some(String::new()), OF_STRANGER),
        };
        match places.take(stranger, each) {
            Some(place) => return Watched::http2(stream, place),
            None => tracing::debug!(?caller, "too many connections; one more was closed"),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream().connect_info()
    }
}
