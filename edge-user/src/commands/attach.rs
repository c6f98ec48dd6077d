//! `edge attach`: holds a namespace's place in the region while it runs.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::{
    client::{attach_request, connect, refusal},
    output::announcement,
};
use crate::{
    cli::{AttachArgs, Place},
    error::{Error, say},
    wire::admin::{AttachEvent, AttachRequest, attach_event::Event},
};

/// Attaches the namespace until SIGINT or SIGTERM, or until the daemon ends it.
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
        let reply = connect(place).await?.attach(request).await;
        hold(reply.map_err(|status| refusal(&status))?.into_inner()).await
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

async fn hold(mut events: Streaming<AttachEvent>) -> Result<(), Error> {
    while let Some(event) = events.message().await.map_err(|status| refusal(&status))? {
        match event.event {
            Some(Event::Attached(attached)) => {
                let container = attached.container.unwrap_or_default();
                say(format_args!(
                    "{} is attached: {}, {}",
                    container.name, container.ipv4, container.i6pn
                ));
            }
            Some(Event::Tunnel(tunnel)) => say(announcement(&tunnel)),
            Some(Event::Warning(text)) => say(text),
            // Of a newer daemon.
            None => {}
        }
    }
    Err(Error::failure(
        "daemon",
        "it ended the container's attachment",
        "see the log of `edge up`, and attach again",
    ))
}
