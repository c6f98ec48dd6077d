//! Tunnels in the kernel's tables: what [`Steering`] asks for, done.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, anyhow};
use edge_common::{
    address::Endpoint,
    admit::{Pace, PaceRow},
    tables::{ForwardRow, ListenerRow, MAX_TUNNELS, Traffic, TunnelRow},
};
use ipnet::IpNet;

use super::{
    containers::{Attached, Containers},
    sockets, sysctl,
    uplink::Uplink,
    wiring::padded,
};
use crate::{
    datapath::Datapath,
    region::{
        bounds::{Bounds, Rate},
        steering::Steering,
        tunnel::Tunnel,
    },
};

/// Writes tunnels into the tables of this host.
pub struct KernelSteering {
    datapath: Arc<Datapath>,
    containers: Arc<Containers>,
    uplinks: Vec<Uplink>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    of: HashMap<String, u32>,
    free: BTreeSet<u32>,
    next: u32,
}

/// Every row of one tunnel.
struct Rows {
    tunnels: Vec<(Endpoint, TunnelRow)>,
    forwards: Vec<(Endpoint, ForwardRow)>,
    listeners: Vec<Endpoint>,
    list: Vec<IpNet>,
    pace: Option<PaceRow>,
    slot: u32,
}

impl KernelSteering {
    /// For the containers and uplinks of this host.
    pub fn new(datapath: Arc<Datapath>, containers: Arc<Containers>, uplinks: Vec<Uplink>) -> Self {
        Self { datapath, containers, uplinks, slots: Mutex::default() }
    }

    /// What the kernel carried for a tunnel.
    pub fn traffic(&self, tunnel: &Tunnel) -> Traffic {
        let slot = self.slots().of.get(&tunnel.id).copied();
        slot.and_then(|slot| self.datapath.traffic(slot).ok()).unwrap_or_default()
    }

    /// What a raw packet from outside meets first: `xdp`, `tcx` or `userspace`.
    pub fn path(&self, tunnel: &Tunnel) -> &'static str {
        let kernel = self.uplinks.iter().filter_map(|uplink| uplink.mode).next();
        match (&tunnel.raw, kernel) {
            (Some(_), Some(mode)) => mode.label(),
            _ => "userspace",
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self, tunnel: &Tunnel, attached: &Attached, slot: u32) -> Rows {
        let (v4, v6) = (tunnel.container.ipv4, tunnel.container.i6pn);
        let inner = |address: IpAddr| Endpoint::from(SocketAddr::new(address, tunnel.port));
        let userspace = ForwardRow { slot, ..ForwardRow::default() };
        let mut rows = Rows {
            tunnels: Vec::new(),
            forwards: vec![(inner(v4.into()), userspace)],
            listeners: Vec::new(),
            list: Vec::new(),
            pace: None,
            slot,
        };
        let Some(raw) = &tunnel.raw else { return rows };
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            rows.listeners.push(SocketAddr::new(address, raw.port).into());
        }
        let mut flags = 0;
        if !tunnel.options.allow.is_empty() {
            flags |= TunnelRow::LISTED;
            rows.list.extend(tunnel.options.allow.iter());
        }
        rows.pace = pace(&tunnel.options.bounds);
        if rows.pace.is_some() {
            flags |= TunnelRow::PACED;
        }
        for uplink in &self.uplinks {
            for address in &uplink.addresses {
                let public = Endpoint::from(SocketAddr::new(*address, raw.port));
                rows.listeners.push(public);
                let native = address.is_ipv4() || tunnel.options.native_ipv6;
                if uplink.mode.is_none() || !native {
                    continue;
                }
                let own = inner(if address.is_ipv4() { v4.into() } else { v6.into() });
                let mac = padded(attached.wired.mac);
                let ifindex = attached.wired.ifindex;
                rows.tunnels.push((
                    public,
                    TunnelRow { container: own, host: 0, ifindex, slot, flags, mac },
                ));
                let forward = ForwardRow { public, uplink: uplink.index, gateway: 0, slot };
                // One public address per family: the first that came is the one replies carry.
                match rows.forwards.iter_mut().find(|(endpoint, _)| *endpoint == own) {
                    Some((_, row)) if row.uplink == 0 => *row = forward,
                    Some(_) => {}
                    None => rows.forwards.push((own, forward)),
                }
            }
        }
        rows
    }

    fn write(&self, rows: &Rows) -> anyhow::Result<()> {
        // Bounds first: there is no moment in which a tunnel is open to everybody.
        self.datapath.set_list(rows.slot, &rows.list)?;
        if let Some(pace) = rows.pace {
            self.datapath.set_pace(rows.slot, pace)?;
        }
        // Then replies: a tunnel that delivers must be able to answer.
        for (endpoint, row) in &rows.forwards {
            self.datapath.add_forward(*endpoint, *row)?;
        }
        for endpoint in &rows.listeners {
            self.datapath.add_listener(*endpoint, ListenerRow { kind: ListenerRow::RAW })?;
        }
        for (endpoint, row) in &rows.tunnels {
            self.datapath.add_tunnel(*endpoint, *row)?;
        }
        Ok(())
    }

    fn erase(&self, rows: &Rows) -> anyhow::Result<()> {
        for (endpoint, _) in &rows.tunnels {
            self.datapath.remove_tunnel(*endpoint)?;
        }
        for endpoint in &rows.listeners {
            self.datapath.remove_listener(*endpoint)?;
        }
        for (endpoint, _) in &rows.forwards {
            self.datapath.remove_forward(*endpoint)?;
        }
        self.datapath.set_list(rows.slot, &[])?;
        Ok(())
    }

    fn fresh_slot(&self, tunnel: &Tunnel) -> anyhow::Result<u32> {
        let slot = self.slots().take(&tunnel.id).context("no traffic counter is free")?;
        self.datapath.clear_traffic(slot)?;
        Ok(slot)
    }

    fn attached(&self, tunnel: &Tunnel) -> anyhow::Result<Arc<Attached>> {
        let id = &tunnel.container.id;
        self.containers.by_id(id).ok_or_else(|| anyhow!("container {id} is gone; start another"))
    }
}

/// How often connections through the kernel may open, if that is bounded. What is drawn tells the
/// tunnel's sources from those of others that had its slot; a chance meeting does little harm.
fn pace(bounds: &Bounds) -> Option<PaceRow> {
    let of = |rate: Rate| Pace::new(rate.per_second(), rate.burst());
    (bounds.source_rate_raw.is_some() || bounds.tunnel_rate.is_some()).then(|| PaceRow {
        source: bounds.source_rate_raw.map(of).unwrap_or_default(),
        tunnel: bounds.tunnel_rate.map(of).unwrap_or_default(),
        generation: rand::random(),
        reserved: 0,
    })
}

impl Steering for KernelSteering {
    async fn open(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let attached = self.attached(&tunnel)?;
        let slot = self.fresh_slot(&tunnel)?;
        let rows = self.rows(&tunnel, &attached, slot);
        let port = tunnel.port;
        let opened = attached
            .namespace
            .run(|| sysctl::reserve_ports(port, port))
            .context("reserving the port in the container's namespace")
            .and_then(|()| self.write(&rows));
        if opened.is_err() {
            // The first error is the one to tell.
            let _second = self.erase(&rows);
            self.slots().give_back(&tunnel.id);
        }
        opened
    }

    async fn resume(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let attached = self.attached(&tunnel)?;
        let own = SocketAddr::from((tunnel.container.ipv4, tunnel.port));
        let counted = self.datapath.forward(own.into()).map(|row| row.slot);
        let slot = match counted.filter(|slot| self.slots().claim(&tunnel.id, *slot)) {
            Some(slot) => slot,
            None => self.fresh_slot(&tunnel)?,
        };
        // The port is reserved in its namespace since it began.
        self.write(&self.rows(&tunnel, &attached, slot))
    }

    async fn close(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        let slot = self.slots().of.get(&tunnel.id).copied();
        let (Some(slot), Ok(attached)) = (slot, self.attached(&tunnel)) else { return Ok(()) };
        let port = tunnel.port;
        let ending = attached.clone();
        let quieted = tokio::task::spawn_blocking(move || {
            // While the rows are there the peers get their resets.
            sockets::reset(&ending.namespace, port)?;
            ending.namespace.run(|| sysctl::release_port(port))
        });
        let quieted = quieted.await.context("ending the tunnel's connections").and_then(|done| {
            done.context("ending the tunnel's connections in the container's namespace")
        });
        let erased = self.erase(&self.rows(&tunnel, &attached, slot));
        self.slots().give_back(&tunnel.id);
        erased.and(quieted)
    }

    fn in_use(&self, port: u16) -> bool {
        // Binding without SO_REUSEADDR fails if anybody listens there, on any address.
        let anywhere: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
        std::net::TcpListener::bind(anywhere)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    }
}

impl Slots {
    fn take(&mut self, tunnel: &str) -> Option<u32> {
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.next < MAX_TUNNELS => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.of.insert(tunnel.to_owned(), slot);
        Some(slot)
    }

    /// Takes this very slot. Answers whether it was free.
    fn claim(&mut self, tunnel: &str, slot: u32) -> bool {
        if slot >= MAX_TUNNELS {
            return false;
        }
        while self.next <= slot {
            self.free.insert(self.next);
            self.next += 1;
        }
        let free = self.free.remove(&slot);
        if free {
            self.of.insert(tunnel.to_owned(), slot);
        }
        free
    }

    fn give_back(&mut self, tunnel: &str) {
        if let Some(slot) = self.of.remove(tunnel) {
            self.free.insert(slot);
        }
    }
}
