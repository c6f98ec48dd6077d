//! The running daemon's side of a handover.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;
use tokio_seqpacket::{UCred, UnixSeqpacket, UnixSeqpacketListener};

use super::{Holdings, Message, PROTOCOL, receive, receive_soon, send, socket_path, unexpected};
use crate::host::netns::NetNs;

/// For a successor to adopt everything. One that takes longer is ended: meanwhile nothing can be
/// started or stopped.
const ADOPTION: Duration = Duration::from_secs(60);

/// Where successors ask.
pub(in crate::daemon) struct Door(UnixSeqpacketListener);

/// A successor that asks.
pub(in crate::daemon) struct Successor {
    channel: UnixSeqpacket,
    /// Who it is.
    pub(in crate::daemon) pid: i32,
    /// Its version of edge.
    pub(in crate::daemon) version: String,
}

impl Door {
    /// Makes the socket, for root only; or goes on with an earlier daemon's.
    pub(in crate::daemon) fn open(
        run_dir: &Path,
        inherited: Option<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let path = socket_path(run_dir);
        let make = || {
            if let Some(open) = inherited {
                return UnixSeqpacketListener::try_from(open);
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixSeqpacketListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        make().map(Self).with_context(|| format!("{}: the socket cannot be made", path.display()))
    }

    /// For the holdings.
    pub(in crate::daemon) fn listener(&self) -> &UnixSeqpacketListener {
        &self.0
    }

    /// The next successor. Whoever may not be one is turned away.
    pub(in crate::daemon) async fn next(&mut self) -> Successor {
        loop {
            let greeted = match self.0.accept().await {
                Ok(channel) => greet(channel).await,
                Err(error) => Err(error),
            };
            match greeted {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::warn!(%error, "a handover was asked for and refused");
                    // Without a pause, running out of open files would keep a processor busy.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn greet(channel: UnixSeqpacket) -> io::Result<Successor> {
    let peer: UCred = channel.peer_cred()?;
    let pid = peer.pid().filter(|pid| *pid > 0);
    let (0, Some(pid)) = (peer.uid(), pid) else {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("process {pid:?} of user {} is not root here", peer.uid()),
        ));
    };
    match receive_soon(&channel).await?.0 {
        Message::Hello { protocol: PROTOCOL, .. } if !in_our_network(pid) => {
            let why = "the successor is in another network namespace; start it where the running \
                       daemon is";
            send(&channel, &Message::Refused { why: why.into() }, None).await?;
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
        Message::Hello { protocol: PROTOCOL, version } => Ok(Successor { channel, pid, version }),
        Message::Hello { protocol, version } => {
            let why = format!(
                "edge {version} hands over by protocol {protocol}, the running edge {} by \
                 {PROTOCOL}; restart the daemon instead",
                env!("CARGO_PKG_VERSION")
            );
            send(&channel, &Message::Refused { why: why.clone() }, None).await?;
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
        other => Err(unexpected(&other)),
    }
}

/// Elsewhere it would find nothing of what it is to take up, and believe that all of it is gone.
fn in_our_network(pid: i32) -> bool {
    let theirs = u32::try_from(pid).map_err(io::Error::other).and_then(NetNs::of_process);
    let same = theirs.and_then(|theirs| Ok(theirs.identity()? == NetNs::current()?.identity()?));
    same.unwrap_or_default()
}

impl Successor {
    /// Gives it everything and waits until it could begin. The stores must be closed.
    ///
    /// # Errors
    /// Why it will not. It has ended then, or is about to, and lets go of the stores.
    pub(in crate::daemon) async fn prepare(&self, holdings: &Holdings) -> io::Result<()> {
        let prepared = async {
            for (name, open) in &holdings.0 {
                let message = Message::Holding { name: name.clone() };
                send(&self.channel, &message, Some(open)).await?;
            }
            send(&self.channel, &Message::Waiting, None).await?;
            match receive(&self.channel).await?.0 {
                Message::Ready => Ok(()),
                Message::Failed { why } => Err(io::Error::other(why)),
                other => Err(unexpected(&other)),
            }
        };
        timeout(ADOPTION, prepared).await.unwrap_or_else(|_elapsed| {
            // Its connection is open, so the number is still its own.
            kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it was not ready within {ADOPTION:?}, and was ended"),
            ))
        })
    }

    /// Tells it that the region is its own.
    ///
    /// # Errors
    /// It is gone, and the region is not its own.
    pub(in crate::daemon) async fn begin(&self) -> io::Result<()> {
        send(&self.channel, &Message::Yours, None).await
    }

    /// Waits until it says that everything ends; for ever if it goes without a word.
    pub(in crate::daemon) async fn dismissed(&self) {
        if !matches!(receive(&self.channel).await, Ok((Message::Dismissed, _))) {
            std::future::pending().await
        }
    }
}
