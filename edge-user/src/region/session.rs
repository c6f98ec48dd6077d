//! A host's session at a gateway: it is kept present, and told what concerns it.
//!
//! What is told is the difference between the view that was told last and what the mirror shows
//! now. So a host that reads slowly gets fewer and larger messages, and there is no queue that
//! could overflow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    claims::{Arrival, Claims},
    convert,
    identity::Peer,
    mirror::Mirror,
    roster::ContainerRecord,
    store::StoreError,
    view::View,
};
use crate::{
    error::causes,
    wire::region::{
        Announcement, Changes, Refused, SessionEvent, SessionRequest, Welcome,
        session_event::Event, session_request::Request,
    },
};

/// How long a new session may take to announce itself.
const ANNOUNCE: Duration = Duration::from_secs(10);
/// Changes that come within this time go out as one message; and within so much more for each
/// machine of the region, since each is told: else a thousand that come at once would be told of
/// one another one by one.
const PACE: Duration = Duration::from_millis(10);
const PACE_EACH: Duration = Duration::from_micros(100);

/// Where a session's events go.
pub(super) type Events = mpsc::Sender<Result<SessionEvent, Status>>;

/// What a session works with.
pub(super) struct Session {
    pub(super) claims: Arc<Claims>,
    pub(super) mirror: Arc<Mirror>,
    pub(super) sessions: Sessions,
    pub(super) peer: Arc<Peer>,
    pub(super) events: Events,
    pub(super) shutdown: CancellationToken,
}

/// The sessions of a gateway, by host. Clones are the same sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<u16, Progress>>>);

/// How far a host has followed.
#[derive(Debug, Clone, Copy)]
struct Progress {
    sent: (u64, Instant),
    seen: u64,
}

impl Sessions {
    /// How old the oldest message is that the host has not taken in yet: zero for one that is up
    /// to date, none for one without a session at this gateway.
    pub fn lag(&self, host: u16) -> Option<Duration> {
        let Progress { sent: (revision, at), seen } = *self.all().get(&host)?;
        Some(if seen >= revision { Duration::ZERO } else { at.elapsed() })
    }

    fn sent(&self, host: u16, revision: u64) {
        let mut all = self.all();
        let progress =
            all.entry(host).or_insert(Progress { sent: (revision, Instant::now()), seen: 0 });
        // The oldest that is on its way counts.
        if progress.seen >= progress.sent.0 {
            progress.sent = (revision, Instant::now());
        }
    }

    fn seen(&self, host: u16, revision: u64) {
        if let Some(progress) = self.all().get_mut(&host) {
            progress.seen = revision;
        }
    }

    fn ended(&self, host: u16) {
        self.all().remove(&host);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u16, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Lasts until the host goes, falls silent or comes anew elsewhere, or the gateway stops.
    pub(super) async fn run(self, mut requests: Streaming<SessionRequest>) {
        let host = self.peer.id;
        let why = match self.serve(&mut requests).await {
            Ok(why) => why,
            Err(status) => {
                let why = status.message().to_owned();
                // A host that is gone needs no answer.
                self.events.send(Err(status)).await.ok();
                why
            }
        };
        self.sessions.ended(host);
        tracing::info!(host, why, "a session has ended");
    }

    async fn serve(&self, requests: &mut Streaming<SessionRequest>) -> Result<String, Status> {
        let announcement = self.announcement(requests).await?;
        let containers = announcement.containers.iter().map(convert::read_container);
        let containers = containers.collect::<Result<Vec<ContainerRecord>, _>>()?;
        let about = convert::about(&announcement)?;
        let arrival = self.claims.arrive(self.peer.id, about, containers).await?;
        tracing::info!(host = self.peer.id, version = announcement.version, "a session begins");

        let mut revisions = self.mirror.revisions();
        let session = arrival.presence.session;
        let arrived = revisions.wait_for(|_| self.present() == Some(session));
        if !matches!(tokio::time::timeout(ANNOUNCE, arrived).await, Ok(Ok(_))) {
            return Err(Status::unavailable(
                "the gateway does not see its own store; it may be busy",
            ));
        }
        let mut shown = self.mirror.read(|state| state.concerning(self.peer.id));
        self.tell(shown.revision, Event::Welcome(self.welcome(&arrival))).await?;
        self.tell(shown.revision, Event::Snapshot(convert::snapshot(&shown))).await?;

        let lease = self.claims.terms().lease;
        let mut beat = tokio::time::interval(lease / 3);
        let mut heard = Instant::now();
        let mut stayed: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = revisions.changed() => {
                    tokio::time::sleep(pace(shown.hosts.len())).await;
                    revisions.mark_unchanged();
                    self.still(session)?;
                    self.show(&mut shown).await?;
                }
                request = requests.next() => match request {
                    Some(Ok(SessionRequest { request: Some(Request::Seen(seen)) })) => {
                        heard = Instant::now();
                        self.sessions.seen(self.peer.id, seen.revision);
                        // It says so after each message, and the store would have little else to do.
                        if stayed.is_none_or(|stayed| stayed.elapsed() > lease / 6) {
                            stayed = Some(heard);
                            self.stay(&arrival).await?;
                        }
                    }
                    Some(Ok(SessionRequest { request: Some(Request::Leave(_)) })) => {
                        self.claims.leave(&arrival).await.map_err(unavailable)?;
                        return Ok("the host leaves".to_owned());
                    }
                    Some(Ok(_)) => return Err(Status::invalid_argument(
                        "a session is announced once; run the same version of edge on all machines",
                    )),
                    Some(Err(status)) => return Ok(format!("its connection broke: {}", status.message())),
                    None => return Ok("its connection was closed".to_owned()),
                },
                _ = beat.tick() => {
                    if heard.elapsed() > lease {
                        return Err(Status::deadline_exceeded("the host was not heard of for the time of its lease"));
                    }
                    if self.peer.has_expired() {
                        return Err(Status::unauthenticated("the host's certificate has expired; it must join anew"));
                    }
                    // Nothing that the host would have to take in.
                    self.send(shown.revision, Event::Changes(Changes::default())).await?;
                }
                () = self.shutdown.cancelled() => {
                    return Err(Status::unavailable("the gateway stops; another one, or this one again, will serve the host"));
                }
            }
        }
    }

    async fn announcement(
        &self,
        requests: &mut Streaming<SessionRequest>,
    ) -> Result<Announcement, Status> {
        match tokio::time::timeout(ANNOUNCE, requests.next()).await {
            Ok(Some(Ok(SessionRequest { request: Some(Request::Announcement(announced)) }))) => {
                Ok(announced)
            }
            Ok(Some(Err(status))) => Err(status),
            _ => Err(Status::invalid_argument(
                "a session begins with an announcement; run the same version of edge on all machines",
            )),
        }
    }

    fn welcome(&self, arrival: &Arrival) -> Welcome {
        let refused = arrival.refused.iter();
        let refused =
            refused.map(|(id, why)| Refused { container: id.clone(), why: causes(why) }).collect();
        let lease = u64::try_from(self.claims.terms().lease.as_millis()).unwrap_or(u64::MAX);
        Welcome { host: self.peer.id.into(), lease, refused }
    }

    /// Tells what has changed since the view that was told last.
    async fn show(&self, shown: &mut View) -> Result<(), Status> {
        let news = self.mirror.read(|state| state.news(self.peer.id, shown));
        if !news.is_empty() {
            self.tell(news.revision, Event::Changes(convert::changes(&news))).await?;
        }
        shown.apply(news);
        Ok(())
    }

    async fn tell(&self, revision: u64, event: Event) -> Result<(), Status> {
        self.sessions.sent(self.peer.id, revision);
        self.send(revision, event).await
    }

    async fn send(&self, revision: u64, event: Event) -> Result<(), Status> {
        let event = SessionEvent { revision, event: Some(event) };
        let gone = |_closed| Status::cancelled("its connection was closed");
        self.events.send(Ok(event)).await.map_err(gone)
    }

    async fn stay(&self, arrival: &Arrival) -> Result<(), Status> {
        match self.claims.stay(arrival).await {
            Ok(()) => Ok(()),
            Err(StoreError::LeaseEnded(_)) => {
                Err(Status::aborted("the host was away too long; it must announce itself anew"))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Refuses to go on for a host that is no more, or is in another session by now.
    fn still(&self, session: u64) -> Result<(), Status> {
        let key = self.mirror.read(|state| state.host(self.peer.id).map(|host| host.key.clone()));
        if key != Some(self.peer.key_hash()) {
            return Err(super::claims::ClaimError::UnknownHost(self.peer.id).into());
        }
        match self.present() {
            Some(present) if present == session => Ok(()),
            Some(_) => Err(Status::aborted(
                "another session of this host has begun; one machine only may use a host's key",
            )),
            None => {
                Err(Status::aborted("the host was away too long; it must announce itself anew"))
            }
        }
    }

    fn present(&self) -> Option<u64> {
        self.mirror.read(|state| state.presence(self.peer.id).map(|presence| presence.session))
    }
}

fn pace(machines: usize) -> Duration {
    PACE + PACE_EACH * u32::try_from(machines).unwrap_or(u32::MAX)
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(causes(&error))
}
