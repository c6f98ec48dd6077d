//! Tunnels and peers, as the region's view wants them, and whether they answer.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use ipnet::IpNet;
use tokio::{
    sync::{oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    device::{Plan, Tunnel, receiver, sender},
    keys::{Keys, decoded},
    paths::Paths,
    rotation::{Rotation, Turn},
    there::{Far, Inward, Outward, Sender, There, ipv6_networks, least},
};
use crate::{
    host::links::Links,
    proxy::{board::Board, plan::Way, snat::Interfaces},
    region::{
        roster::{HostRecord, Role},
        view::View,
    },
};

/// The UDP port of gateways, which is WireGuard's own.
pub const PORT: u16 = 51820;

/// Between two attempts at what did not work.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether gateways are to be asked for a sign of life, and have given one.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two looks at what WireGuard counts.
const LOOK: u32 = 4;

/// Keeps interfaces and peers.
pub struct Mesh {
    /// This machine's number.
    pub own: u16,
    /// Its keys.
    pub keys: Keys,
    /// How they change.
    pub rotation: Rotation,
    /// The UDP port of a gateway; none for a host.
    pub port: Option<u16>,
    /// Bytes of an IP packet on its interfaces.
    pub mtu: u32,
    /// The addresses of its own underlay.
    pub underlay: Vec<IpAddr>,
    /// What the interfaces are called.
    pub names: Interfaces,
    /// Netlink.
    pub links: Links,
    /// Who is told which ways there are.
    pub ways: watch::Sender<BTreeMap<u16, Way>>,
    /// Who is told what is known of them.
    pub board: Arc<Board>,
}

impl Mesh {
    /// Follows the view until the shutdown, when what is returned ends; interfaces stay.
    ///
    /// On a thread of its own, which nothing else of the daemon keeps from packets.
    ///
    /// # Errors
    /// If the kernel refuses a thread or what it needs.
    pub fn start(
        self,
        views: watch::Receiver<Arc<View>>,
        shutdown: CancellationToken,
    ) -> io::Result<impl Future<Output = ()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, end) = oneshot::channel::<()>();
        std::thread::Builder::new().name("edge-wireguard".into()).spawn(move || {
            runtime.block_on(self.follow(views, shutdown));
            drop(ended);
        })?;
        Ok(end.map(drop))
    }

    async fn follow(mut self, mut views: watch::Receiver<Arc<View>>, shutdown: CancellationToken) {
        let mut there = There::default();
        let mut turn = Turn::default();
        let mut failed = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        let mut anew = true;
        loop {
            if std::mem::take(&mut anew) {
                let view = views.borrow_and_update().clone();
                // Before the first session nobody knows who the others are now.
                let done = if view.revision > 0 {
                    self.step(&mut there, &mut turn, &view).await
                } else {
                    Ok(())
                };
                if let Err(error) = &done
                    && !failed
                {
                    let error = format!("{error:#}");
                    tracing::error!(error, "WireGuard to the region's machines; trying on");
                }
                failed = done.is_err();
            }
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    anew = true;
                }
                () = tokio::time::sleep(AGAIN), if failed => anew = true,
                _ = tick.tick(), if !there.is_empty() => {
                    there.ask();
                    self.tell(&there);
                    turn.begin(&self.keys, &self.rotation, &there);
                    if ticks.is_multiple_of(LOOK) {
                        self.board.post_paths(self.look(&mut there).await);
                    }
                    ticks = ticks.wrapping_add(1);
                }
                () = shutdown.cancelled() => break,
            }
        }
        // A successor may want the sockets.
        if let Some(inward) = there.inward {
            inward.tunnel.stop().await;
        }
        for (_, outward) in there.outward {
            outward.tunnel.stop().await;
        }
    }

    async fn step(
        &mut self,
        there: &mut There,
        turn: &mut Turn,
        view: &View,
    ) -> anyhow::Result<()> {
        if view.proxies.is_empty() && there.is_empty() {
            return Ok(());
        }
        let inward = match self.port {
            Some(port) => self.inward(there, view, turn.inward(&self.keys), port).await,
            None => Ok(()),
        };
        let outward = self.outward(there, view).await;
        self.tell(there);
        inward.and(outward)?;
        turn.end(&mut self.keys, self.own, view, there).await
    }

    /// Which ways there are, to whom it concerns if they are others than before.
    fn tell(&self, there: &There) {
        let now = Instant::now();
        let way = |(number, Outward { tunnel, far }): (&u16, &Outward)| {
            let answers = tunnel.pulse().beats(now);
            (*number, Way { ifindex: tunnel.ifindex, mtu: far.mtu, answers })
        };
        let ways: BTreeMap<_, _> = there.outward.iter().map(way).collect();
        self.ways.send_if_modified(|known| {
            for (number, way) in &ways {
                match known.get(number).map(|known| known.answers) {
                    Some(true) if !way.answers => {
                        tracing::warn!(gateway = number, "it does not answer by WireGuard");
                    }
                    Some(false) if way.answers => {
                        tracing::info!(gateway = number, "it answers by WireGuard again");
                    }
                    _ => {}
                }
            }
            let differs = *known != ways;
            *known = ways;
            differs
        });
    }

    /// Of a gateway: every machine of the region is a peer, with its own networks.
    async fn inward(
        &self,
        there: &mut There,
        view: &View,
        keys: &Keys,
        port: u16,
    ) -> anyhow::Result<()> {
        let others = view.hosts.values().filter(|host| host.record.id != self.own);
        let mut v6 = ipv6_networks(view);
        let wanted: BTreeMap<_, _> = others
            .filter_map(|host| {
                let record = &host.record;
                Some((key(record)?, Sender::of(record, v6.remove(&record.id), self.mtu)))
            })
            .collect();
        if there.inward.is_none() {
            // Nobody would come.
            if wanted.is_empty() {
                return Ok(());
            }
            let tunnel = self.open(&self.names.gateway, keys, port).await?;
            there.inward = Some(Inward { tunnel, peers: BTreeMap::new(), routes: BTreeMap::new() });
        }
        let Some(inward) = &mut there.inward else { return Ok(()) };
        for key in inward.peers.keys().copied().collect::<Vec<_>>() {
            if !wanted.contains_key(&key) {
                inward.tunnel.remove(key);
                inward.peers.remove(&key);
            }
        }
        for (key, one) in wanted {
            if inward.peers.get(&key) != Some(&one) {
                inward.tunnel.put(sender(key, &one));
                inward.peers.insert(key, one);
            }
        }
        let tunnel = &inward.tunnel;
        let routes: BTreeMap<_, _> =
            inward.peers.values().flat_map(|one| one.routes(tunnel.has_ipv6)).collect();
        for (network, mtu) in &routes {
            if inward.routes.get(network) == Some(mtu) {
                continue;
            }
            match self.links.add_route(tunnel.ifindex, *network, *mtu).await {
                Ok(()) => drop(inward.routes.insert(*network, *mtu)),
                // Somebody may have switched IPv6 off since; IPv4 goes on.
                Err(error) if matches!(network, IpNet::V6(_)) => {
                    tracing::warn!(%error, %network, "no IPv6 by WireGuard to a host");
                }
                Err(error) => return Err(error.into()),
            }
        }
        for network in inward.routes.keys().copied().collect::<Vec<_>>() {
            if !routes.contains_key(&network) {
                self.links.remove_route(tunnel.ifindex, network).await?;
                inward.routes.remove(&network);
            }
        }
        Ok(())
    }

    /// An interface to every gateway but this one.
    async fn outward(&self, there: &mut There, view: &View) -> anyhow::Result<()> {
        let others = view
            .hosts
            .values()
            .filter(|host| host.record.role == Role::Gateway && host.record.id != self.own);
        let wanted: BTreeMap<u16, Far> = others
            .filter_map(|host| {
                let ip = self.reachable(&host.record.about.underlay)?;
                let wireguard = host.record.about.wireguard.as_ref()?;
                let far = Far {
                    key: key(&host.record)?,
                    endpoint: SocketAddr::new(ip, wireguard.port),
                    mtu: least(self.mtu, wireguard),
                };
                Some((host.record.id, far))
            })
            .collect();
        for number in there.outward.keys().copied().collect::<Vec<_>>() {
            if wanted.contains_key(&number) {
                continue;
            }
            if let Some(gone) = there.outward.remove(&number) {
                gone.tunnel.stop().await;
                self.links.remove(&self.way_name(number)).await?;
            }
        }
        for (number, far) in wanted {
            match there.outward.get_mut(&number) {
                Some(outward) => {
                    let Far { key, endpoint, .. } = outward.far;
                    if (key, endpoint) != (far.key, far.endpoint) {
                        outward.tunnel.remove(key);
                        outward.tunnel.put(receiver(&far));
                    }
                    outward.far = far;
                }
                None => {
                    let tunnel = self.open(&self.way_name(number), &self.keys, 0).await?;
                    tunnel.put(receiver(&far));
                    there.outward.insert(number, Outward { tunnel, far });
                }
            }
        }
        Ok(())
    }

    /// What WireGuard and the kernel have counted.
    async fn look(&self, there: &mut There) -> Paths {
        let mut unsent = BTreeMap::new();
        let gateway = there.inward.is_some().then(|| self.names.gateway.clone());
        for name in gateway.into_iter().chain(there.outward.keys().map(|to| self.way_name(*to))) {
            if let Ok(Some(link)) = self.links.find(&name).await {
                unsent.insert(name, link.unsent);
            }
        }
        Paths { all: there.paths(), unsent }
    }

    /// The first address of a family that this machine's underlay has, too.
    fn reachable(&self, underlay: &[IpAddr]) -> Option<IpAddr> {
        let has = |ip: &&IpAddr| self.underlay.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        underlay.iter().find(has).copied()
    }

    fn way_name(&self, number: u16) -> String {
        format!("{}{number}", self.names.ways)
    }

    async fn open(&self, name: &str, keys: &Keys, port: u16) -> anyhow::Result<Tunnel> {
        let Self { own, mtu, .. } = *self;
        Tunnel::open(&self.links, Plan { name, mtu, own, keys, port }).await
    }
}

fn key(record: &HostRecord) -> Option<[u8; 32]> {
    decoded(&record.about.wireguard.as_ref()?.key)
}
