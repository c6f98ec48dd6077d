//! The first message of a TLS client, read before it is known whose certificate to show.

use std::{io, time::Duration};

use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{buffered::Buffered, closing, metrics::Handshake};

/// Bytes before those of a record: its type, version and length (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;

/// The alert `unrecognized_name` (RFC 6066, section 3).
const UNRECOGNIZED_NAME: u8 = 112;

/// A client that has said whom it wants.
pub(super) struct Hello {
    /// The handshake so far.
    pub(super) accepted: Accepted,
    /// The connection, read up to the end of the hello at least.
    pub(super) stream: Buffered,
}

/// Bounds on a hello.
#[derive(Debug, Clone, Copy)]
pub(super) struct HelloLimits {
    /// Time from the first byte waited for to the last of the hello.
    pub(super) within: Duration,
    /// Bytes on the wire, record headers included.
    pub(super) bytes: usize,
}

/// Reads a ClientHello, in however many segments and records it comes. A client that sends
/// none has been answered and hung up on when this returns the outcome to count.
pub(super) async fn read(
    mut stream: Buffered,
    limits: HelloLimits,
) -> Result<Box<Hello>, Handshake> {
    match timeout(limits.within, accept(&mut stream, limits.bytes)).await {
        Ok(Ok(accepted)) => Ok(Box::new(Hello { accepted, stream })),
        Ok(Err(Bad::Hello(alert))) => {
            answer(stream, &alert).await;
            Err(Handshake::Malformed)
        }
        Ok(Err(Bad::TooLong)) => Err(Handshake::TooLong),
        Ok(Err(Bad::Closed)) => Err(Handshake::Closed),
        Err(_) => Err(Handshake::Timeout),
    }
}

/// What a hello is read from.
pub(super) trait Wire: AsyncBufRead + Unpin {
    /// Says how many bytes have to be there before it is worth being woken for them.
    fn wake_at(&mut self, bytes: usize);
}

/// The hello of whoever writes into `stream`, with no more than `limit` bytes taken before it is
/// whole, give or take what comes at once.
///
/// One that comes in pieces is waited for by the record, so that who sends a byte at a time
/// costs no more than who sends all at once.
pub(super) async fn accept(stream: &mut impl Wire, limit: usize) -> Result<Accepted, Bad> {
    let mut in_pieces = false;
    let mut records = Records::default();
    let mut acceptor = Acceptor::default();
    let mut read = 0;
    loop {
        let Ok(available @ [_, ..]) = stream.fill_buf().await else {
            return Err(Bad::Closed);
        };
        let mut bytes = available;
        // Reading from memory fails for one reason: rustls has no room left.
        if acceptor.read_tls(&mut bytes).is_err() {
            return Err(Bad::TooLong);
        }
        let taken = available.len() - bytes.len();
        records.pass(&available[..taken]);
        stream.consume(taken);
        read += taken;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                if in_pieces {
                    stream.wake_at(1);
                }
                return Ok(accepted);
            }
            Ok(None) if read > limit => return Err(Bad::TooLong),
            Ok(None) => {
                in_pieces = true;
                stream.wake_at(records.missing());
            }
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                let written: io::Result<()> = alert.write_all(&mut bytes);
                tracing::debug!(%error, alert = written.is_ok(), "no ClientHello");
                return Err(Bad::Hello(bytes));
            }
        }
    }
}

/// Where in a record the bytes end that have passed.
#[derive(Debug, Default)]
struct Records {
    /// As much of the record's header as has passed.
    header: [u8; RECORD_HEADER],
    /// Bytes of the record that have passed, those of its header included.
    passed: usize,
}

impl Records {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.missing()));
            if self.passed < RECORD_HEADER {
                self.header[self.passed..][..now.len()].copy_from_slice(now);
            }
            self.passed += now.len();
            if self.passed >= RECORD_HEADER && self.missing() == 0 {
                *self = Self::default();
            }
            bytes = rest;
        }
    }

    /// Bytes that are missing of the header, or once it is there of the record.
    fn missing(&self) -> usize {
        if self.passed < RECORD_HEADER {
            return RECORD_HEADER - self.passed;
        }
        let [.., high, low] = self.header;
        RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])) - self.passed
    }
}

/// Says that no such name is known here, and hangs up.
pub(super) async fn refuse_name(hello: Box<Hello>) {
    refuse(hello, UNRECOGNIZED_NAME).await;
}

/// Sends a fatal alert of this description, and hangs up: in a record of TLS 1.2, which clients
/// of every version read before keys are agreed on.
pub(super) async fn refuse(hello: Box<Hello>, description: u8) {
    answer(hello.stream, &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description]).await;
}

/// Why there is no hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Closed,
    TooLong,
    /// Not TLS, or TLS that rustls rejects: with the alert to send.
    Hello(Vec<u8>),
}

async fn answer(mut stream: Buffered, alert: &[u8]) {
    // A few bytes into an empty send buffer: nothing to wait for.
    if stream.write_all(alert).await.is_ok() {
        closing::finish(stream).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

    use super::{Records, Wire, accept};

    /// A socket at whose other end somebody writes a byte at a time, as the kernel shows it.
    struct Dribble {
        bytes: Vec<u8>,
        wake_at: usize,
        woken: usize,
    }

    impl Wire for Dribble {
        fn wake_at(&mut self, bytes: usize) {
            self.wake_at = bytes;
        }
    }

    impl AsyncBufRead for Dribble {
        fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            let this = self.get_mut();
            this.woken += 1;
            Poll::Ready(Ok(&this.bytes[..this.wake_at.min(this.bytes.len())]))
        }

        fn consume(mut self: Pin<&mut Self>, amount: usize) {
            self.bytes.drain(..amount);
        }
    }

    impl AsyncRead for Dribble {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            unreachable!("a hello is read by the buffer")
        }
    }

    #[tokio::test]
    async fn a_hello_that_comes_byte_by_byte_wakes_three_times() {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
        let name = ServerName::try_from("a.example.com").unwrap();
        let config = Arc::new(config.with_no_client_auth());
        let mut bytes = Vec::new();
        ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
        let mut wire = Dribble { bytes, wake_at: 1, woken: 0 };
        let accepted = accept(&mut wire, 64 * 1024).await.unwrap();
        assert_eq!(accepted.client_hello().server_name(), Some("a.example.com"));
        assert_eq!(wire.woken, 3, "for its first byte, its header and the record");
        assert_eq!(wire.wake_at, 1, "what comes next is somebody else's");
        assert!(wire.bytes.is_empty());
    }

    #[test]
    fn what_is_missing_does_not_depend_on_the_pieces() {
        // Records of 3, 0 and 300 bytes, and the beginning of a header.
        let mut bytes = vec![22, 3, 1, 0, 3, 0, 0, 0, 22, 3, 1, 0, 0, 22, 3, 1, 1, 44];
        bytes.resize(bytes.len() + 300, 0);
        bytes.extend([22, 3]);
        let mut one_by_one = Records::default();
        for (end, byte) in bytes.iter().enumerate() {
            let missing = match end {
                0..5 => 5 - end,
                5..8 => 8 - end,
                8..13 => 13 - end,
                13..18 => 18 - end,
                18..318 => 318 - end,
                _ => 323 - end,
            };
            assert_eq!(one_by_one.missing(), missing, "before byte {end}");
            let mut at_once = Records::default();
            at_once.pass(&bytes[..end]);
            assert_eq!(at_once.missing(), missing, "after {end} bytes");
            one_by_one.pass(std::slice::from_ref(byte));
        }
    }
}
