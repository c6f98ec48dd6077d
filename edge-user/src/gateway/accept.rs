//! Accepting connections for as long as the gateway lives.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// First and longest pause after an error that will not go away by itself.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Hands each new connection to `take` until `shutdown`. No error ends the loop: one that
/// concerns a single connection is skipped, a lack of files or memory is waited out.
pub(super) async fn accept(
    listener: TcpListener,
    shutdown: CancellationToken,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut pause = PAUSE.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = PAUSE.0;
                take(stream, peer);
            }
            Err(error) if of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
            }
            Err(error) => {
                tracing::error!(%error, ?pause, "no connection can be accepted; if files are short, raise the limit on open files (ulimit -n)");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    tracing::info!("no longer accepting");
}

/// accept(2) also reports what became of the connection it would have returned.
fn of_one_connection(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPROTO
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::ENONET
                | Errno::ENOPROTOOPT
        )
    )
}
