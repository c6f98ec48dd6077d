//! The rows of one tunnel in the kernel's tables, on the machine that has its public address.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context as _;
use edge_common::{
    address::{Address, Endpoint},
    admit::{Pace, PaceRow},
    tables::{ForwardRow, ListenerRow, MAX_TUNNELS, Traffic, TunnelRow},
};
use ipnet::IpNet;

use super::uplink::Uplink;
use crate::{
    datapath::{Datapath, UplinkMode},
    region::{
        bounds::{Bounds, Rate},
        tunnel::Tunnel,
    },
};

/// Writes rows of tunnels, and keeps account of their counters.
pub struct TunnelRows {
    datapath: Arc<Datapath>,
    uplinks: Vec<Uplink>,
    slots: Mutex<Slots>,
}

/// Where a tunnel's container is.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// On this machine.
    Here {
        /// The host-side veth.
        ifindex: u32,
        /// The container's MAC address, and two zero bytes.
        mac: [u8; 8],
        /// Whether the kernel serves a raw port; else userspace does.
        native: bool,
    },
    /// On the host with this number.
    Host {
        /// The number.
        number: u16,
        /// Whether replies come by this machine; else userspace serves the raw port.
        native: bool,
    },
}

#[derive(Default)]
struct Slots {
    of: HashMap<String, u32>,
    free: BTreeSet<u32>,
    next: u32,
}

/// Every row of one tunnel; [`TunnelRows::write`] says in which account they count.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) tunnels: Vec<(Endpoint, TunnelRow)>,
    pub(super) forwards: Vec<(Endpoint, ForwardRow)>,
    pub(super) listeners: Vec<Endpoint>,
    pub(super) list: Vec<IpNet>,
    pub(super) pace: Option<PaceRow>,
    pub(super) slot: u32,
}

impl TunnelRows {
    /// In these tables, for clients that come by these uplinks.
    pub fn new(datapath: Arc<Datapath>, uplinks: Vec<Uplink>) -> Arc<Self> {
        Arc::new(Self { datapath, uplinks, slots: Mutex::default() })
    }

    /// What the kernel carried for a tunnel.
    pub fn traffic(&self, tunnel: &Tunnel) -> Traffic {
        let slot = self.slot(tunnel);
        slot.and_then(|slot| self.datapath.traffic(slot).ok()).unwrap_or_default()
    }

    /// What a raw packet from outside meets first: `xdp`, `tcx` or `userspace`.
    pub fn path(&self, tunnel: &Tunnel) -> &'static str {
        let rows = [true, false].map(|v4| self.datapath.forward(Self::inner(tunnel, v4)));
        // Whatever the kernel lets in, it answers.
        let by_kernel = rows.into_iter().flatten().any(|row| row.uplink != 0);
        let mode = self.uplinks.iter().find_map(|uplink| uplink.mode).filter(|_| by_kernel);
        mode.map_or("userspace", UplinkMode::label)
    }

    /// Opens a tunnel to its container, with fresh counters or, if it is there already, with
    /// those that it has.
    ///
    /// # Errors
    /// If a table is full or the kernel refuses; then nothing of it is left.
    pub fn open(&self, tunnel: &Tunnel, target: Target) -> anyhow::Result<()> {
        let slot = self.counted(tunnel)?;
        let written = self.write(tunnel, self.rows(tunnel, target, slot));
        if written.is_err() {
            // The first error is the one to tell.
            let _second = self.erase(&self.rows(tunnel, target, slot));
            self.release(tunnel);
        }
        written
    }

    /// Removes its rows; fine if it has none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn close(&self, tunnel: &Tunnel, target: Target) -> anyhow::Result<()> {
        let Some(slot) = self.slot(tunnel) else { return Ok(()) };
        let erased = self.erase(&self.rows(tunnel, target, slot));
        self.release(tunnel);
        erased
    }

    /// A container's endpoint on the tunnel's port.
    pub(super) fn inner(tunnel: &Tunnel, v4: bool) -> Endpoint {
        let container = &tunnel.container;
        let address = if v4 { container.ipv4.into() } else { IpAddr::from(container.i6pn) };
        SocketAddr::new(address, tunnel.port).into()
    }

    /// The rows of a tunnel that leads there.
    pub(super) fn rows(&self, tunnel: &Tunnel, target: Target, slot: u32) -> Rows {
        let userspace = ForwardRow { slot, ..ForwardRow::default() };
        let forwards = vec![(Self::inner(tunnel, true), userspace)];
        let mut rows = Rows { forwards, slot, ..Rows::default() };
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
        let (host, ifindex, mac, native) = match target {
            Target::Here { ifindex, mac, native } => (0, ifindex, mac, native),
            Target::Host { number, native } => (number.into(), 0, [0; 8], native),
        };
        for uplink in &self.uplinks {
            for address in &uplink.addresses {
                let public = Endpoint::from(SocketAddr::new(*address, raw.port));
                rows.listeners.push(public);
                let by_kernel = native && (address.is_ipv4() || tunnel.options.native_ipv6);
                if uplink.mode.is_none() || !by_kernel {
                    continue;
                }
                let own = Self::inner(tunnel, address.is_ipv4());
                let tunnel =
                    TunnelRow { container: own, host, ifindex, slot, flags, account: 0, mac };
                rows.tunnels.push((public, tunnel));
                let forward =
                    ForwardRow { public, uplink: uplink.index, gateway: 0, slot, account: 0 };
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

    /// Writes them, counted for the workspace of the tunnel's container.
    pub(super) fn write(&self, tunnel: &Tunnel, mut rows: Rows) -> anyhow::Result<()> {
        let container = &tunnel.container;
        let earlier = self.datapath.forward(Self::inner(tunnel, true)).map(|row| row.account);
        let workspace = Address::from(IpAddr::from(container.i6pn)).workspace();
        let account = self.datapath.account(workspace, &container.workspace, earlier)?;
        rows.forwards.iter_mut().for_each(|(_, row)| row.account = account);
        rows.tunnels.iter_mut().for_each(|(_, row)| row.account = account);
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

    pub(super) fn erase(&self, rows: &Rows) -> anyhow::Result<()> {
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

    /// The tunnel's place in the counters, if it has one.
    pub(super) fn slot(&self, tunnel: &Tunnel) -> Option<u32> {
        self.slots().of.get(&tunnel.id).copied()
    }

    /// A place in the counters: the one that its row has, of an earlier daemon, or a fresh one.
    pub(super) fn counted(&self, tunnel: &Tunnel) -> anyhow::Result<u32> {
        let counted = self.datapath.forward(Self::inner(tunnel, true)).map(|row| row.slot);
        match counted.filter(|slot| self.slots().claim(&tunnel.id, *slot)) {
            Some(slot) => Ok(slot),
            None => self.fresh(tunnel),
        }
    }

    /// A fresh place in the counters.
    pub(super) fn fresh(&self, tunnel: &Tunnel) -> anyhow::Result<u32> {
        let slot = self.slots().take(&tunnel.id).context("no traffic counter is free")?;
        self.datapath.clear_traffic(slot)?;
        Ok(slot)
    }

    /// Its place in the counters is free again.
    pub(super) fn release(&self, tunnel: &Tunnel) {
        self.slots().give_back(&tunnel.id);
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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
