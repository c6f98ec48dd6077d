//! `edge attach`: holds a namespace's place in the region while it runs.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    client::{attach_request, connect},
    hold::Hold,
};
use crate::{
    cli::{AttachArgs, Place},
    error::{Error, say},
    wire::admin::AttachRequest,
};

/// Attaches the namespace until SIGINT or SIGTERM, or until the daemon ends it. While the daemon is
/// away the attachment waits for it; interrupted then, it ends with its lease.
pub async fn attach(place: &Place, args: &AttachArgs) -> Result<(), Error> {
    let netns = for_the_daemon(&args.netns).map_err(|e| {
        Error::failure(args.netns.display(), e, "`ip netns list` names those in /run/netns")
    })?;
    let netns = netns.into_os_string().into_string().map_err(|path| {
        Error::failure(path.display(), "the path is not UTF-8", "bind-mount it to one that is")
    })?;
    let request = AttachRequest { netns, ..attach_request(&args.container) };

    let stop = |kind| {
        signal(kind).map_err(|e| {
            Error::failure("signals", e, "raise the limit of open files (`ulimit -n`)")
        })
    };
    let mut interrupt = stop(SignalKind::interrupt())?;
    let mut terminate = stop(SignalKind::terminate())?;
    let hold = async {
        let (attached, hold) = Hold::take(connect(place).await?, place, request).await?;
        let container = attached.container.unwrap_or_default();
        say(format_args!("{} is attached: {}, {}", container.name, container.ipv4, container.i6pn));
        Err(hold.keep().await)
    };
    // Closing the call, as dropping it does, is what detaches.
    tokio::select! {
        ended = hold => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// The same file for a process with another working directory and another /proc/self. The last
/// part stays as it is: a namespace in /proc is a link to what no path leads to.
fn for_the_daemon(path: &Path) -> io::Result<PathBuf> {
    path.metadata()?;
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => {
            // Of a bare name the parent is empty, not the working directory.
            Ok(Path::new(".").join(directory).canonicalize()?.join(name))
        }
        _ => Err(io::ErrorKind::IsADirectory.into()),
    }
}
