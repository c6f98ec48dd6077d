//! A TCP stream whose read buffer exists only while there is something to read.
//!
//! Most connections of a gateway are open and silent, so a buffer apiece would be most of its
//! memory; and rustls reads 4 KiB at a time, so without a buffer it would make a system call
//! for each.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use nix::{setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use super::client_hello::Wire;

/// Bytes read by one system call at most.
pub(super) const BUFFER: usize = 64 * 1024;

thread_local! {
    /// A buffer that nobody uses now: the next connection to read on this thread takes it, so that
    /// a request costs no allocation of this size.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// A TCP stream with a read buffer of [`BUFFER`] bytes, taken when bytes arrive and given back
/// when they are consumed.
#[derive(Debug)]
pub(super) struct Buffered {
    stream: TcpStream,
    unread: BytesMut,
}

impl Buffered {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, unread: BytesMut::new() }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Without bytes to keep.
    fn give_back(&mut self) {
        let buffer = mem::take(&mut self.unread);
        if buffer.capacity() > 0 {
            SPARE.set(buffer);
        }
    }
}

sockopt_impl!(
    /// How many bytes make a socket readable, but for its end (socket(7)).
    RcvLowat,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    i32
);

impl Wire for Buffered {
    fn wake_at(&mut self, bytes: usize) {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        if let Err(error) = setsockopt(&self.stream, RcvLowat, &bytes) {
            tracing::debug!(%error, "woken for less than is waited for");
        }
    }
}

impl AsyncBufRead for Buffered {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            if this.stream.poll_read_ready(context)?.is_pending() {
                this.give_back();
                return Poll::Pending;
            }
            if this.unread.capacity() == 0 {
                this.unread = SPARE.take();
            }
            this.unread.reserve(BUFFER);
            // Unlike try_read_buf, this takes a short read as the sign that no more is there
            // and saves the system call that would say so.
            match poll_read_buf(Pin::new(&mut this.stream), context, &mut this.unread)? {
                Poll::Ready(0) => break,
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(&this.unread))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.unread.advance(amount);
        if this.unread.is_empty() && amount > 0 {
            // Of a buffer that was read to its end, `capacity` would say that there is none.
            this.unread.reserve(1);
        }
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unread = ready!(self.as_mut().poll_fill_buf(context))?;
        let amount = unread.len().min(target.remaining());
        target.put_slice(&unread[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
