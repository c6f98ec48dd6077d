//! A gang's hold on its cluster: the call by which its members join, and the same call again when
//! a daemon that went away is back.

use std::time::Duration;

use backon::Retryable as _;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{
    client::{connect, refusal},
    hold::pauses,
};
use crate::{
    cli::Place,
    error::{Error, Kind},
    wire::admin::{
        EndMemberRequest, GatherEvent, GatherRequest, Gathered, Resume, gather_event::Event,
    },
};

/// How long a daemon that is away is waited for when a member has ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Members of a cluster that has begun.
pub struct Gathering {
    place: Place,
    request: GatherRequest,
    events: Streaming<GatherEvent>,
}

/// Why a call did not go on.
enum Loss {
    /// The daemon went away, or has not come back yet.
    Gone,
    /// The cluster is over, or never began.
    Over(Error),
}

impl Gathering {
    /// Joins, and returns when the cluster is whole.
    pub async fn take(place: &Place, request: GatherRequest) -> Result<(Gathered, Self), Error> {
        let (gathered, events) = again(place, &request).await?;
        // From now on only this cluster is meant, and there is nothing left to start.
        let request = GatherRequest { cluster: gathered.id.clone(), launch: None, ..request };
        Ok((gathered, Self { place: place.clone(), request, events }))
    }

    /// Returns why the cluster is over; says when all members that others brought have ended well.
    pub async fn keep(mut self, others_ended: CancellationToken) -> Error {
        loop {
            match next(&mut self.events).await {
                Ok(Event::OthersEnded(_)) => others_ended.cancel(),
                Err(Loss::Over(error)) => return error,
                Err(Loss::Gone) => match again(&self.place, &self.request).await {
                    Ok((_, events)) => self.events = events,
                    // It had begun, so this is no refusal.
                    Err(error) => return Error::relayed(Kind::Failure, error.to_string()),
                },
                // It repeats itself.
                Ok(Event::Gathered(_)) => {}
            }
        }
    }
}

/// A member's program has ended, well or for a reason. A daemon that does not come back finds out
/// by itself.
pub async fn end_member(place: &Place, member: Resume, failure: Option<String>) {
    let request = EndMemberRequest { member: Some(member), failure };
    let tell = || async {
        let mut client = connect(place).await.map_err(|_away| Loss::Gone)?;
        client.end_member(request.clone()).await.map_err(|status| Loss::of(&status))
    };
    let told = tell.retry(pauses().with_total_delay(Some(PATIENCE))).when(Loss::may_pass).await;
    if let Err(Loss::Over(error)) = told {
        tracing::debug!(%error, "the daemon does not hear how a member ended");
    }
}

/// Joins as often as the daemon goes away before it says anything.
async fn again(
    place: &Place,
    request: &GatherRequest,
) -> Result<(Gathered, Streaming<GatherEvent>), Error> {
    let join = || async {
        let mut client = connect(place).await.map_err(|_away| Loss::Gone)?;
        let answered = client.gather(request.clone()).await.map_err(|status| Loss::of(&status))?;
        let mut events = answered.into_inner();
        match next(&mut events).await? {
            Event::Gathered(gathered) => Ok((gathered, events)),
            Event::OthersEnded(_) => Err(Loss::stranger()),
        }
    };
    join.retry(pauses()).when(Loss::may_pass).await.map_err(|loss| match loss {
        Loss::Over(error) => error,
        Loss::Gone => Error::failure("daemon", "it went away", "start it with `edge up`"),
    })
}

async fn next(events: &mut Streaming<GatherEvent>) -> Result<Event, Loss> {
    match events.message().await {
        Ok(Some(GatherEvent { event: Some(event) })) => Ok(event),
        Ok(Some(GatherEvent { event: None })) => Err(Loss::stranger()),
        Ok(None) => Err(Loss::Gone),
        Err(status) => Err(Loss::of(&status)),
    }
}

impl Loss {
    fn stranger() -> Self {
        let remedy = "restart it with the `edge` that you typed";
        Self::Over(Error::failure("daemon", "it is of another version", remedy))
    }

    fn of(status: &Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled => Self::Gone,
            Code::Aborted => Self::Over(Error::relayed(Kind::Failure, status.message())),
            _ => Self::Over(refusal(status)),
        }
    }

    fn may_pass(&self) -> bool {
        matches!(self, Self::Gone)
    }
}
