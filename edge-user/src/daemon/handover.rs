//! One daemon takes over from another of the same name, and refuses nobody meanwhile.
//!
//! They talk over a socket in the run directory, one JSON value a packet:
//!
//! 1. the *successor* says hello;
//! 2. the *predecessor* stops changing anything, closes its stores (packets and relayed bytes go
//!    on), and gives what it holds: each listening socket, and the file whose lock says that a
//!    daemon of this name runs, which thereby is never free;
//! 3. the successor opens the stores, adopts what there is, and says that it is ready;
//! 4. the predecessor says that the region is the successor's. Only now does that one accept.
//!
//! Clients that connect meanwhile wait in the queues of sockets that both hold. Until step 4 the
//! region is the predecessor's, which takes its stores up again should the successor fail.

pub(super) mod predecessor;
pub(super) mod successor;

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_seqpacket::{
    UnixSeqpacket,
    ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage},
};

/// The conversation that is spoken here; another one is refused by its number.
const PROTOCOL: u32 = 1;
/// Bytes of a message; a sentence is the longest.
const MESSAGE: usize = 16 * 1024;
/// For an answer that needs no work.
const ANSWER: Duration = Duration::from_secs(5);

/// What one daemon says to the other.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Successor: may I?
    Hello { protocol: u32, version: String },
    /// Predecessor: no, for this reason.
    Refused { why: String },
    /// Predecessor: this is yours, too. Comes with one descriptor.
    Holding { name: String },
    /// Predecessor: that was all, and my stores are closed.
    Waiting,
    /// Successor: I have everything, and could begin.
    Ready,
    /// Successor: I go, for this reason.
    Failed { why: String },
    /// Predecessor: the region is yours.
    Yours,
    /// Successor, at any time after that: everything ends, so stop draining.
    Dismissed,
}

/// What a daemon holds open and a successor goes on with, by name.
#[derive(Debug, Default)]
pub(super) struct Holdings(Vec<(String, OwnedFd)>);

impl Holdings {
    /// Holds what is open there under another descriptor.
    pub(super) fn keep(&mut self, name: &str, open: &impl AsFd) -> io::Result<()> {
        self.0.push((name.to_owned(), open.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    /// Takes out all of a name, in the order in which they were kept.
    pub(super) fn take(&mut self, name: &str) -> impl Iterator<Item = OwnedFd> + use<> {
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|(other, _)| other == name);
        self.0 = left;
        taken.into_iter().map(|(_, open)| open)
    }
}

/// The socket of the conversation.
pub(super) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("handover.sock")
}

async fn send(
    channel: &UnixSeqpacket,
    message: &Message,
    with: Option<&OwnedFd>,
) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    let mut room = [0; 64];
    let mut ancillary = AncillaryMessageWriter::new(&mut room);
    if let Some(open) = with {
        ancillary.add_fds([open.as_fd()]).map_err(io::Error::other)?;
    }
    channel.send_vectored_with_ancillary(&[IoSlice::new(&packet)], &mut ancillary).await?;
    Ok(())
}

/// The next message, and what came with it; `UnexpectedEof` if the other side is gone.
async fn receive(channel: &UnixSeqpacket) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut packet = vec![0; MESSAGE];
    let mut room = [0; 64];
    let (info, ancillary) = channel
        .recv_vectored_with_ancillary(&mut [IoSliceMut::new(&mut packet)], &mut room)
        .await?;
    let length = info.bytes_read();
    let open = ancillary.into_messages().find_map(|message| match message {
        OwnedAncillaryMessage::FileDescriptors(mut all) => all.next(),
        _ => None,
    });
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other daemon is gone"));
    }
    Ok((serde_json::from_slice(&packet[..length])?, open))
}

/// The same, of a daemon that has nothing to do but answer.
async fn receive_soon(channel: &UnixSeqpacket) -> io::Result<(Message, Option<OwnedFd>)> {
    let late = |_elapsed| io::Error::new(io::ErrorKind::TimedOut, "the other daemon is silent");
    timeout(ANSWER, receive(channel)).await.map_err(late)?
}

fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected in a handover: {message:?}"))
}
