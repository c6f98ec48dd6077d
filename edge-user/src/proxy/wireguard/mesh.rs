//! Interfaces and peers, as the region's view wants them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use gotatun::{
    device::{Device, DeviceBuilder, Peer},
    x25519::PublicKey,
};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    keys::{Keys, decoded},
    tun::{self, FromKernel, ToKernel},
    udp::Sockets,
};
use crate::{
    host::{links::Links, sysctl},
    proxy::{plan::Way, snat::Interfaces},
    region::{roster::Role, view::View},
};

/// The UDP port of gateways, which is WireGuard's own.
pub const PORT: u16 = 51820;

/// Seconds between two packets at least: so both sides know that the other is there.
const KEEPALIVE: u16 = 10;
/// Between two attempts at what did not work.
const AGAIN: Duration = Duration::from_millis(500);

/// Keeps interfaces and peers.
pub struct Mesh {
    /// This machine's number.
    pub own: u16,
    /// Its keys.
    pub keys: Keys,
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
}

type Tunnel = Device<(Sockets, ToKernel, FromKernel)>;

/// What there is.
#[derive(Default)]
struct There {
    /// For hosts.
    inward: Option<Inward>,
    /// To gateways, by number.
    outward: BTreeMap<u16, Outward>,
}

struct Inward {
    device: Tunnel,
    ifindex: u32,
    /// Blocks by key.
    peers: BTreeMap<[u8; 32], Vec<Ipv4Net>>,
    routes: BTreeSet<Ipv4Net>,
}

struct Outward {
    device: Tunnel,
    way: Way,
    far: Far,
}

/// The far end of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Far {
    key: [u8; 32],
    endpoint: SocketAddr,
}

impl Mesh {
    /// Follows the view until the shutdown; interfaces stay.
    pub async fn follow(self, mut views: watch::Receiver<Arc<View>>, shutdown: CancellationToken) {
        let mut there = There::default();
        let mut failed = false;
        loop {
            let view = views.borrow_and_update().clone();
            // Before the first session nobody knows who the others are now.
            if view.revision > 0
                && let Err(error) = self.step(&mut there, &view).await
            {
                if !failed {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "WireGuard to the region's machines; trying on"
                    );
                }
                failed = true;
            } else {
                failed = false;
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if failed => {}
                () = shutdown.cancelled() => break,
            }
        }
        // A successor may want the sockets.
        if let Some(inward) = there.inward {
            inward.device.stop().await;
        }
        for (_, outward) in there.outward {
            outward.device.stop().await;
        }
    }

    async fn step(&self, there: &mut There, view: &View) -> anyhow::Result<()> {
        if view.proxies.is_empty() && there.outward.is_empty() && there.inward.is_none() {
            return Ok(());
        }
        let inward = match self.port {
            Some(port) => self.inward(there, view, port).await,
            None => Ok(()),
        };
        let outward = self.outward(there, view).await;
        let ways = there.outward.iter().map(|(number, outward)| (*number, outward.way));
        let ways: BTreeMap<_, _> = ways.collect();
        self.ways.send_if_modified(|known| {
            let differs = *known != ways;
            *known = ways;
            differs
        });
        inward.and(outward)
    }

    /// Of a gateway: every machine of the region is a peer, with its own blocks.
    async fn inward(&self, there: &mut There, view: &View, port: u16) -> anyhow::Result<()> {
        let others = view.hosts.values().filter(|host| host.record.id != self.own);
        let wanted: BTreeMap<_, _> = others
            .filter_map(|host| {
                let key = decoded(&host.record.about.wireguard.as_ref()?.key)?;
                Some((key, host.record.blocks.clone()))
            })
            .collect();
        if there.inward.is_none() {
            let peers = wanted.iter().map(|(key, blocks)| sender(*key, blocks));
            let peers = peers.collect::<Result<Vec<_>, _>>()?;
            // Without a peer it would not begin.
            if peers.is_empty() {
                return Ok(());
            }
            let (device, ifindex) = self.open(&self.names.gateway, port, peers).await?;
            let routes = BTreeSet::new();
            there.inward = Some(Inward { device, ifindex, peers: wanted.clone(), routes });
        }
        let Some(inward) = &mut there.inward else { return Ok(()) };
        let before = inward.peers.clone();
        for key in before.keys().filter(|key| wanted.get(*key) != before.get(*key)) {
            inward.device.remove_peer(&PublicKey::from(*key)).await?;
            inward.peers.remove(key);
        }
        for (key, blocks) in wanted {
            if !inward.peers.contains_key(&key) {
                inward.device.add_or_update_peer(sender(key, &blocks)?).await?;
                inward.peers.insert(key, blocks);
            }
        }
        let routes: BTreeSet<_> = inward.peers.values().flatten().copied().collect();
        for block in routes.difference(&inward.routes) {
            self.links.add_route(inward.ifindex, IpNet::V4(*block)).await?;
        }
        for block in inward.routes.difference(&routes) {
            self.links.remove_route(inward.ifindex, IpNet::V4(*block)).await?;
        }
        inward.routes = routes;
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
                let wireguard = host.record.about.wireguard.as_ref()?;
                let key = decoded(&wireguard.key)?;
                let ip = self.reachable(&host.record.about.underlay)?;
                let endpoint = SocketAddr::new(ip, wireguard.port);
                Some((host.record.id, Far { key, endpoint }))
            })
            .collect();
        for number in there.outward.keys().copied().collect::<Vec<_>>() {
            if wanted.contains_key(&number) {
                continue;
            }
            if let Some(gone) = there.outward.remove(&number) {
                gone.device.stop().await;
                self.links.remove(&self.way_name(number)).await?;
            }
        }
        for (number, far) in wanted {
            match there.outward.get_mut(&number) {
                Some(outward) if outward.far == far => {}
                Some(outward) => {
                    outward.device.clear_peers().await?;
                    outward.device.add_peer(receiver(&far)?).await?;
                    outward.far = far;
                }
                None => {
                    let name = self.way_name(number);
                    let (device, ifindex) = self.open(&name, 0, vec![receiver(&far)?]).await?;
                    let way = Way { ifindex, mtu: self.mtu };
                    there.outward.insert(number, Outward { device, way, far });
                }
            }
        }
        Ok(())
    }

    /// The first address of a family that this machine's underlay has, too.
    fn reachable(&self, underlay: &[IpAddr]) -> Option<IpAddr> {
        let has = |ip: &&IpAddr| self.underlay.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        underlay.iter().find(has).copied()
    }

    fn way_name(&self, number: u16) -> String {
        format!("{}{number}", self.names.ways)
    }

    /// An interface, up, and what speaks WireGuard behind it. Port 0 is one of the kernel's choice.
    async fn open(&self, name: &str, port: u16, peers: Vec<Peer>) -> anyhow::Result<(Tunnel, u32)> {
        let mtu = u16::try_from(self.mtu).context("the underlay's MTU")?;
        let (to, from) = tun::open(name, mtu).with_context(|| {
            format!("interface {name} cannot be made; is there a /dev/net/tun?")
        })?;
        // Its packets come from the whole internet, which the routing table looks for elsewhere; the
        // stricter of this and the setting for all interfaces holds.
        let all = sysctl::read("net/ipv4/conf/all/rp_filter")?;
        let own = if all.trim() == "0" { "0" } else { "2" };
        sysctl::write(&format!("net/ipv4/conf/{name}/rp_filter"), own)?;
        let ipv6 = format!("net/ipv6/conf/{name}/disable_ipv6");
        match sysctl::write(&ipv6, "1") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let link = self.links.find(name).await?;
        let ifindex = link.with_context(|| format!("interface {name} is gone again"))?.index;
        self.links.up(ifindex).await?;
        let device = DeviceBuilder::new()
            .with_udp(Sockets::default())
            .with_ip_pair(to, from)
            .with_private_key(self.keys.secret.clone())
            .with_listen_port(port)
            .with_peers(peers)
            .build()
            .await
            .with_context(|| format!("WireGuard on UDP port {port}"))?;
        Ok((device, ifindex))
    }
}

/// A host, as a gateway has it: it may send what its blocks hold.
fn sender(key: [u8; 32], blocks: &[Ipv4Net]) -> anyhow::Result<Peer> {
    let mut peer = Peer::new(PublicKey::from(key));
    for block in blocks {
        // The same network in the words of another crate.
        peer = peer.with_allowed_ip(block.to_string().parse().context("a block")?);
    }
    Ok(peer)
}

/// A gateway, as a host has it: it may send from anywhere.
fn receiver(far: &Far) -> anyhow::Result<Peer> {
    let mut peer = Peer::new(PublicKey::from(far.key)).with_endpoint(far.endpoint);
    peer = peer.with_allowed_ip("0.0.0.0/0".parse().context("all networks")?);
    peer.keepalive = Some(KEEPALIVE);
    Ok(peer)
}
