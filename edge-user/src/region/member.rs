//! A machine's membership in its region: one session with one gateway, kept as well as it can be.
//!
//! The member holds what this machine has (its containers) and what it knows (its view). Both
//! outlive a session: while no gateway can be reached the view stays as it was, containers that
//! begin or end are remembered, and the next session begins with all of them. So after a time
//! without gateways everything is as if there had been one all along.

mod blocks;
mod calls;
pub(super) mod channel;
mod error;
mod join;
mod memory;
mod session;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::memory::Memory;
pub use self::{
    blocks::LeasedAhead,
    calls::{Known, patiently},
    error::{CallError, JoinError},
    join::{Standing, join, standing},
};
use super::{
    identity::{Credentials, IdentityError, Peer},
    roster::{About, ContainerRecord},
    tls::{self, Held},
    view::View,
};
use crate::wire::region::region_client::RegionClient;

/// A machine that has joined a region.
pub struct Member {
    inner: Arc<Inner>,
    running: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

/// Whether a gateway serves this machine.
#[derive(Clone)]
pub enum Link {
    /// One does.
    Connected {
        /// host:port of the gateway.
        gateway: String,
        #[doc(hidden)]
        client: RegionClient<Channel>,
    },
    /// None does.
    Away {
        /// Since when.
        since: Instant,
        /// Why the last attempt failed.
        why: String,
    },
}

struct Inner {
    dir: PathBuf,
    credentials: Mutex<Credentials>,
    held: Arc<Held>,
    tls: Arc<ClientConfig>,
    about: watch::Sender<About>,
    /// What this machine has, by id.
    containers: Mutex<BTreeMap<String, ContainerRecord>>,
    workspaces: Mutex<BTreeMap<String, u32>>,
    /// What is written down of the region.
    memory: tokio::sync::Mutex<Memory>,
    /// Containers that the region does not take, and why.
    refused: watch::Sender<BTreeMap<String, String>>,
    view: watch::Sender<Arc<View>>,
    link: watch::Sender<Link>,
    heard: Mutex<Option<Instant>>,
}

impl Member {
    /// The membership of a machine that has joined, as it is remembered: no gateway is spoken to
    /// before [`Member::begin`]. `dir` is where its credentials are, and renewed ones go. Of the
    /// machine's containers the region forgets those that are not named here.
    ///
    /// # Errors
    /// When the credentials cannot be used.
    pub fn open(
        dir: &Path,
        credentials: Credentials,
        about: About,
        containers: impl IntoIterator<Item = ContainerRecord>,
    ) -> Result<Self, IdentityError> {
        let held = Held::new(&credentials)?;
        let tls = tls::member(held.clone(), &credentials.authority)?;
        let away = Link::Away { since: Instant::now(), why: "it has just started".to_owned() };
        let memory = Memory::load(dir);
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            credentials: Mutex::new(credentials),
            held,
            tls,
            about: watch::channel(about).0,
            containers: Mutex::new(
                containers.into_iter().map(|one| (one.id.clone(), one)).collect(),
            ),
            workspaces: Mutex::new(memory.workspaces.clone()),
            refused: watch::channel(BTreeMap::new()).0,
            view: watch::channel(Arc::new(memory.view())).0,
            memory: tokio::sync::Mutex::new(memory),
            link: watch::channel(away).0,
            heard: Mutex::default(),
        });
        Ok(Self { inner, running: Mutex::default(), stop: CancellationToken::new() })
    }

    /// Keeps a session with a gateway from now on.
    pub fn begin(&self) {
        let mut running = self.running();
        if running.is_none() {
            *running = Some(tokio::spawn(session::keep(self.inner.clone(), self.stop.clone())));
        }
    }

    /// Falls silent, for another process that has the same credentials; the region takes that for
    /// a short absence.
    pub fn pause(&self) {
        if let Some(running) = self.running().take() {
            running.abort();
        }
        let why = "another daemon takes over".to_owned();
        self.inner.link.send_replace(Link::Away { since: Instant::now(), why });
    }

    /// [`Member::open`] and [`Member::begin`] of a machine without containers.
    ///
    /// # Errors
    /// When the credentials cannot be used.
    pub fn start(
        dir: &Path,
        credentials: Credentials,
        about: About,
    ) -> Result<Self, IdentityError> {
        let member = Self::open(dir, credentials, about, [])?;
        member.begin();
        Ok(member)
    }

    /// This host's number.
    pub fn host(&self) -> u16 {
        self.inner.credentials().membership.host
    }

    /// What is known of the region. Until the first session its revision is 0, and it shows what
    /// was remembered: the settings, and the machines with their blocks. Each value is one
    /// consistent state.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// Whether a gateway serves this machine.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.subscribe()
    }

    /// The containers of this machine that the region does not take, by id, and why: their
    /// names were taken while no gateway could be reached.
    pub fn refused(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.inner.refused.subscribe()
    }

    /// How old the view may be: the time since a gateway was last heard of; none before the
    /// first time. A gateway speaks every third of the lease time at least.
    pub fn lag(&self) -> Option<Duration> {
        self.inner.heard().map(|heard| heard.elapsed())
    }

    /// When this machine's certificate expires, unless it is renewed before.
    pub fn certificate_expiry(&self) -> Option<OffsetDateTime> {
        Peer::of(&self.inner.credentials().certificate).map(|own| own.valid.1)
    }

    /// What this machine says of itself from now on.
    pub fn announce(&self, about: About) {
        self.inner.about.send_if_modified(|known| {
            let differs = *known != about;
            *known = about;
            differs
        });
    }

    /// The key that this machine speaks WireGuard under from now on.
    pub fn announce_key(&self, key: String) {
        self.inner.about.send_modify(|known| {
            if let Some(wireguard) = &mut known.wireguard {
                wireguard.key = key;
            }
        });
    }

    /// Leaves the gateway, so that the others see at once that this machine is away. It may come
    /// back with the same number.
    pub async fn stop(&self) {
        self.stop.cancel();
        let running = self.running().take();
        if let Some(running) = running
            && let Err(error) = running.await
        {
            tracing::error!(%error, "the membership did not end well");
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    /// Without a [`Member::stop`] the machine just falls silent, as if it had died.
    fn drop(&mut self) {
        if let Some(running) = self.running().take() {
            running.abort();
        }
    }
}

impl Inner {
    /// host:port of the gateways to try: those that it was told of, then those that it has heard
    /// of since. A gateway is served by itself.
    fn gateways(&self) -> Vec<String> {
        let mut gateways = self.credentials().membership.endpoints.clone();
        if self.about.borrow().control.is_empty() {
            for machine in self.view.borrow().hosts.values() {
                for gateway in &machine.record.about.control {
                    if !gateways.contains(gateway) {
                        gateways.push(gateway.clone());
                    }
                }
            }
        }
        gateways
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, ContainerRecord>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workspaces(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Member").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { gateway, .. } => write!(to, "Connected to {gateway}"),
            Self::Away { since, why } => write!(to, "Away for {:?}: {why}", since.elapsed()),
        }
    }
}
