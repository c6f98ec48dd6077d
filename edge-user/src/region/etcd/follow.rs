//! A watch that outlives its connections.
//!
//! A task of its own reads what etcd tells, so that a watcher that does not look neither holds up
//! the connection, which all share, nor lets etcd's own memory of it grow. What it has not looked
//! at is kept up to a bound; beyond that it is told a snapshot.

use std::{convert::Infallible, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::{Stream, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{EtcdError, calls::Calls, error::Failure, signed, unsigned};
use crate::region::store::{Change, Seen, StoreError};

/// Messages that a watcher may be behind, each of the writes of up to a thousand revisions.
const BEHIND: usize = 256;
/// For the first answer to a new watch.
const BEGIN: Duration = Duration::from_secs(8);
/// The longest between two attempts.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Follows one prefix.
pub(super) struct Follower {
    calls: Calls,
    prefix: String,
    /// Of the state that `seen` is of.
    life: String,
    /// All writes up to here have been told; none before the first snapshot.
    seen: Option<u64>,
    pauses: ExponentialBackoff,
    /// Whether the log says that the connection is lost.
    lost: bool,
}

/// Why a watch has to be begun anew, or not.
enum End {
    /// What was written since is not known.
    Behind,
    /// The connection.
    Lost(EtcdError),
    /// The watcher is told, and then no more.
    Failed(StoreError),
    /// Nobody watches any more.
    Unwatched,
}

type Told = mpsc::Sender<Result<Seen, StoreError>>;

impl Follower {
    pub(super) fn new(calls: Calls, life: String, prefix: &str, after: Option<u64>) -> Self {
        let prefix = prefix.to_owned();
        Self { calls, prefix, life, seen: after, pauses: pauses(), lost: false }
    }

    /// What it tells. Nothing happens before the first look at it.
    pub(super) fn watch(self) -> impl Stream<Item = Result<Seen, StoreError>> + Send + 'static {
        enum Watcher {
            Waiting(Box<Follower>),
            Watching(mpsc::Receiver<Result<Seen, StoreError>>, AbortOnDropHandle<()>),
        }
        stream::unfold(Watcher::Waiting(Box::new(self)), async |watcher| {
            let (mut seen, task) = match watcher {
                Watcher::Watching(seen, task) => (seen, task),
                Watcher::Waiting(follower) => {
                    let (told, seen) = mpsc::channel(BEHIND);
                    (seen, AbortOnDropHandle::new(tokio::spawn(follower.run(told))))
                }
            };
            Some((seen.recv().await?, Watcher::Watching(seen, task)))
        })
    }

    async fn run(mut self: Box<Self>, told: Told) {
        loop {
            let Err(end) = self.follow(&told).await;
            match end {
                End::Behind => self.seen = None,
                End::Lost(error) => {
                    if !self.lost {
                        tracing::warn!(%error, "a watch of the region's state is begun anew");
                    }
                    self.lost = true;
                    tokio::time::sleep(self.pauses.next().unwrap_or(LAST_PAUSE)).await;
                }
                End::Failed(error) => {
                    // A watcher that has gone need not know.
                    told.send(Err(error)).await.ok();
                    return;
                }
                End::Unwatched => return,
            }
        }
    }

    /// Tells what there is until something ends it.
    async fn follow(&mut self, told: &Told) -> Result<Infallible, End> {
        let (life, now) = self.calls.life().await?;
        // A revision that is yet to come is of another life of the state, too.
        if life != self.life || self.seen.is_some_and(|seen| seen > now) {
            self.seen = None;
        }
        self.life = life;
        let seen = match self.seen {
            Some(seen) => seen,
            None => self.tell_snapshot(told).await?,
        };
        let mut events = self.begin(seen).await?;
        loop {
            let message = match events.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.lost(Failure::cancelled("its stream is over"))),
                Err(error) => return Err(self.lost(error.into())),
            };
            if message.compact_revision() > 0 {
                return Err(End::Behind);
            }
            if message.canceled() {
                return Err(self.lost(Failure::cancelled(message.cancel_reason())));
            }
            if self.lost {
                tracing::info!(prefix = self.prefix, "the region's state is followed again");
            }
            (self.lost, self.pauses) = (false, pauses());
            self.tell(told, &message)?;
        }
    }

    /// A watch of what comes after this revision. It begins with the writes of the revision
    /// itself, which are left out again: where the very next write is a delete and etcd is
    /// compacted up to it, older releases leave it out in silence (etcd issue 18089), and all
    /// refuse to begin before it.
    async fn begin(&self, seen: u64) -> Result<WatchStream, End> {
        let key = self.calls.place().key(&self.prefix);
        let options = WatchOptions::new().with_prefix().with_start_revision(signed(seen.max(1)));
        let mut client = self.calls.client().watch_client().max_decoding_message_size(usize::MAX);
        match timeout(BEGIN, client.watch(key, Some(options))).await {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(error)) => Err(self.lost(error.into())),
            Err(_elapsed) => Err(self.lost(Failure::silence(BEGIN))),
        }
    }

    async fn tell_snapshot(&mut self, told: &Told) -> Result<u64, End> {
        // One who does not look is not told one snapshot after another.
        let place = told.reserve().await.map_err(|_closed| End::Unwatched)?;
        let snapshot = self.calls.snapshot(&self.prefix).await?;
        let revision = snapshot.revision;
        self.seen = Some(revision);
        place.send(Ok(Seen::Snapshot(snapshot)));
        Ok(revision)
    }

    fn tell(&mut self, told: &Told, message: &WatchResponse) -> Result<(), End> {
        let mut changes = Vec::new();
        for event in message.events() {
            let Some(row) = event.kv() else { continue };
            let revision = unsigned(row.mod_revision());
            // Also what a member that lags behind the last one tells again.
            if self.seen.is_some_and(|seen| revision <= seen) {
                continue;
            }
            changes.push(match event.event_type() {
                EventType::Put => {
                    let (key, entry) = self.calls.place().entry(row).map_err(End::Failed)?;
                    Change { key, revision, value: Some(entry.value) }
                }
                EventType::Delete => {
                    Change { key: self.calls.place().name(row.key()), revision, value: None }
                }
            });
        }
        let Some(last) = changes.last().map(|change| change.revision) else { return Ok(()) };
        match told.try_send(Ok(Seen::Changes(changes))) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(End::Behind),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(End::Unwatched),
        }
        self.seen = Some(last);
        Ok(())
    }

    fn lost(&self, failure: Failure) -> End {
        self.calls.asked(failure).into()
    }
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> Self {
        if error.may_pass() { Self::Lost(error) } else { Self::Failed(error.into()) }
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Etcd(error) => error.into(),
            error => Self::Failed(error),
        }
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(LAST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}
