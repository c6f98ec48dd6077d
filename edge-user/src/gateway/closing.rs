//! The ways to end a TCP connection: gently, abruptly, and how a socket is set up at its start.

use std::{io, net::Shutdown, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::buffered::Buffered;

/// How long a peer may take to fetch the last bytes.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// A client's end of a relayed connection.
pub(super) trait Client: AsyncBufRead + AsyncWrite + Unpin + Send {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
}

impl Client for Buffered {
    fn tcp(&self) -> &TcpStream {
        Buffered::tcp(self)
    }
}

impl Client for Box<TlsStream<Buffered>> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }
}

/// Sets what every relayed socket needs: no Nagle delay, and a probe of silent peers, so that
/// a machine that lost its power does not hold a connection for ever. A peer that answers
/// probes is never timed out.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30))
        .with_retries(8);
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Makes the close of `stream` a reset (RST).
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a socket could not be reset, it is closed instead");
    }
}

/// Ends `client` with all that was written, for TLS with close_notify.
pub(super) async fn finish(mut client: impl Client) {
    let finished = tokio::time::timeout(LAST_BYTES, client.shutdown()).await;
    if let Ok(Ok(())) = finished {
        drain(client).await;
    }
}

/// Ends `client` with all that was written, but visibly cut off: TLS without close_notify.
pub(super) async fn cut(mut client: impl Client) {
    let flushed = tokio::time::timeout(LAST_BYTES, client.flush()).await;
    if let Ok(Ok(())) = flushed
        && SockRef::from(client.tcp()).shutdown(Shutdown::Write).is_ok()
    {
        drain(client).await;
    }
}

/// Reads what still comes, for a while: closing a socket with unread bytes resets it, and a
/// reset overtakes the bytes that the peer has yet to fetch.
async fn drain(mut client: impl Client) {
    let to_the_end = async {
        while let Ok(bytes @ [_, ..]) = client.fill_buf().await {
            let amount = bytes.len();
            client.consume(amount);
        }
    };
    if tokio::time::timeout(LAST_BYTES, to_the_end).await.is_err() {
        tracing::trace!("the peer did not close in time");
    }
}
