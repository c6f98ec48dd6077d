//! What clients themselves count, to be compared with what the daemon says.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::tls::{self, TlsStream};

/// Connections and payload bytes of one tunnel's clients. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// A reading of a [`Ledger`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Connections that were made.
    pub connections: u64,
    /// Payload bytes that clients wrote.
    pub sent: u64,
    /// Payload bytes that clients read.
    pub received: u64,
}

/// A connection whose payload is counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    ledger: Ledger,
}

/// A connection that can say that it has no more to send.
pub trait Finish: Read + Write {
    /// Ends what this side sends.
    ///
    /// # Errors
    /// If the other side is gone.
    fn finish(&mut self) -> io::Result<()>;
}

impl Ledger {
    /// Counts one connection, and from now on its bytes.
    pub fn enter<S>(&self, stream: S) -> Counted<S> {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Counted { stream, ledger: self.clone() }
    }

    /// What was counted so far.
    pub fn sum(&self) -> Sum {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sum {
            connections: of(&self.0.connections),
            sent: of(&self.0.sent),
            received: of(&self.0.received),
        }
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |all, one| Self {
            connections: all.connections + one.connections,
            sent: all.sent + one.sent,
            received: all.received + one.received,
        })
    }
}

impl<S: Read> Read for Counted<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.stream.read(buffer)?;
        self.ledger.0.received.fetch_add(amount as u64, Ordering::Relaxed);
        Ok(amount)
    }
}

impl<S: Write> Write for Counted<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let amount = self.stream.write(bytes)?;
        self.ledger.0.sent.fetch_add(amount as u64, Ordering::Relaxed);
        Ok(amount)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<S: Finish> Finish for Counted<S> {
    fn finish(&mut self) -> io::Result<()> {
        self.stream.finish()
    }
}

impl Finish for TcpStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Finish for TlsStream {
    fn finish(&mut self) -> io::Result<()> {
        tls::try_finish(self)
    }
}
