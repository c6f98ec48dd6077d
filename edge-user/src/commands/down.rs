//! `edge down`: ends a daemon and everything of it, or removes what a dead one left.

use std::process::ExitCode;

use tonic::transport::Channel;

use super::{
    client::{connect, refusal},
    output,
};
use crate::{
    cli::Place,
    daemon,
    error::{Error, Kind},
    wire::admin::{DownRequest, admin_client::AdminClient},
};

/// Ends what there is, says what it was, and returns when it is gone.
pub async fn down(place: Place) -> anyhow::Result<ExitCode> {
    let absent = match connect(&place).await {
        Ok(client) => return Ok(ask(client).await.map(|()| ExitCode::SUCCESS)?),
        Err(absent) => absent,
    };
    let removed = match daemon::clear(&place).await {
        Ok(removed) => removed,
        // There is one, then; why it does not answer is what matters.
        Err(error) if error.downcast_ref().map(Error::kind) == Some(Kind::Refused) => {
            return Err(absent.into());
        }
        Err(error) => return Err(error),
    };
    for one in &removed {
        print(one)?;
    }
    if removed.is_empty() {
        let name = place.instance.as_str();
        output::print(format_args!("daemon {name:?}: none runs, and none left anything"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(mut client: AdminClient<Channel>) -> Result<(), Error> {
    let reply = client.down(DownRequest {}).await.map_err(|status| refusal(&status))?;
    let mut events = reply.into_inner();
    while let Some(event) = events.message().await.map_err(|status| refusal(&status))? {
        if event.removed.is_empty() {
            return Ok(());
        }
        print(&event.removed)?;
    }
    Err(Error::failure("daemon", "it ended before its work was done", "give the command again"))
}

fn print(removed: &str) -> Result<(), Error> {
    output::print(format_args!("removed {removed}"))
}
