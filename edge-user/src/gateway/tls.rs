//! One TLS client, from its first byte to its last.
//!
//! What only one phase needs is boxed, so that a connection that is merely open costs its TLS
//! session and little else.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use futures::future::{Either, select};
use rustls::HandshakeKind;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{StartHandshake, server::TlsStream};
use tracing::Span;

use super::{
    Gateway, apology,
    buffered::Buffered,
    client_hello::{self, Hello, HelloLimits},
    closing,
    denial::Denial,
    h2_guard::H2Guard,
    metrics::{Handshake, OpenConnection, Way},
    proxy_header,
    relay::{End, Terms, relay},
};
use crate::{
    places::Turn,
    region::{
        bounds::Source,
        tunnel::{Dial, DialError, Directory, Tunnel},
    },
};

/// What a client holds until its handshake is finished.
struct Unfinished {
    turn: Turn<Source>,
    _counted: OpenConnection,
}

/// Serves `client`; returns how it ended, for the log.
pub(super) async fn serve<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    client: TcpStream,
    peer: SocketAddr,
) -> String {
    let mut unfinished = Unfinished {
        turn: gateway.handshakes.enter(Source::of(peer.ip())),
        _counted: gateway.metrics.handshaking(),
    };
    if let Err(error) = closing::prepare(&client) {
        return format!("gone before it spoke: {error}");
    }
    let limits = HelloLimits { within: gateway.limits.hello, bytes: gateway.limits.hello_bytes };
    let hello = tokio::select! {
        () = gateway.abort.cancelled() => return End::Aborted.to_string(),
        crowd = unfinished.turn.displaced() => {
            return displaced(gateway, crowd.into()).to_string();
        }
        hello = Box::pin(client_hello::read(Buffered::new(client), limits)) => hello,
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(outcome) => {
            gateway.metrics.handshake(outcome);
            return format!("no handshake: {}", outcome.label());
        }
    };
    let name = hello.accepted.client_hello().server_name().map(str::to_owned);
    let tunnel = name.as_deref().and_then(|name| gateway.directory.by_name(name));
    let Some(tunnel) = tunnel.filter(|tunnel| !tunnel.ended.is_cancelled()) else {
        let outcome = if name.is_some() { Handshake::UnknownName } else { Handshake::NoName };
        gateway.metrics.handshake(outcome);
        unfinished.last_words(client_hello::refuse_name(hello)).await;
        return format!("refused: {} {:?}", outcome.label(), name.unwrap_or_default());
    };
    Span::current().record("tunnel", tracing::field::display(&tunnel.id));
    // Before anything is signed for it.
    let _admitted = match gateway.admission.admit(&tunnel, peer.ip(), Way::Tls) {
        Ok(admitted) => admitted,
        Err(denial) => {
            gateway.metrics.handshake(Handshake::Denied);
            gateway.metrics.denied_at(&tunnel, &denial);
            unfinished.last_words(client_hello::refuse(hello, denial.alert())).await;
            return format!("refused: {denial}");
        }
    };
    Box::pin(connect(gateway, hello, tunnel, peer, unfinished)).await
}

impl Unfinished {
    /// Says so much to a client that is refused, unless a newer one takes its place.
    async fn last_words(&mut self, words: impl Future<Output = ()>) {
        tokio::select! {
            () = words => {}
            _ = self.turn.displaced() => {}
        }
    }
}

fn displaced<D, T>(gateway: &Gateway<D, T>, denial: Denial) -> Denial {
    gateway.metrics.handshake(Handshake::Displaced);
    gateway.metrics.denied(&denial);
    denial
}

/// Finishes the handshake while the container is dialled, then joins the two.
async fn connect<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    hello: Box<Hello>,
    tunnel: Arc<Tunnel>,
    peer: SocketAddr,
    unfinished: Unfinished,
) -> String {
    let config = match gateway.configs.choose(&tunnel, &hello.accepted.client_hello()) {
        Ok(config) => config,
        Err(error) => {
            gateway.metrics.handshake(Handshake::Failed);
            tracing::error!(tunnel = tunnel.id, %error, "no TLS settings for a tunnel");
            return format!("no TLS settings: {error}");
        }
    };
    tunnel.stats.connected();
    let both = Box::pin(async {
        let handshake = pin!(finish_handshake(gateway, hello, config, unfinished));
        let dial = pin!(gateway.dial.dial(tunnel.clone()));
        match select(handshake, dial).await {
            Either::Left((Ok(client), dial)) => Ok((client, dial.await)),
            Either::Left((Err(outcome), _)) => Err(outcome),
            Either::Right((dialled, handshake)) => Ok((handshake.await?, dialled)),
        }
    });
    // A connection that is not yet relayed is reset by being dropped with bytes unread, or
    // closed; either way the client learns that the tunnel is gone.
    let both = tokio::select! {
        biased;
        () = tunnel.ended.cancelled() => return End::TunnelEnded.to_string(),
        () = gateway.abort.cancelled() => return End::Aborted.to_string(),
        both = both => both,
    };
    match both {
        Ok((client, Ok(container))) => join(gateway, client, peer, container, &tunnel).await,
        Ok((client, Err(error))) => regret(gateway, client, &error, &tunnel).await,
        Err(outcome) => format!("no handshake: {}", outcome.label()),
    }
}

async fn finish_handshake<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    hello: Box<Hello>,
    config: Arc<rustls::ServerConfig>,
    mut unfinished: Unfinished,
) -> Result<Box<TlsStream<Buffered>>, Handshake> {
    let start = StartHandshake::from_parts(hello.accepted, hello.stream);
    let finished = tokio::select! {
        crowd = unfinished.turn.displaced() => {
            let denial = displaced(gateway, crowd.into());
            tracing::debug!(%denial, "reset");
            return Err(Handshake::Displaced);
        }
        finished = timeout(gateway.limits.hello, start.into_stream(config)) => finished,
    };
    let outcome = match finished {
        Ok(Ok(client)) => {
            let resumed = client.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            let outcome = if resumed { Handshake::Resumed } else { Handshake::Full };
            gateway.metrics.handshake(outcome);
            return Ok(Box::new(client));
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            tracing::debug!(%error, "handshake failed");
            Handshake::Failed
        }
        Ok(Err(_)) => Handshake::Closed,
        Err(_) => Handshake::Timeout,
    };
    gateway.metrics.handshake(outcome);
    Err(outcome)
}

async fn join<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    client: Box<TlsStream<Buffered>>,
    peer: SocketAddr,
    mut container: TcpStream,
    tunnel: &Tunnel,
) -> String {
    if let Err(error) = closing::prepare(&container) {
        return format!("the container's connection broke: {error}");
    }
    if tunnel.options.proxy_protocol {
        let told = match proxy_header::of(&client, peer) {
            // Some hundred bytes into an empty send buffer: nothing to wait for.
            Ok(header) => container.write_all(&header).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            closing::cut(client).await;
            return format!("the container could not be told of its client: {error}");
        }
    }
    let guarded = speaks_h2(&client) && gateway.configs.shared_certificate();
    let end = relay(
        client,
        Buffered::new(container),
        Terms {
            tunnel,
            way: Way::Tls,
            metrics: gateway.metrics.path(Way::Tls),
            guard: guarded.then(|| H2Guard::new(tunnel.host.clone())),
            half_closed_idle: gateway.limits.half_closed_idle,
            idle: tunnel.options.bounds.idle,
            abort: &gateway.abort,
        },
    )
    .await;
    if let End::Refused(refusal) = &end {
        gateway.metrics.h2_refused(refusal);
        tracing::info!(tunnel = tunnel.id, %refusal, "HTTP/2 connection refused");
    }
    end.to_string()
}

async fn regret<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    client: Box<TlsStream<Buffered>>,
    error: &DialError,
    tunnel: &Tunnel,
) -> String {
    gateway.metrics.dial_failed(tunnel, error);
    let may_be_http1 = !speaks_h2(&client);
    let apology = apology::send(client, error, may_be_http1, gateway.limits.first_request);
    tokio::select! {
        () = gateway.abort.cancelled() => End::Aborted.to_string(),
        () = apology => format!("the container was not reached: {}", error.label()),
    }
}

fn speaks_h2(client: &TlsStream<Buffered>) -> bool {
    client.get_ref().1.alpn_protocol() == Some(b"h2")
}
