//! A container's hold on its daemon: the call that keeps the container, and the same container
//! claimed again when a daemon that went away is back.

use std::{collections::BTreeMap, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    client::{connect, refusal},
    output::announcement,
};
use crate::{
    cli::Place,
    error::{Error, Kind, say},
    wire::admin::{
        AttachEvent, AttachRequest, Attached, Resume, admin_client::AdminClient,
        attach_event::Event,
    },
};

/// For the daemon to wire a namespace; it takes milliseconds.
const ANSWER: Duration = Duration::from_secs(30);
/// Between attempts to reach a daemon that is gone: at first, and at last. A random part of up to
/// as much again is added, so that a machine's containers do not come all at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(500));

/// The call that keeps a container, and what is needed to make it again.
pub struct Hold {
    place: Place,
    request: AttachRequest,
    events: Streaming<AttachEvent>,
    /// What people were last told of each of its ports.
    announced: BTreeMap<u32, String>,
}

/// Why a call did not go on.
enum Loss {
    /// The daemon went away, or has not come back yet.
    Gone(Code, String),
    /// It is there, and does not keep the container.
    Refused(Error),
}

impl Hold {
    /// Asks the daemon for a container. The namespace is wired when this returns.
    pub async fn take(
        client: AdminClient<Channel>,
        place: &Place,
        request: AttachRequest,
    ) -> Result<(Attached, Self), Error> {
        let mut answered = ask(client, &request).await;
        // It is handing over: nothing has begun, and its successor is there in a moment.
        if matches!(answered, Err(Loss::Gone(Code::Unavailable, _))) {
            answered = ask(connect(place).await?, &request).await;
        }
        let (attached, events) = answered.map_err(|loss| match loss {
            Loss::Refused(error) => error,
            // The daemon's own sentence.
            Loss::Gone(Code::Internal, text) => Error::relayed(Kind::Failure, text),
            Loss::Gone(_, cause) => Error::failure("daemon", cause, "see the log of `edge up`"),
        })?;
        let mut hold =
            Self { place: place.clone(), request, events, announced: BTreeMap::default() };
        hold.remember(&attached);
        Ok((attached, hold))
    }

    /// Says what there is to say of the container's tunnels and of the daemon, for as long as the
    /// container is the daemon's; returns why it no longer is.
    pub async fn keep(mut self) -> Error {
        loop {
            match self.follow().await {
                Loss::Refused(error) => return error,
                Loss::Gone(_, cause) => say(format_args!(
                    "daemon: it is gone ({cause}); raw TCP tunnels go on in the kernel, TLS \
                     tunnels are back when it is"
                )),
            }
            let claimed = (|| self.claim()).retry(pauses()).when(Loss::may_pass).await;
            match claimed {
                Ok((attached, events)) => {
                    self.events = events;
                    self.remember(&attached);
                    say("daemon: it is back");
                }
                Err(Loss::Refused(error)) => return error,
                Err(Loss::Gone(_, cause)) => {
                    return Error::failure("daemon", cause, "start it with `edge up`");
                }
            }
        }
    }

    /// Until the call ends.
    async fn follow(&mut self) -> Loss {
        loop {
            match self.events.message().await {
                Ok(Some(event)) => self.announce(event.event),
                Ok(None) => {
                    let cause = "it stopped, and left the container to the next one";
                    return Loss::Gone(Code::Ok, cause.to_owned());
                }
                Err(status) => return Loss::of(&status),
            }
        }
    }

    /// Claims the container from whatever daemon is there now.
    async fn claim(&self) -> Result<(Attached, Streaming<AttachEvent>), Loss> {
        let client = connect(&self.place).await;
        let client = client.map_err(|error| Loss::Gone(Code::Unavailable, error.to_string()))?;
        ask(client, &self.request).await
    }

    /// From now on the call asks for this container.
    fn remember(&mut self, attached: &Attached) {
        let id = attached.container.as_ref().map(|container| container.id.clone());
        self.request.resume =
            Some(Resume { container: id.unwrap_or_default(), token: attached.token.clone() });
    }

    fn announce(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Tunnel(tunnel)) => {
                let text = announcement(&tunnel);
                let known = self.announced.insert(tunnel.port, text.clone());
                if known.as_ref() != Some(&text) {
                    say(text);
                }
            }
            Some(Event::Warning(text)) => say(text),
            // Of a newer daemon, or one that repeats itself.
            Some(Event::Attached(_)) | None => {}
        }
    }
}

/// Between attempts to reach a daemon that is gone, without end.
pub(super) fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_jitter()
        .without_max_times()
}

/// One call of Attach, up to its first event.
async fn ask(
    mut client: AdminClient<Channel>,
    request: &AttachRequest,
) -> Result<(Attached, Streaming<AttachEvent>), Loss> {
    let answered = async {
        let reply = client.attach(request.clone()).await.map_err(|status| Loss::of(&status))?;
        let mut events = reply.into_inner();
        match events.message().await.map_err(|status| Loss::of(&status))? {
            Some(AttachEvent { event: Some(Event::Attached(attached)) }) => Ok((attached, events)),
            _ => Err(Loss::Gone(Code::Ok, "it ended the call without an answer".to_owned())),
        }
    };
    let late = |_elapsed| {
        Loss::Gone(Code::DeadlineExceeded, format!("no answer to Attach within {ANSWER:?}"))
    };
    timeout(ANSWER, answered).await.map_err(late)?
}

impl Loss {
    /// What the end of a call means: the daemon's own words are a refusal, all else is a daemon
    /// that went away.
    fn of(status: &Status) -> Self {
        match status.code() {
            Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded => Self::Gone(status.code(), status.message().to_owned()),
            _ => Self::Refused(refusal(status)),
        }
    }

    fn may_pass(&self) -> bool {
        matches!(self, Self::Gone(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemons_own_no_is_final() {
        assert!(Loss::of(&Status::unavailable("replaced")).may_pass());
        assert!(Loss::of(&Status::unknown("broken pipe")).may_pass());
        assert!(!Loss::of(&Status::not_found("container: its lease is over; …")).may_pass());
        assert!(!Loss::of(&Status::aborted("container: ended by the operator; …")).may_pass());
    }
}
