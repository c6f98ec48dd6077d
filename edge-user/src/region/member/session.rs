//! The session that a member keeps: one after another, with one gateway or another.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{CallError, Inner, Link, channel};
use crate::{
    region::{
        convert,
        identity::{Peer, RENEW_AFTER},
        roster::ContainerRecord,
        view::View,
    },
    wire::region::{
        Leave, RenewRequest, Seen, SessionEvent, SessionRequest, Welcome,
        region_client::RegionClient, session_event::Event, session_request::Request,
    },
};

/// Between two attempts, growing; both with as much again by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long a gateway may take to begin a session.
const BEGIN: Duration = Duration::from_secs(20);
/// How long a gateway may take to see that the machine leaves.
const LEAVE: Duration = Duration::from_secs(2);

/// How a session ended.
enum Ended {
    /// The member was stopped.
    Stopped,
    /// The machine has something new to announce.
    Anew,
    /// It broke.
    Broken(String),
}

/// Keeps sessions until the stop.
pub(super) async fn keep(inner: Arc<Inner>, stop: CancellationToken) {
    let pauses = || {
        ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LAST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut pause = pauses();
    let mut turn = 0;
    loop {
        let gateways = inner.gateways();
        let Some(gateway) = gateways.get(turn % gateways.len().max(1)) else {
            tracing::error!("no gateway of the region is named; join it anew with a new token");
            return;
        };
        let ended = tokio::select! {
            ended = serve(&inner, gateway, &stop) => ended,
            // During a session it ends by itself; before one there is nothing to end.
            () = stopped_early(&inner, &stop) => Ended::Stopped,
        };
        let anew = matches!(ended, Ended::Anew);
        let why = match ended {
            Ended::Stopped => {
                let why = "it has been stopped".to_owned();
                inner.link.send_replace(Link::Away { since: Instant::now(), why });
                return;
            }
            Ended::Anew => "it announces itself anew".to_owned(),
            Ended::Broken(why) => why,
        };
        let was_connected = matches!(&*inner.link.borrow(), Link::Connected { .. });
        if anew {
            tracing::debug!(gateway, "this machine announces itself anew");
        } else if was_connected {
            tracing::warn!(
                gateway,
                why,
                "the session with a gateway has ended; what is known stays"
            );
            pause = pauses();
        } else {
            tracing::debug!(gateway, why, "no session with a gateway");
        }
        inner.link.send_modify(|link| {
            let since = match link {
                Link::Away { since, .. } => *since,
                Link::Connected { .. } => Instant::now(),
            };
            *link = Link::Away { since, why };
        });
        if anew {
            continue;
        }
        turn += 1;
        tokio::select! {
            () = tokio::time::sleep(pause.next().unwrap_or(LAST_PAUSE)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn stopped_early(inner: &Inner, stop: &CancellationToken) {
    stop.cancelled().await;
    if matches!(&*inner.link.borrow(), Link::Connected { .. }) {
        std::future::pending::<()>().await;
    }
}

async fn serve(inner: &Arc<Inner>, gateway: &str, stop: &CancellationToken) -> Ended {
    match session(inner, gateway, stop).await {
        Ok(ended) => ended,
        Err(why) => Ended::Broken(why),
    }
}

async fn session(
    inner: &Arc<Inner>,
    gateway: &str,
    stop: &CancellationToken,
) -> Result<Ended, String> {
    let mut client = channel::connect(gateway, inner.tls.clone()).await?;
    let (requests, outgoing) = mpsc::channel(16);
    let mut about = inner.about.subscribe();
    let announced = inner.containers().clone();
    let containers = announced.values().map(convert::container).collect();
    let announcement = convert::announcement(&about.borrow_and_update(), containers);
    send(&requests, Request::Announcement(announcement)).await?;

    let begun = tokio::time::timeout(BEGIN, begin(inner, &mut client, outgoing));
    let (mut events, welcome) =
        begun.await.map_err(|_elapsed| format!("{gateway}: no session within {BEGIN:?}"))??;
    let lease = Duration::from_millis(welcome.lease);
    refuse(inner, &welcome);

    tracing::info!(gateway, host = welcome.host, "a gateway serves this machine");
    let link = Link::Connected { gateway: gateway.to_owned(), client: client.clone() };
    inner.link.send_replace(link);
    inner.remember().await;
    // What began or ended since the announcement.
    tokio::spawn(catch_up(inner.clone(), announced));

    let mut beat = tokio::time::interval(lease / 3);
    loop {
        tokio::select! {
            event = events.message() => {
                let Some(event) = event.map_err(ended)? else {
                    return Err("the gateway closed the connection".to_owned());
                };
                if learn(inner, event)? {
                    inner.remember().await;
                    send(&requests, seen(inner)).await?;
                }
            }
            _ = beat.tick() => {
                if inner.heard().is_some_and(|heard| heard.elapsed() > lease) {
                    return Err(format!("the gateway was silent for {lease:?}"));
                }
                send(&requests, seen(inner)).await?;
                renew(inner, &mut client).await;
            }
            _ = about.changed() => return Ok(Ended::Anew),
            () = stop.cancelled() => {
                send(&requests, Request::Leave(Leave {})).await?;
                // The stream's end says that the others see it.
                let gone = async { while let Ok(Some(_)) = events.message().await {} };
                if tokio::time::timeout(LEAVE, gone).await.is_err() {
                    tracing::info!(gateway, "the gateway did not confirm that this machine leaves");
                }
                return Ok(Ended::Stopped);
            }
        }
    }
}

/// The first two events: the welcome and the snapshot.
async fn begin(
    inner: &Inner,
    client: &mut RegionClient<Channel>,
    outgoing: mpsc::Receiver<SessionRequest>,
) -> Result<(Streaming<SessionEvent>, Welcome), String> {
    let mut events =
        client.session(ReceiverStream::new(outgoing)).await.map_err(ended)?.into_inner();
    let strange =
        || "the gateway does not begin a session as this version of edge expects".to_owned();
    let welcome = match events.message().await.map_err(ended)?.and_then(|event| event.event) {
        Some(Event::Welcome(welcome)) if welcome.lease >= 3 => welcome,
        _ => return Err(strange()),
    };
    match events.message().await.map_err(ended)? {
        Some(event @ SessionEvent { event: Some(Event::Snapshot(_)), .. }) => learn(inner, event)?,
        _ => return Err(strange()),
    };
    Ok((events, welcome))
}

/// Takes an event in. Answers whether the gateway should know at once.
fn learn(inner: &Inner, SessionEvent { revision, event }: SessionEvent) -> Result<bool, String> {
    *inner.heard() = Some(Instant::now());
    let malformed = |error: convert::Malformed| error.to_string();
    match event {
        Some(Event::Snapshot(snapshot)) => {
            let view = convert::read_snapshot(revision, snapshot).map_err(malformed)?;
            inner.view.send_replace(Arc::new(view));
        }
        Some(Event::Changes(changes)) => {
            let difference = convert::read_changes(revision, changes).map_err(malformed)?;
            let news = !difference.is_empty();
            inner.view.send_if_modified(|known| {
                Arc::<View>::make_mut(known).apply(difference);
                news
            });
            return Ok(news);
        }
        Some(Event::Welcome(_)) | None => {}
    }
    Ok(true)
}

fn seen(inner: &Inner) -> Request {
    Request::Seen(Seen { revision: inner.view.borrow().revision })
}

fn refuse(inner: &Inner, welcome: &Welcome) {
    let refused: BTreeMap<_, _> =
        welcome.refused.iter().map(|one| (one.container.clone(), one.why.clone())).collect();
    for (container, why) in &refused {
        tracing::error!(
            container,
            why,
            "the region does not take a container of this machine; nobody finds it by name"
        );
    }
    inner.refused.send_replace(refused);
}

/// Tells what has changed between the announcement and the moment when calls go through.
async fn catch_up(inner: Arc<Inner>, announced: BTreeMap<String, ContainerRecord>) {
    let now = inner.containers().clone();
    for (id, container) in &now {
        if announced.get(id) != Some(container)
            && let Err(CallError::Refused { text, .. }) = inner.put(container).await
        {
            tracing::error!(
                container = id,
                why = text,
                "the region does not take a container of this machine"
            );
            inner.refused.send_modify(|refused| drop(refused.insert(id.clone(), text)));
        }
    }
    for id in announced.keys().filter(|id| !now.contains_key(*id)) {
        if let Err(error) = inner.delete(id).await {
            tracing::debug!(%error, container = id, "the next session will say that it has ended");
        }
    }
}

/// Renews the certificate when its time has come; if that fails, at the next beat.
async fn renew(inner: &Inner, client: &mut RegionClient<Channel>) {
    let due = Peer::of(&inner.credentials().certificate)
        .is_some_and(|own| OffsetDateTime::now_utc() > own.valid.0 + RENEW_AFTER);
    if !due {
        return;
    }
    let renewed = async {
        let answer = client.renew(RenewRequest {}).await.map_err(ended)?.into_inner();
        let mut credentials = inner.credentials().clone();
        credentials.certificate = CertificateDer::from(answer.certificate);
        credentials.save_certificate(&inner.dir).map_err(|error| error.to_string())?;
        inner.held.replace(&credentials).map_err(|error| error.to_string())?;
        *inner.credentials() = credentials;
        Ok::<_, String>(())
    };
    match renewed.await {
        Ok(()) => tracing::info!("the machine's certificate has been renewed"),
        Err(error) => tracing::warn!(error, "the machine's certificate was not renewed"),
    }
}

async fn send(requests: &mpsc::Sender<SessionRequest>, request: Request) -> Result<(), String> {
    let request = SessionRequest { request: Some(request) };
    requests.send(request).await.map_err(|_closed| "the connection broke".to_owned())
}

/// A status as a sentence. That the region no longer knows this machine, nothing here can mend.
fn ended(status: Status) -> String {
    if status.code() == Code::Unauthenticated {
        tracing::error!(why = status.message(), "the region does not know this machine");
    }
    status.message().to_owned()
}
