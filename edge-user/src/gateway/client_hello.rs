//! The first message of a TLS client, read before it is known whose certificate to show.

use std::{io, time::Duration};

use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{buffered::Buffered, closing, metrics::Handshake};

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
    let mut acceptor = Acceptor::default();
    let hello = async {
        let mut read = 0;
        loop {
            let Ok(mut bytes @ [_, ..]) = stream.fill_buf().await else {
                return Err(Bad::Closed);
            };
            let available = bytes.len();
            // Reading from memory fails for one reason: rustls has no room left.
            if acceptor.read_tls(&mut bytes).is_err() {
                return Err(Bad::TooLong);
            }
            let taken = available - bytes.len();
            stream.consume(taken);
            read += taken;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) if read > limits.bytes => return Err(Bad::TooLong),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    let written: io::Result<()> = alert.write_all(&mut bytes);
                    tracing::debug!(%error, alert = written.is_ok(), "no ClientHello");
                    return Err(Bad::Hello(bytes));
                }
            }
        }
    };
    match timeout(limits.within, hello).await {
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

/// Says that no such name is known here, and hangs up.
pub(super) async fn refuse_name(hello: Box<Hello>) {
    refuse(hello, UNRECOGNIZED_NAME).await;
}

/// Sends a fatal alert of this description, and hangs up: in a record of TLS 1.2, which clients
/// of every version read before keys are agreed on.
pub(super) async fn refuse(hello: Box<Hello>, description: u8) {
    answer(hello.stream, &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description]).await;
}

enum Bad {
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
