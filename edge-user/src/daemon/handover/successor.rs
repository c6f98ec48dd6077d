//! The new daemon's side of a handover.

use std::{io, path::Path};

use anyhow::Context as _;
use tokio_seqpacket::UnixSeqpacket;

use super::{Holdings, Message, PROTOCOL, receive, receive_soon, send, socket_path, unexpected};
use crate::error::{Error, Kind, causes};

/// A running daemon that waits for this one.
pub(in crate::daemon) struct Predecessor {
    channel: UnixSeqpacket,
}

impl Predecessor {
    /// Asks the running daemon, and takes what it gives; none if none runs.
    ///
    /// # Errors
    /// If it refuses, or goes away half-way.
    pub(in crate::daemon) async fn ask(run_dir: &Path) -> anyhow::Result<Option<(Self, Holdings)>> {
        let path = socket_path(run_dir);
        let channel = match UnixSeqpacket::connect(&path).await {
            Ok(channel) => channel,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{}: no handover", path.display()));
            }
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let taken = async {
            send(&channel, &Message::Hello { protocol: PROTOCOL, version }, None).await?;
            let mut holdings = Holdings::default();
            // The first comes when all that is under way there has finished.
            let mut next = receive(&channel).await?;
            loop {
                match next {
                    (Message::Holding { name }, Some(open)) => holdings.0.push((name, open)),
                    (Message::Waiting, _) => return Ok(Ok(holdings)),
                    (Message::Refused { why }, _) => return Ok(Err(why)),
                    (other, _) => return Err(unexpected(&other)),
                }
                next = receive_soon(&channel).await?;
            }
        };
        match taken.await.context("the running daemon does not hand over; restart it instead")? {
            Ok(holdings) => Ok(Some((Self { channel }, holdings))),
            Err(why) => Err(Error::relayed(Kind::Refused, why).into()),
        }
    }

    /// Says that this daemon could begin, and waits for its word.
    ///
    /// # Errors
    /// If the region is not this daemon's.
    pub(in crate::daemon) async fn relieve(&self) -> anyhow::Result<()> {
        let relieved = async {
            send(&self.channel, &Message::Ready, None).await?;
            match receive_soon(&self.channel).await?.0 {
                Message::Yours => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        relieved.await.context("the running daemon keeps the region; see its log")
    }

    /// Says that everything ends, also what it still drains.
    pub(in crate::daemon) async fn dismiss(&self) {
        // It may have ended long ago.
        send(&self.channel, &Message::Dismissed, None).await.ok();
    }

    /// Says why this daemon goes.
    pub(in crate::daemon) async fn fail(&self, error: &anyhow::Error) {
        let why = causes(error.as_ref());
        // It finds out anyway, as this process ends.
        send(&self.channel, &Message::Failed { why }, None).await.ok();
    }
}
