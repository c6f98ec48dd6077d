//! The tunnels of this machine's containers in the kernel's tables: what [`Steering`] asks for,
//! done.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use anyhow::{Context as _, anyhow};
use edge_common::{
    address::Endpoint,
    tables::{ForwardRow, Traffic},
};

use super::{
    containers::{Attached, Containers},
    sockets, sysctl,
    tunnel_rows::{Rows, Target, TunnelRows},
    wiring::padded,
};
use crate::region::{steering::Steering, tunnel::Tunnel};

/// Writes tunnels into the tables of this host.
pub struct KernelSteering {
    rows: Arc<TunnelRows>,
    containers: Arc<Containers>,
    /// None: clients come by this machine's own uplinks.
    replies: Option<Mutex<Away>>,
    /// Tunnels, by id, that an earlier daemon opened: what clients it relayed is not known.
    older: Mutex<HashSet<String>>,
}

/// What a machine knows of tunnels whose clients come by a gateway.
#[derive(Default)]
struct Away {
    replies: Replies,
    /// By id, to be written again when replies go another way.
    open: BTreeMap<String, Arc<Tunnel>>,
}

/// Which way the replies of raw tunnels go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replies {
    /// Of tunnels whose address is that of the gateway with this number.
    pub of: BTreeMap<u16, Reply>,
    /// Of others.
    pub others: Reply,
}

/// Which way a reply goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reply {
    /// No gateway is known.
    #[default]
    Nowhere,
    /// As they are to the gateway with this number.
    Gateway(u16),
    /// Straight to the client, by this machine's own uplink.
    Direct {
        /// The uplink's index.
        uplink: u32,
        /// The gateway's public addresses.
        public: Vec<IpAddr>,
    },
}

impl KernelSteering {
    /// For containers of a machine that has the tunnels' public addresses itself.
    pub fn public(rows: Arc<TunnelRows>, containers: Arc<Containers>) -> Self {
        Self { rows, containers, replies: None, older: Mutex::default() }
    }

    /// For those of a machine whose clients come by a gateway.
    pub fn behind_gateway(rows: Arc<TunnelRows>, containers: Arc<Containers>) -> Self {
        Self { rows, containers, replies: Some(Mutex::default()), older: Mutex::default() }
    }

    /// What the kernel carried for a tunnel.
    pub fn traffic(&self, tunnel: &Tunnel) -> Traffic {
        self.rows.traffic(tunnel)
    }

    /// What a raw packet from outside meets first: `xdp`, `tcx`, `userspace`, or `gateway` where
    /// that is another machine's affair.
    pub fn path(&self, tunnel: &Tunnel) -> &'static str {
        if self.replies.is_some() { "gateway" } else { self.rows.path(tunnel) }
    }

    /// From now on replies go that way.
    pub fn reply_by(&self, replies: Replies) {
        let Some(mut away) = self.away() else { return };
        if away.replies == replies {
            return;
        }
        tracing::info!(?replies, "which way replies of raw tunnels go");
        away.replies = replies;
        for tunnel in away.open.values() {
            let Some(slot) = self.rows.slot(tunnel) else { continue };
            if let Err(error) = self.rows.write(tunnel, away.replies.rows(tunnel, slot)) {
                tracing::error!(
                    error = format!("{error:#}"),
                    tunnel = tunnel.id,
                    "its replies go the old way"
                );
            }
        }
    }

    fn away(&self) -> Option<MutexGuard<'_, Away>> {
        Some(self.replies.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, tunnel: &Arc<Tunnel>, attached: &Attached, slot: u32) -> anyhow::Result<()> {
        let Some(mut away) = self.away() else {
            return self.rows.write(tunnel, self.rows.rows(tunnel, here(attached), slot));
        };
        if attached.proxy.is_some() {
            // No reply goes past the proxy: a gateway's relay serves it.
            return self.rows.write(tunnel, Replies::default().rows(tunnel, slot));
        }
        self.rows.write(tunnel, away.replies.rows(tunnel, slot))?;
        away.open.insert(tunnel.id.clone(), tunnel.clone());
        Ok(())
    }

    fn erase(&self, tunnel: &Tunnel, attached: &Attached, slot: u32) -> anyhow::Result<()> {
        let erased = match self.away() {
            None => self.rows.erase(&self.rows.rows(tunnel, here(attached), slot)),
            Some(mut away) => {
                away.open.remove(&tunnel.id);
                self.rows.erase(&away.replies.rows(tunnel, slot))
            }
        };
        self.rows.release(tunnel);
        erased
    }

    fn older(&self) -> MutexGuard<'_, HashSet<String>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a tunnel that this daemon opened may have connections to end. Looking for them costs
    /// the kernel a walk through the sockets of all namespaces.
    fn was_used(&self, tunnel: &Tunnel) -> bool {
        let Traffic { inbound, outbound, .. } = self.traffic(tunnel);
        let relayed = tunnel.stats.connections.load(Ordering::Relaxed);
        // Behind a gateway it is the gateway that knows whom it relayed.
        self.replies.is_some() || relayed + inbound.packets + outbound.packets > 0
    }

    fn attached(&self, tunnel: &Tunnel) -> anyhow::Result<Arc<Attached>> {
        let id = &tunnel.container.id;
        self.containers.by_id(id).ok_or_else(|| anyhow!("container {id} is gone; start another"))
    }
}

impl Replies {
    /// A tunnel's rows on the machine of its container. All addresses that may have one get one,
    /// so that the same rows are there to be removed whichever way replies go.
    fn rows(&self, tunnel: &Tunnel, slot: u32) -> Rows {
        let mut families = vec![true];
        if tunnel.raw.is_some() && tunnel.options.native_ipv6 {
            families.push(false);
        }
        let forwards = families.into_iter().map(|v4| {
            let row = ForwardRow { slot, ..self.row(tunnel, v4) };
            (TunnelRows::inner(tunnel, v4), row)
        });
        Rows { forwards: forwards.collect(), slot, ..Rows::default() }
    }

    fn row(&self, tunnel: &Tunnel, v4: bool) -> ForwardRow {
        let Some(raw) = &tunnel.raw else { return ForwardRow::default() };
        match self.of.get(&raw.gateway).unwrap_or(&self.others) {
            Reply::Nowhere => ForwardRow::default(),
            Reply::Gateway(gateway) => {
                ForwardRow { gateway: (*gateway).into(), ..ForwardRow::default() }
            }
            Reply::Direct { uplink, public } => {
                let public = public.iter().find(|address| address.is_ipv4() == v4);
                public.map_or_else(ForwardRow::default, |address| ForwardRow {
                    public: Endpoint::from(SocketAddr::new(*address, raw.port)),
                    uplink: *uplink,
                    ..ForwardRow::default()
                })
            }
        }
    }
}

fn here(attached: &Attached) -> Target {
    Target::Here {
        ifindex: attached.wired.ifindex,
        mac: padded(attached.wired.mac),
        // What the kernel took for a reply could go to anybody, past the proxy.
        native: attached.proxy.is_none(),
    }
}

impl Steering for KernelSteering {
    async fn open(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let attached = self.attached(&tunnel)?;
        let slot = self.rows.fresh(&tunnel)?;
        let port = tunnel.port;
        let opened = attached
            .namespace
            .run(|| sysctl::reserve_ports(port, port))
            .context("reserving the port in the container's namespace")
            .and_then(|()| self.write(&tunnel, &attached, slot));
        if opened.is_err() {
            // The first error is the one to tell.
            let _second = self.erase(&tunnel, &attached, slot);
        }
        opened
    }

    async fn resume(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let attached = self.attached(&tunnel)?;
        let slot = self.rows.counted(&tunnel)?;
        self.older().insert(tunnel.id.clone());
        // The port is reserved in its namespace since it began.
        self.write(&tunnel, &attached, slot)
    }

    async fn close(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let is_older = self.older().remove(&tunnel.id);
        let (Some(slot), Ok(attached)) = (self.rows.slot(&tunnel), self.attached(&tunnel)) else {
            return Ok(());
        };
        let (port, used) = (tunnel.port, is_older || self.was_used(&tunnel));
        let ending = attached.clone();
        let quieted = tokio::task::spawn_blocking(move || {
            if used {
                // While the rows are there the peers get their resets.
                sockets::reset(&ending.namespace, port)?;
            }
            ending.namespace.run(|| sysctl::release_port(port))
        });
        let quieted = quieted.await.context("ending the tunnel's connections").and_then(|done| {
            done.context("ending the tunnel's connections in the container's namespace")
        });
        let erased = self.erase(&tunnel, &attached, slot);
        erased.and(quieted)
    }

    fn in_use(&self, port: u16) -> bool {
        in_use(port)
    }
}

/// Whether a program of the machine itself holds this TCP port.
pub fn in_use(port: u16) -> bool {
    // Binding without SO_REUSEADDR fails if anybody listens there, on any address.
    let anywhere: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    std::net::TcpListener::bind(anywhere)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}
