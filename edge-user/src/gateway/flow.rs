//! One direction of a relayed connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::h2_guard::{H2Guard, Refusal};

/// Moves bytes from one side to the other. It owns no buffer: bytes are written from where
/// the reading side keeps them, unless a guard reads along.
pub(super) struct Flow<'a, C> {
    count: C,
    guard: Option<&'a mut H2Guard>,
    /// What the guard let pass and the writer has not taken yet.
    passed: BytesMut,
    moved: u64,
    unflushed: bool,
    phase: Phase,
    broken: Option<io::Error>,
}

enum Phase {
    Open,
    /// The reader is at its end; the writer has yet to be told.
    Closing,
    /// The writer broke. What the reader still says is thrown away: it may be busy saying it, and
    /// deaf meanwhile to what the other direction brings.
    Deaf,
    Ended,
}

/// What ends both directions at once.
#[derive(Debug)]
pub(super) enum Fault {
    /// The side that was read from is gone.
    Read(io::Error),
    /// The guard does not let the bytes pass.
    Refused(Refusal),
}

impl<'a, C: FnMut(&[u8])> Flow<'a, C> {
    /// A direction that tells `count` of each piece it has written.
    pub(super) fn new(count: C, guard: Option<&'a mut H2Guard>) -> Self {
        let passed = BytesMut::new();
        Self { count, guard, passed, moved: 0, unflushed: false, phase: Phase::Open, broken: None }
    }

    /// Moves what can be moved. Ready with `Ok` when this direction has ended.
    ///
    /// A writer that breaks ends only this direction: what it has sent before may still be on
    /// its way. `clean` says that the side read from did not break, so that its end is a real
    /// one and may be told to the writer.
    pub(super) fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        clean: bool,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncBufRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut reader = Pin::new(reader);
        let mut writer = Pin::new(writer);
        loop {
            match self.phase {
                Phase::Open => {
                    match ready!(self.step(context, reader.as_mut(), writer.as_mut()))? {
                        Ok(true) => {}
                        Ok(false) => self.phase = Phase::Closing,
                        Err(error) => self.end(Some(error)),
                    }
                }
                Phase::Closing if clean => {
                    let told = ready!(writer.as_mut().poll_shutdown(context));
                    self.end(told.err());
                }
                Phase::Closing => self.end(None),
                Phase::Deaf => match reader.as_mut().poll_fill_buf(context) {
                    Poll::Ready(Ok(bytes @ [_, ..])) => {
                        let amount = bytes.len();
                        reader.as_mut().consume(amount);
                    }
                    Poll::Ready(_) => self.phase = Phase::Ended,
                    Poll::Pending => return Poll::Ready(Ok(())),
                },
                Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Bytes written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether nothing more will be moved.
    pub(super) fn ended(&self) -> bool {
        matches!(self.phase, Phase::Deaf | Phase::Ended)
    }

    /// Why the writer broke, if it did.
    pub(super) fn broken(&self) -> Option<&io::Error> {
        self.broken.as_ref()
    }

    /// As [`Flow::broken`], given away.
    pub(super) fn take_broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    fn end(&mut self, broken: Option<io::Error>) {
        self.phase = if broken.is_some() { Phase::Deaf } else { Phase::Ended };
        self.broken = broken;
        self.passed = BytesMut::new();
    }

    /// One piece: `Ok(true)` if there may be more, `Ok(false)` at the reader's end, `Err` if
    /// the writer broke.
    fn step<R: AsyncBufRead, W: AsyncWrite>(
        &mut self,
        context: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        writer: Pin<&mut W>,
    ) -> Poll<Result<io::Result<bool>, Fault>> {
        if !self.passed.is_empty() {
            return match ready!(writer.poll_write(context, &self.passed)) {
                Ok(amount) => {
                    self.wrote(amount, None);
                    Poll::Ready(Ok(written(amount)))
                }
                Err(error) => Poll::Ready(Ok(Err(error))),
            };
        }
        let bytes = match reader.as_mut().poll_fill_buf(context) {
            Poll::Ready(Ok(bytes)) => bytes,
            // A TLS client that closed without close_notify.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => &[],
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Read(error))),
            Poll::Pending => {
                // Nothing to add: what TLS holds back has to go now.
                if self.unflushed {
                    if let Err(error) = ready!(writer.poll_flush(context)) {
                        return Poll::Ready(Ok(Err(error)));
                    }
                    self.unflushed = false;
                }
                self.passed = BytesMut::new();
                return Poll::Pending;
            }
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(Ok(false)));
        }
        if let Some(guard) = &mut self.guard {
            let verdict = guard.pass(bytes, &mut self.passed);
            let amount = bytes.len();
            reader.consume(amount);
            return Poll::Ready(verdict.map(|()| Ok(true)).map_err(Fault::Refused));
        }
        match ready!(writer.poll_write(context, bytes)) {
            Ok(amount) => {
                self.wrote(amount, Some(bytes));
                reader.consume(amount);
                Poll::Ready(Ok(written(amount)))
            }
            Err(error) => Poll::Ready(Ok(Err(error))),
        }
    }

    fn wrote(&mut self, amount: usize, bytes: Option<&[u8]>) {
        self.moved += amount as u64;
        self.unflushed = true;
        match bytes {
            Some(bytes) => (self.count)(&bytes[..amount]),
            None => {
                (self.count)(&self.passed[..amount]);
                self.passed.advance(amount);
            }
        }
    }
}

fn written(amount: usize) -> io::Result<bool> {
    if amount == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(true) }
}
