//! Copies bytes between a client and a container until both have said their last word.
//!
//! Each direction ends by itself: an end of stream is passed on as one, the other direction
//! goes on. No byte is read before there is room for it on the other side, so a slow reader
//! stops the writer. TLS clients that close without close_notify count as having ended their
//! stream, as with nginx and haproxy: too many programs never send one.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::{Instant, Sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    buffered::Buffered,
    closing::{self, Client},
    flow::{Fault, Flow},
    h2_frames::{Boundaries, goaway},
    h2_guard::{H2Guard, Refusal},
    metrics::{PathMetrics, Way},
};
use crate::region::tunnel::Tunnel;

/// How long a container may take to finish the frame before the farewell.
const LAST_FRAME: Duration = Duration::from_secs(2);

/// What a relayed connection belongs to.
pub(super) struct Terms<'a> {
    pub(super) tunnel: &'a Tunnel,
    pub(super) way: Way,
    pub(super) metrics: &'a PathMetrics,
    /// Reads along when HTTP/2 is spoken under a shared certificate.
    pub(super) guard: Option<H2Guard>,
    /// A connection that is closed in one direction and silent for so long is given up.
    pub(super) half_closed_idle: Duration,
    /// The same of one that is open in both directions; none may be silent for ever.
    pub(super) idle: Option<Duration>,
    /// Cancelled when the gateway gives up its connections.
    pub(super) abort: &'a CancellationToken,
}

/// How a relayed connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides closed.
    Finished,
    /// The tunnel ended first.
    TunnelEnded,
    /// The gateway stopped first.
    Aborted,
    /// Silent for too long: in both directions, or in the one that is still open.
    Idle,
    /// The client's connection broke.
    ClientBroke(io::Error),
    /// The container's connection broke.
    ContainerBroke(io::Error),
    /// The HTTP/2 guard refused what the client sent.
    Refused(Refusal),
}

/// Relays until the end, and closes both connections as the end demands.
pub(super) async fn relay(
    mut client: impl Client,
    mut container: Buffered,
    mut terms: Terms<'_>,
) -> End {
    let _open = terms.metrics.opened();
    let mut boundaries = terms.guard.as_ref().map(|_| Boundaries::default());
    let end = tokio::select! {
        biased;
        () = terms.tunnel.ended.cancelled() => End::TunnelEnded,
        () = terms.abort.cancelled() => End::Aborted,
        end = copy(&mut client, &mut container, &mut terms, &mut boundaries) => end,
    };
    match &end {
        End::Finished => {}
        End::TunnelEnded | End::Aborted | End::Idle => {
            closing::reset(client.tcp());
            closing::reset(container.tcp());
        }
        // The kernel's path would pass a reset on as one. Over TLS the bytes before it count
        // more: clients that never read close with a reset too (their tickets are unread).
        End::ClientBroke(_) if terms.way == Way::Userspace => closing::reset(container.tcp()),
        End::ContainerBroke(_) if terms.way == Way::Userspace => closing::reset(client.tcp()),
        End::ClientBroke(_) => {}
        End::ContainerBroke(_) => {
            drop(container);
            closing::cut(client).await;
        }
        End::Refused(refusal) => {
            terms.tunnel.stats.failed(refusal.to_string());
            let last_stream = terms.guard.map_or(0, |guard| guard.last_stream());
            let boundaries = boundaries.unwrap_or_default();
            farewell(client, container, boundaries, last_stream, refusal).await;
        }
    }
    end
}

/// Copies both ways until neither has more, or something ends it before.
async fn copy(
    client: &mut impl Client,
    container: &mut Buffered,
    terms: &mut Terms<'_>,
    boundaries: &mut Option<Boundaries>,
) -> End {
    let stats = &terms.tunnel.stats;
    let metrics = terms.metrics;
    let count_in = |bytes: &[u8]| {
        stats.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        metrics.bytes_in().inc_by(bytes.len() as u64);
    };
    let count_out = |bytes: &[u8]| {
        if let Some(boundaries) = boundaries {
            boundaries.sent(bytes);
        }
        stats.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        metrics.bytes_out().inc_by(bytes.len() as u64);
    };
    let mut inward = Flow::new(count_in, terms.guard.as_mut());
    let mut outward = Flow::new(count_out, None);
    let mut idle = Idle::default();
    let (open_idle, half_closed_idle) = (terms.idle, terms.half_closed_idle);
    let half_closed_idle = open_idle.map_or(half_closed_idle, |idle| idle.min(half_closed_idle));
    poll_fn(|context| {
        match inward.poll(context, client, container, outward.broken().is_none()) {
            Poll::Ready(Err(Fault::Read(error))) => return Poll::Ready(End::ClientBroke(error)),
            Poll::Ready(Err(Fault::Refused(refusal))) => {
                return Poll::Ready(End::Refused(refusal));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match outward.poll(context, container, client, inward.broken().is_none()) {
            Poll::Ready(Err(Fault::Read(error))) => {
                return Poll::Ready(End::ContainerBroke(error));
            }
            Poll::Ready(Err(Fault::Refused(refusal))) => {
                return Poll::Ready(End::Refused(refusal));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let moved = inward.moved() + outward.moved();
        match (inward.ended(), outward.ended()) {
            (true, true) => Poll::Ready(match (inward.take_broken(), outward.take_broken()) {
                (Some(error), _) => End::ContainerBroke(error),
                (None, Some(error)) => End::ClientBroke(error),
                (None, None) => End::Finished,
            }),
            (false, false) => match open_idle {
                Some(limit) => idle.poll(context, moved, limit).map(|()| End::Idle),
                None => Poll::Pending,
            },
            _ => idle.poll(context, moved, half_closed_idle).map(|()| End::Idle),
        }
    })
    .await
}

/// Finishes the frame that the container is sending, tells the client why, and closes.
async fn farewell(
    mut client: impl Client,
    mut container: Buffered,
    mut boundaries: Boundaries,
    last_stream: u32,
    refusal: &Refusal,
) {
    let last_frame = async {
        while !boundaries.between_frames() {
            let bytes = container.fill_buf().await?;
            let amount = boundaries.to_boundary(bytes);
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            client.write_all(&bytes[..amount]).await?;
            boundaries.sent(&bytes[..amount]);
            container.consume(amount);
        }
        let first = !boundaries.begun();
        client.write_all(&goaway(first, last_stream, refusal.code(), &refusal.to_string())).await
    };
    let told = timeout(LAST_FRAME, last_frame).await;
    drop(container);
    match told {
        Ok(Ok(())) => closing::finish(client).await,
        _ => closing::reset(client.tcp()),
    }
}

/// Watches a connection for silence.
#[derive(Default)]
struct Idle {
    /// The limit that runs since this count of bytes was seen.
    running: Option<(Duration, u64, Pin<Box<Sleep>>)>,
}

impl Idle {
    /// Ready when `moved`, a count of bytes, has not changed between two looks that lie the
    /// limit apart; so after one limit of silence at least and two at most.
    fn poll(&mut self, context: &mut Context<'_>, moved: u64, limit: Duration) -> Poll<()> {
        // Another one begins when a connection is closed in one direction.
        self.running = self.running.take().filter(|(running, ..)| *running == limit);
        let start = || (limit, moved, Box::pin(tokio::time::sleep(limit)));
        let (_, seen, sleep) = self.running.get_or_insert_with(start);
        loop {
            ready!(sleep.as_mut().poll(context));
            if *seen == moved {
                return Poll::Ready(());
            }
            *seen = moved;
            sleep.as_mut().reset(Instant::now() + limit);
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => formatter.write_str("both sides closed"),
            Self::TunnelEnded => formatter.write_str("the tunnel ended"),
            Self::Aborted => formatter.write_str("the gateway stopped"),
            Self::Idle => formatter.write_str("silent for too long"),
            Self::ClientBroke(error) => write!(formatter, "the client's connection broke: {error}"),
            Self::ContainerBroke(error) => {
                write!(formatter, "the container's connection broke: {error}")
            }
            Self::Refused(refusal) => refusal.fmt(formatter),
        }
    }
}
