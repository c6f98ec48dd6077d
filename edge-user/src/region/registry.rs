//! What the control plane asks of a gateway's public side: names, raw ports, and the tunnels
//! behind them.
//!
//! The store says which tunnels there are. Each gateway follows it: a tunnel is open while its
//! record is there and its host keeps its lease, on every gateway alike.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    mirror::Mirror,
    roster::{About, Allotted, ContainerRecord, Presence, TunnelRecord},
    tunnel::TunnelOptions,
};

/// How long a caller waits until its tunnel is open, or closed.
const WAIT: Duration = Duration::from_secs(10);
/// After so long, what could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long after its start a gateway waits for hosts to come back to it. Till then their tunnels
/// are open: flows do not end because the control plane was away.
const RETURN: Duration = Duration::from_secs(30);

/// Implemented by the gateway over its ports, its index of names and its data path.
pub trait Registry: Send + Sync + 'static {
    /// Chooses where clients shall find a tunnel: a name, and a raw port if it was asked for.
    /// Of a previous tunnel on the same port it keeps the name, and the raw port if both have
    /// one. What is allotted is lent until it is released.
    fn allot<'a>(
        &'a self,
        container: &'a str,
        options: &'a TunnelOptions,
        previous: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, Result<Allotted, Refusal>>;

    /// A tunnel that this process has not allotted exists: its name and raw port are lent.
    /// Called for each before it is opened; called again for one's own, which changes nothing.
    fn adopt<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()>;

    /// Another gateway was faster: what was allotted is another tunnel's, and stays lent until
    /// that one is released.
    fn lost<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()>;

    /// Lets clients in. Never called twice without a close in between. `home` is what the gateway
    /// of its raw socket said of itself, if the region knows it.
    fn open(
        &self,
        tunnel: Arc<TunnelRecord>,
        container: Arc<ContainerRecord>,
        home: Option<About>,
    ) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Resets the tunnel's connections and lets nobody in any more. Its host may be away for a
    /// while only: name and raw port stay lent.
    fn close<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()>;

    /// The tunnel has ended: the rest of its raw port begins, unless its successor has it.
    /// Of what is not lent it changes nothing.
    fn release<'a>(
        &'a self,
        tunnel: &'a TunnelRecord,
        successor: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, ()>;

    /// A container that had tunnels has ended: what was kept for it may go to others after its
    /// rest.
    fn ended<'a>(&'a self, container: &'a str) -> BoxFuture<'a, ()>;
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No port is left, or no other thing that tunnels are made of.
    #[error("{0}")]
    Exhausted(String),
    /// It does not work.
    #[error("{0}")]
    Failed(String),
}

/// Keeps a gateway's tunnels as the store has them.
pub struct Follower<R> {
    registry: Arc<R>,
    opened: watch::Sender<HashMap<String, Opened>>,
    /// Containers that have had tunnels.
    holders: Mutex<HashSet<String>>,
    /// Hosts that had tunnels at the start, with the session that each had then: until they begin
    /// another one, or the time is over.
    awaited: Mutex<HashMap<u16, Option<Presence>>>,
    awaited_until: Instant,
}

impl<R> fmt::Debug for Follower<R> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Follower").finish_non_exhaustive()
    }
}

/// A tunnel as it was last dealt with.
#[derive(Debug, Clone)]
struct Opened {
    record: Arc<TunnelRecord>,
    /// None while its host is away.
    outcome: Option<Result<(), Refusal>>,
}

impl<R: Registry> Follower<R> {
    /// Adopts the tunnels that are there, opens those whose hosts are, and follows the mirror
    /// until the shutdown.
    pub async fn start(
        registry: Arc<R>,
        mirror: Arc<Mirror>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let awaited = mirror.read(|state| {
            let hosts = state.tunnels().map(|(tunnel, _)| tunnel.host);
            hosts.map(|host| (host, state.presence(host).cloned())).collect()
        });
        let follower = Arc::new(Self {
            registry,
            opened: watch::channel(HashMap::new()).0,
            holders: Mutex::default(),
            awaited: Mutex::new(awaited),
            awaited_until: Instant::now() + RETURN,
        });
        let following = follower.clone();
        let mut revisions = mirror.revisions();
        revisions.mark_unchanged();
        follower.step(&mirror).await;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = revisions.changed() => if changed.is_err() { break },
                    () = tokio::time::sleep(AGAIN) => {}
                    () = shutdown.cancelled() => break,
                }
                revisions.mark_unchanged();
                following.step(&mirror).await;
            }
        });
        follower
    }

    /// What tunnels are made of.
    pub fn registry(&self) -> &R {
        &self.registry
    }

    /// Waits until this tunnel is open.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn opened(&self, tunnel: &TunnelRecord) -> Result<(), Refusal> {
        let mut opened = self.opened.subscribe();
        let outcome = |all: &HashMap<String, Opened>| {
            let one = all.get(&tunnel.id).filter(|one| *one.record == *tunnel);
            one.and_then(|one| one.outcome.clone())
        };
        let waited = opened.wait_for(|all| outcome(all).is_some());
        match tokio::time::timeout(WAIT, waited).await {
            Ok(Ok(all)) => outcome(&all).unwrap_or(Ok(())),
            _ => Err(Refusal::Failed(format!(
                "the gateway did not open tunnel {} within {WAIT:?}; look at its log",
                tunnel.id
            ))),
        }
    }

    /// Waits until no tunnel of this id is open.
    pub async fn closed(&self, id: &str) {
        let mut opened = self.opened.subscribe();
        let waited = opened.wait_for(|all| !all.contains_key(id));
        if tokio::time::timeout(WAIT, waited).await.is_err() {
            tracing::warn!(tunnel = id, "a tunnel that has ended is not closed yet");
        }
    }

    async fn step(&self, mirror: &Mirror) {
        let awaited = self.awaited(mirror);
        let wanted = mirror.read(|state| {
            let tunnels = state.tunnels().map(|(tunnel, there)| {
                let there = there || awaited.contains(&tunnel.host);
                let container = state.container(&tunnel.container).filter(|_| there).cloned();
                (tunnel.id.clone(), (tunnel.clone(), container))
            });
            tunnels.collect::<HashMap<_, _>>()
        });
        let known = self.opened.borrow().clone();
        for (id, Opened { record, outcome }) in &known {
            let successor = wanted.get(id).map(|(new, _)| new);
            let there = wanted.get(id).is_some_and(|(_, container)| container.is_some());
            let same = successor == Some(record);
            if same && (there || outcome.is_none()) {
                continue;
            }
            if outcome == &Some(Ok(())) {
                self.registry.close(record).await;
            }
            if same {
                self.note(id, Some(Opened { record: record.clone(), outcome: None }));
            } else {
                self.registry.release(record, successor.map(Arc::as_ref)).await;
                self.note(id, None);
            }
        }
        let opening = wanted.into_iter().map(|(id, (record, container))| async move {
            let known = self.opened.borrow().get(&id).cloned();
            if known.is_none() {
                self.registry.adopt(&record).await;
            }
            if known.is_some_and(|known| known.outcome == Some(Ok(()))) {
                return;
            }
            let outcome = match container {
                Some(container) => {
                    let home = mirror.read(|state| state.home(&record).cloned());
                    Some(self.registry.open(record.clone(), container, home).await)
                }
                None => None,
            };
            if let Some(Err(error)) = &outcome {
                tracing::error!(%error, tunnel = id, "a tunnel cannot be opened");
            }
            self.note(&id, Some(Opened { record, outcome }));
        });
        join_all(opening).await;
        self.let_go(mirror).await;
    }

    /// The hosts that may still come back to this gateway after its start.
    fn awaited(&self, mirror: &Mirror) -> HashSet<u16> {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= self.awaited_until {
            awaited.clear();
        }
        mirror.read(|state| {
            awaited.retain(|host, before| {
                let now = state.presence(*host);
                now.is_none() || now == before.as_ref()
            });
        });
        awaited.keys().copied().collect()
    }

    /// Of containers that have ended nothing is kept.
    async fn let_go(&self, mirror: &Mirror) {
        let ended: Vec<_> = {
            let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
            holders.extend(self.opened.borrow().values().map(|one| one.record.container.clone()));
            mirror.read(|state| holders.extract_if(|id| state.container(id).is_none()).collect())
        };
        for container in ended {
            self.registry.ended(&container).await;
        }
    }

    fn note(&self, id: &str, opened: Option<Opened>) {
        self.opened.send_modify(|all| {
            match opened {
                Some(opened) => all.insert(id.to_owned(), opened),
                None => all.remove(id),
            };
        });
    }
}
