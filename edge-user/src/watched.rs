//! Connections whose peers have a time to say what they want, and may be asked to leave.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::places::Turn;

/// What an HTTP/2 client begins with (RFC 9113, section 3.4), and its time for it. Afterwards
/// pings can find out whether it is there; before, nothing would.
const PREFACE: (usize, Duration) = (24, Duration::from_secs(10));

/// A stream that breaks when its deadline passes or when a newer one has taken its turn, and
/// what goes with it.
pub(crate) struct Watched<S, H> {
    stream: S,
    /// Given up when as many bytes have come as the deadline is for.
    deadline: Option<Deadline>,
    turn: Option<Turn<()>>,
    held: H,
}

struct Deadline {
    bytes: usize,
    at: Pin<Box<Sleep>>,
}

impl<S, H> Watched<S, H> {
    /// For a peer that has to send so many bytes within this time. Then it may stay.
    fn opening(stream: S, bytes: usize, within: Duration, held: H) -> Self {
        let deadline = Deadline { bytes, at: Box::pin(tokio::time::sleep(within)) };
        Self { stream, deadline: Some(deadline), turn: None, held }
    }

    /// For a peer that has to begin with HTTP/2's preface.
    pub(crate) fn http2(stream: S, held: H) -> Self {
        let (bytes, within) = PREFACE;
        Self::opening(stream, bytes, within, held)
    }

    /// For a peer whose connection lasts no longer than this and than its turn.
    pub(crate) fn passing(stream: S, life: Duration, turn: Turn<()>, held: H) -> Self {
        Self { turn: Some(turn), ..Self::opening(stream, usize::MAX, life, held) }
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// What goes with it.
    pub(crate) fn held(&self) -> &H {
        &self.held
    }

    fn broken(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(deadline) = &mut self.deadline
            && deadline.at.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its time is over"));
        }
        if let Some(turn) = &mut self.turn
            && turn.poll_displaced(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a newer one came"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Watched<S, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.broken(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let amount = buffer.filled().len() - before;
        if let Some(deadline) = &mut this.deadline {
            deadline.bytes = deadline.bytes.saturating_sub(amount);
            if deadline.bytes == 0 {
                this.deadline = None;
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Watched<S, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.broken(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.broken(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::places::Turnover;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_says_too_little_is_cut_off_and_who_says_enough_may_stay() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut watched = Watched::opening(stream, 2, SHORT, ());
        peer.write_all(b"x").await.unwrap();
        watched.read_u8().await.unwrap();
        assert_eq!(watched.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut peer, stream) = tokio::io::duplex(64);
        let mut watched = Watched::opening(stream, 2, SHORT, ());
        peer.write_all(b"xy").await.unwrap();
        watched.read_u16().await.unwrap();
        tokio::time::sleep(2 * SHORT).await;
        peer.write_all(b"z").await.unwrap();
        watched.read_u8().await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_reader_leaves_when_a_newer_one_comes() {
        let turnover = Turnover::new(1, 1);
        let (_peer, stream) = tokio::io::duplex(1);
        let life = Duration::from_secs(600);
        let mut watched = Watched::passing(stream, life, turnover.enter(()), ());
        let (written, _newer) = tokio::join!(watched.write_all(b"more than fits"), async {
            tokio::task::yield_now().await;
            turnover.enter(())
        });
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
