//! The tunnels of a whole region on one of its gateways: what [`Registry`] asks for, over this
//! gateway's ports, its index for the relay, and the kernel's tables.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{
        steering,
        tunnel_rows::{Target, TunnelRows},
    },
    region::{
        names,
        ports::Ports,
        registry::{Refusal, Registry},
        roster::{About, Allotted, ContainerRecord, TunnelRecord},
        tunnel::{Container, Directory, RawSocket, Tunnel, TunnelOptions, TunnelStats},
        tunnels::Index,
    },
};

/// Makes the region's tunnels public.
pub struct RegionTunnels {
    ports: Ports,
    rows: Arc<TunnelRows>,
    index: Index,
    place: Places,
    open: Mutex<HashMap<String, Open>>,
    lent: Mutex<HashSet<u16>>,
}

/// What all tunnels of the region have in common.
#[derive(Debug, Clone)]
pub struct Places {
    /// This gateway's number: the rows of its own containers' tunnels are the host part's.
    pub host: u16,
    /// Tunnels' names end with it.
    pub domain: String,
    /// The gateways' TLS port.
    pub tls_port: u16,
    /// What clients of raw ports dial.
    pub raw_host: String,
    /// What this gateway answers on.
    pub public: BTreeSet<IpAddr>,
    /// First and last raw port.
    pub raw_ports: (u16, u16),
}

struct Open {
    tunnel: Arc<Tunnel>,
    /// None: the host part of this very machine writes the rows.
    target: Option<Target>,
}

impl RegionTunnels {
    /// None is open yet.
    pub fn new(ports: Ports, rows: Arc<TunnelRows>, place: Places) -> Arc<Self> {
        let (index, open, lent) = Default::default();
        Arc::new(Self { ports, rows, index, place, open, lent })
    }

    /// What this gateway relayed for a tunnel.
    pub fn stats(&self, id: &str) -> Option<Arc<TunnelStats>> {
        Some(self.open().get(id)?.tunnel.stats.clone())
    }

    /// Open tunnels of other machines' containers.
    pub fn away(&self) -> Vec<Arc<Tunnel>> {
        let open = self.open();
        let away = open.values().filter(|open| open.target.is_some());
        away.map(|open| open.tunnel.clone()).collect()
    }

    async fn choose(
        &self,
        container: &str,
        options: &TunnelOptions,
        previous: Option<&TunnelRecord>,
    ) -> Result<Allotted, Refusal> {
        let kept = previous.and_then(|previous| previous.place.raw.clone());
        let raw = match kept {
            _ if !options.unencrypted => None,
            Some(raw) => Some(raw),
            None => {
                let taken = self.ports.take(container, steering::in_use).await;
                let port = taken.map_err(|error| Refusal::Exhausted(error.to_string()))?;
                self.lent().insert(port);
                let (host, gateway) = (self.place.raw_host.clone(), self.place.host);
                Some(RawSocket { host, port, gateway })
            }
        };
        let name = match previous {
            Some(previous) => previous.place.name.clone(),
            None => names::tunnel_host(&self.place.domain),
        };
        Ok(Allotted { name, tls_port: self.place.tls_port, raw })
    }

    fn admit(
        &self,
        record: &TunnelRecord,
        container: &ContainerRecord,
        home: Option<&About>,
    ) -> Result<(), Refusal> {
        let (first, last) = self.place.raw_ports;
        if let Some(raw) =
            record.place.raw.as_ref().filter(|raw| !(first..=last).contains(&raw.port))
        {
            return Err(Refusal::Failed(format!(
                "port {} of tunnel {} is not of the gateway's --raw-ports {first}-{last}; widen the range, or \
                 stop the tunnel",
                raw.port, record.id
            )));
        }
        let tunnel = Arc::new(tunnel(record, container));
        // A proxied container's raw ports are userspace's, so that no reply goes past the proxy.
        let native = self.is_home(record, home) && container.proxy.is_none();
        let target = (record.host != self.place.host)
            .then_some(Target::Host { number: record.host, native });
        if let Some(target) = target {
            let opened = self.rows.open(&tunnel, target);
            opened.map_err(|error| Refusal::Failed(format!("the kernel's tables: {error:#}")))?;
        }
        self.index.insert(&tunnel);
        self.open().insert(record.id.clone(), Open { tunnel, target });
        Ok(())
    }

    /// Whether the replies of a raw tunnel come by this gateway, or by one with the same addresses.
    fn is_home(&self, record: &TunnelRecord, home: Option<&About>) -> bool {
        let Some(raw) = &record.place.raw else { return true };
        raw.gateway == self.place.host
            // An older gateway wrote it, when there was one only.
            || raw.gateway == 0
            || home.is_some_and(|home| home.addresses() == self.place.public)
    }

    fn withdraw(&self, record: &TunnelRecord) {
        let Some(Open { tunnel, target }) = self.open().remove(&record.id) else { return };
        self.index.remove(&tunnel);
        tunnel.ended.cancel();
        if let Some(target) = target
            && let Err(error) = self.rows.close(&tunnel, target)
        {
            let (error, tunnel) = (format!("{error:#}"), &record.id);
            tracing::error!(error, tunnel, "the kernel still steers a tunnel that has ended");
        }
    }

    fn lent(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tunnel(record: &TunnelRecord, container: &ContainerRecord) -> Tunnel {
    Tunnel {
        id: record.id.clone(),
        container: Arc::new(Container {
            id: container.id.clone(),
            name: container.name.clone(),
            workspace: container.workspace.clone(),
            ipv4: container.ipv4,
            i6pn: container.i6pn,
        }),
        port: record.port,
        host: record.place.name.clone(),
        tls_port: record.place.tls_port,
        raw: record.place.raw.clone(),
        options: record.options.clone(),
        stats: Arc::default(),
        ended: CancellationToken::new(),
    }
}

impl Registry for RegionTunnels {
    fn allot<'a>(
        &'a self,
        container: &'a str,
        options: &'a TunnelOptions,
        previous: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, Result<Allotted, Refusal>> {
        self.choose(container, options, previous).boxed()
    }

    fn adopt<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        async {
            if let Some(raw) = &tunnel.place.raw
                && self.ports.adopt(&tunnel.container, raw.port).await
            {
                self.lent().insert(raw.port);
            }
        }
        .boxed()
    }

    fn lost<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        async { self.ports.lose(&tunnel.container) }.boxed()
    }

    fn open(
        &self,
        tunnel: Arc<TunnelRecord>,
        container: Arc<ContainerRecord>,
        home: Option<About>,
    ) -> BoxFuture<'_, Result<(), Refusal>> {
        async move { self.admit(&tunnel, &container, home.as_ref()) }.boxed()
    }

    fn close<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        async { self.withdraw(tunnel) }.boxed()
    }

    fn release<'a>(
        &'a self,
        tunnel: &'a TunnelRecord,
        successor: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, ()> {
        async move {
            let kept = successor.and_then(|successor| successor.place.raw.as_ref());
            if let Some(raw) = &tunnel.place.raw
                && kept != Some(raw)
                && self.lent().remove(&raw.port)
            {
                self.ports.give_back(&tunnel.container, raw.port);
            }
        }
        .boxed()
    }

    fn ended<'a>(&'a self, container: &'a str) -> BoxFuture<'a, ()> {
        self.ports.release(container).boxed()
    }
}

impl Directory for RegionTunnels {
    fn by_name(&self, name: &str) -> Option<Arc<Tunnel>> {
        self.index.by_name(name)
    }

    fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>> {
        self.index.by_raw_port(port)
    }
}
