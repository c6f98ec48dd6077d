//! A connection to a gateway.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{
    error::causes,
    region::{identity::GATEWAY_NAME, server::MESSAGE},
    wire::region::region_client::RegionClient,
};

/// How long TCP and TLS may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection is asked for a sign of life this often, and may take as long to give it.
const ALIVE: Duration = Duration::from_secs(5);

/// Connects to host:port. The error is a sentence for people.
pub(in crate::region) async fn connect(
    gateway: &str,
    tls: Arc<ClientConfig>,
) -> Result<RegionClient<Channel>, String> {
    connect_within(CONNECT, gateway, tls).await
}

/// The same, with a patience of its own.
pub(super) async fn connect_within(
    patience: Duration,
    gateway: &str,
    tls: Arc<ClientConfig>,
) -> Result<RegionClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{GATEWAY_NAME}"))
        .map_err(|error| causes(&error))?
        .connect_timeout(patience)
        .http2_keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .keep_alive_while_idle(true);
    let to = gateway.to_owned();
    let connector = tower::service_fn(move |_uri| {
        let (to, tls) = (to.clone(), TlsConnector::from(tls.clone()));
        async move { dial(&to, &tls).await.map(TokioIo::new) }
    });
    match tokio::time::timeout(patience, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(RegionClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE)),
        Ok(Err(error)) => Err(format!("{gateway}: {}", causes(&error))),
        Err(_elapsed) => Err(format!("{gateway}: no answer within {patience:?}")),
    }
}

async fn dial(to: &str, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(GATEWAY_NAME).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}
