//! The tunnels of a region, from the call that starts one to the end of its container.
//!
//! One lock for each container, held while the data path is asked, puts starts, stops and the
//! container's end in an order; the lock is asynchronous and no other container waits for it.
//! What clients look up by name or port is a separate index with brief locks. All work runs in
//! tasks of its own: a caller that goes away leaves nothing half-made.

mod allotment;
mod converge;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod index;
mod metrics;
mod owner;
mod record;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Instant,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub(crate) use self::index::Index;
use self::{
    allotment::{Allotment, Place},
    metrics::Metrics,
};
pub use self::{
    allotment::{Gateways, Relayed},
    error::StartError,
    owner::Owner,
    record::TunnelRecord,
};
use super::{
    bounds::Defaults,
    ports::Ports,
    records::Records,
    steering::Steering,
    tunnel::{Container, Directory, Tunnel, TunnelOptions, TunnelStats},
};

/// What all tunnels of a region have in common.
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// Tunnels' names end with it, lower case, without a final dot.
    pub domain: String,
    /// The gateway's TLS port.
    pub tls_port: u16,
    /// What clients of raw ports dial, as it is printed: a name or an address.
    pub raw_host: String,
    /// Tunnels that one container may have at a time.
    pub per_container: usize,
    /// Who may connect and how much, where an owner says nothing.
    pub defaults: Defaults,
}

impl TunnelSettings {
    /// Tunnels of one container, unless configured otherwise.
    pub const PER_CONTAINER: usize = 64;
}

/// The tunnels of a region.
pub struct Tunnels<S> {
    steering: Arc<S>,
    allotment: Allotment,
    settings: TunnelSettings,
    records: Records<TunnelRecord>,
    index: Index,
    metrics: Metrics,
    containers: Mutex<HashMap<String, Arc<Home>>>,
    /// Starts, stops and ends that are under way.
    works: TaskTracker,
}

/// A container's tunnels by port. It stays known after the container's end for as long as
/// anybody holds the container, so that a call that was under way then finds the door shut.
struct Home {
    container: Weak<Container>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    live: BTreeMap<u16, Live>,
}

struct Live {
    tunnel: Arc<Tunnel>,
    owner: Owner,
    /// Of the call that started it or took it over.
    idempotency_key: Option<String>,
}

/// A call to start, checked.
struct Wanted {
    container: Arc<Container>,
    port: u16,
    options: TunnelOptions,
    owner: Owner,
    idempotency_key: Option<String>,
}

impl<S: Steering> Tunnels<S> {
    /// No tunnels yet. Registers `edge_tunnels` and `edge_tunnel_start_seconds`.
    ///
    /// # Errors
    /// If the registry has metrics of these names.
    pub fn new(
        steering: Arc<S>,
        ports: Ports,
        settings: TunnelSettings,
        records: Records<TunnelRecord>,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::with(steering, Allotment::Own(ports), settings, records, registry)
    }

    /// The same for a machine of a region whose gateways say where clients find its tunnels.
    ///
    /// # Errors
    /// If the registry has metrics of these names.
    pub fn of_region(
        steering: Arc<S>,
        gateways: Gateways,
        settings: TunnelSettings,
        records: Records<TunnelRecord>,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::with(steering, Allotment::Region(gateways), settings, records, registry)
    }

    fn with(
        steering: Arc<S>,
        allotment: Allotment,
        settings: TunnelSettings,
        records: Records<TunnelRecord>,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let (index, containers, works) = Default::default();
        let all =
            Self { steering, allotment, settings, records, index, metrics, containers, works };
        Ok(Arc::new(all))
    }

    /// Makes a container's port public. The same idempotency key again is the same call again,
    /// and gets the same tunnel.
    ///
    /// # Errors
    /// [`StartError`]; then nothing has changed, but that a tunnel whose owner is gone may have
    /// ended when it was to be taken over with other options.
    pub async fn start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        port: u32,
        options: TunnelOptions,
        owner: Owner,
        idempotency_key: Option<&str>,
    ) -> Result<Arc<Tunnel>, StartError> {
        let begun = Instant::now();
        let port = valid_port(port).ok_or(StartError::InvalidPort(port))?;
        if options.h2 && options.unencrypted {
            return Err(StartError::H2Unencrypted);
        }
        if options.proxy_protocol && options.unencrypted {
            return Err(StartError::ProxyProtocolUnencrypted);
        }
        let wanted = Wanted {
            container: container.clone(),
            port,
            options,
            owner,
            idempotency_key: idempotency_key.map(str::to_owned),
        };
        let (this, home) = (self.clone(), self.home(container));
        let span = tracing::info_span!("tunnel-start", container = container.id, port);
        let work = async move {
            let mut state = home.state.lock().await;
            let outcome = this.start_in(&mut state, wanted).await;
            match &outcome {
                Ok(tunnel) => tracing::info!(tunnel = tunnel.id, host = tunnel.host, "started"),
                Err(error) => tracing::info!(%error, "not started"),
            }
            outcome
        };
        let outcome = self.works.spawn(work.instrument(span)).await;
        let tunnel = outcome.unwrap_or(Err(StartError::Stopping))?;
        self.metrics.start.observe(begun.elapsed().as_secs_f64());
        Ok(tunnel)
    }

    /// Ends the tunnel on a container's port. Answers whether there was one.
    pub async fn stop(self: &Arc<Self>, container: &Arc<Container>, port: u32) -> bool {
        let Some(port) = valid_port(port) else {
            return false;
        };
        let Some(home) = self.containers().get(&container.id).cloned() else {
            return false;
        };
        let this = self.clone();
        let span = tracing::info_span!("tunnel-stop", container = container.id, port);
        let work = async move {
            let mut state = home.state.lock().await;
            let live = state.live.remove(&port);
            let exists = live.is_some();
            if let Some(live) = live {
                this.close(&live.tunnel).await;
            }
            tracing::info!(exists, "stopped");
            exists
        };
        self.works.spawn(work.instrument(span)).await.unwrap_or(false)
    }

    /// Ends all tunnels of a container; none can start in it any more. When this returns, its
    /// addresses may begin their rest.
    pub async fn container_ended(self: &Arc<Self>, container: &Arc<Container>) {
        let (this, home) = (self.clone(), self.home(container));
        let span = tracing::info_span!("tunnels-end", container = container.id);
        let id = container.id.clone();
        let work = async move {
            let mut state = home.state.lock().await;
            state.ended = true;
            let live = std::mem::take(&mut state.live);
            let closing = live.values().map(|live| this.close(&live.tunnel));
            futures::future::join_all(closing).await;
            if let Allotment::Own(ports) = &this.allotment {
                ports.release(&id).await;
            }
            tracing::info!(tunnels = live.len(), "the container's tunnels have ended");
        };
        if let Err(error) = self.works.spawn(work.instrument(span)).await {
            tracing::error!(%error, container = container.id, "its tunnels may not have ended");
        }
        self.containers().retain(|_, home| home.container.strong_count() > 0);
    }

    /// Waits for what is under way, also for callers that have gone away. Nobody must begin
    /// anything meanwhile.
    pub async fn settle(&self) {
        self.works.close();
        self.works.wait().await;
        self.works.reopen();
    }

    /// Who may connect and how much, where an owner says nothing.
    pub fn defaults(&self) -> &Defaults {
        &self.settings.defaults
    }

    /// All tunnels, by container and port.
    pub fn list(&self) -> Vec<Arc<Tunnel>> {
        let mut tunnels = self.index.all();
        tunnels.sort_by(|a, b| (&a.container.id, a.port).cmp(&(&b.container.id, b.port)));
        tunnels
    }

    async fn start_in(&self, state: &mut State, wanted: Wanted) -> Result<Arc<Tunnel>, StartError> {
        if state.ended {
            return Err(StartError::ContainerEnded(wanted.container.id.clone()));
        }
        let port = wanted.port;
        let count = state.live.len();
        let tunnel = match state.live.get_mut(&port) {
            None if count >= self.settings.per_container => {
                return Err(StartError::TooMany(self.settings.per_container));
            }
            None => {
                let place = self.allot(&wanted).await?;
                self.open(self.tunnel(&wanted, place), &wanted).await?
            }
            Some(live) => {
                let retry = wanted.idempotency_key.is_some()
                    && live.idempotency_key == wanted.idempotency_key;
                if !retry && live.owner.holds() {
                    return Err(StartError::AlreadyForwarded(port));
                }
                // A retry may come over another connection: the newest is the owner's.
                if retry || live.tunnel.options == wanted.options {
                    live.owner = wanted.owner;
                    live.idempotency_key = wanted.idempotency_key;
                    self.record(&live.tunnel, &live.owner, live.idempotency_key.as_deref()).await?;
                    return Ok(live.tunnel.clone());
                }
                let previous = live.tunnel.clone();
                let place = self.allot_again(state, &previous, &wanted).await?;
                self.open(self.tunnel(&wanted, place), &wanted).await?
            }
        };
        let Wanted { owner, idempotency_key, .. } = wanted;
        state.live.insert(port, Live { tunnel: tunnel.clone(), owner, idempotency_key });
        Ok(tunnel)
    }

    fn tunnel(&self, wanted: &Wanted, place: Place) -> Tunnel {
        let Place { id, host, tls_port, raw, stats } = place;
        Tunnel {
            id,
            container: wanted.container.clone(),
            port: wanted.port,
            host,
            tls_port,
            raw,
            options: wanted.options.clone(),
            stats,
            ended: CancellationToken::new(),
        }
    }

    /// Makes a tunnel real, then lets clients find it.
    async fn open(&self, tunnel: Tunnel, wanted: &Wanted) -> Result<Arc<Tunnel>, StartError> {
        let tunnel = Arc::new(tunnel);
        let (opened, recorded) = futures::join!(
            self.steering.open(tunnel.clone()),
            self.record(&tunnel, &wanted.owner, wanted.idempotency_key.as_deref()),
        );
        let failed = |source| StartError::Steering { port: tunnel.port, source };
        if let Err(error) = opened.map_err(failed).and(recorded) {
            // Whatever of it was made must not meet the port's next tenant.
            self.close(&tunnel).await;
            return Err(error);
        }
        self.index.insert(&tunnel);
        self.metrics.tunnels.inc();
        Ok(tunnel)
    }

    async fn record(
        &self,
        tunnel: &Tunnel,
        owner: &Owner,
        idempotency_key: Option<&str>,
    ) -> Result<(), StartError> {
        let record = TunnelRecord::of(tunnel, owner, idempotency_key);
        Ok(self.records.put(&tunnel.id, &record).await?)
    }

    /// Ends a tunnel; its container keeps its port.
    async fn close(&self, tunnel: &Arc<Tunnel>) {
        match &self.allotment {
            Allotment::Own(ports) => {
                if self.withdraw(tunnel).await
                    && let Some(raw) = &tunnel.raw
                {
                    ports.give_back(&tunnel.container.id, raw.port);
                }
            }
            Allotment::Region(gateways) => {
                // First: a daemon that is killed half-way has ended it all the same.
                self.records.forget(&tunnel.id).await;
                // While the gateway still carries the container's resets to its clients.
                self.withdraw(tunnel).await;
                gateways.stop(tunnel).await;
            }
        }
    }

    /// Takes a tunnel from clients and the data path. Answers whether its port is free again.
    async fn withdraw(&self, tunnel: &Arc<Tunnel>) -> bool {
        if self.index.remove(tunnel) {
            self.metrics.tunnels.dec();
        }
        // First: a daemon that is killed half-way has ended it all the same.
        self.records.forget(&tunnel.id).await;
        // Before the container's sockets are destroyed: the relay would take that for a program
        // that died, and its TLS clients would see an end of stream instead of a reset.
        tunnel.ended.cancel();
        let closed = self.steering.close(tunnel.clone()).await;
        if let Err(error) = &closed {
            let (tunnel, raw) = (&tunnel.id, &tunnel.raw);
            tracing::error!(
                error = format!("{error:#}"),
                tunnel,
                ?raw,
                "the data path could not remove a tunnel; its raw port stays out of use until \
                 the daemon restarts"
            );
        }
        closed.is_ok()
    }

    fn home(&self, container: &Arc<Container>) -> Arc<Home> {
        let new = || {
            let state = tokio::sync::Mutex::default();
            Arc::new(Home { container: Arc::downgrade(container), state })
        };
        self.containers().entry(container.id.clone()).or_insert_with(new).clone()
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Home>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Steering> Directory for Tunnels<S> {
    fn by_name(&self, name: &str) -> Option<Arc<Tunnel>> {
        self.index.by_name(name)
    }

    fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>> {
        self.index.by_raw_port(port)
    }
}

fn valid_port(port: u32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn carried_over(previous: &TunnelStats) -> TunnelStats {
    let stats = TunnelStats::default();
    stats.connections.store(previous.connections.load(Ordering::Relaxed), Ordering::Relaxed);
    stats.bytes_in.store(previous.bytes_in.load(Ordering::Relaxed), Ordering::Relaxed);
    stats.bytes_out.store(previous.bytes_out.load(Ordering::Relaxed), Ordering::Relaxed);
    if let Some(why) = previous.last_error() {
        stats.failed(why);
    }
    stats
}
