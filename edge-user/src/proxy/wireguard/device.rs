//! An interface, and what speaks WireGuard behind it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use gotatun::{
    device::{Device, DeviceBuilder, Peer},
    noise::TimerParams,
    packet::Packet,
    x25519::{PublicKey, StaticSecret},
};
use ipnet::Ipv4Net;
use tokio::sync::mpsc;

use super::{
    probe::{Probe, Pulse, inner},
    tun::{self, FromKernel, ToKernel},
    udp::Sockets,
};
use crate::host::{links::Links, sysctl};

/// What was sent goes unanswered for so long until a handshake is tried again: a gateway that has
/// a new daemon does not know the old one's sessions. Probes are answered by then, so silence is
/// one.
const UNANSWERED: Duration = Duration::from_secs(3);

/// What a device is made of.
pub(super) struct Plan<'m> {
    /// The interface's name.
    pub(super) name: &'m str,
    /// Bytes of an IP packet.
    pub(super) mtu: u32,
    /// This machine's number.
    pub(super) own: u16,
    /// Its key.
    pub(super) secret: StaticSecret,
    /// The UDP port; 0 is one of the kernel's choice.
    pub(super) port: u16,
    /// Who may speak.
    pub(super) peers: Vec<Peer>,
}

/// An interface with WireGuard behind it.
pub(super) struct Tunnel {
    /// The interface's index.
    pub(super) ifindex: u32,
    device: Device<(Sockets, ToKernel, FromKernel)>,
    own: u16,
    probes: mpsc::Sender<Packet>,
    pulse: Pulse,
}

/// What WireGuard itself knows of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    /// When the last handshake was.
    pub(super) shaken: Option<Instant>,
    /// Bytes to the peer, encrypted.
    pub(super) sent: u64,
    /// Bytes from there, decrypted.
    pub(super) received: u64,
}

impl Tunnel {
    /// Makes it, or takes up an interface that is there; the interface is up then.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) async fn open(links: &Links, plan: Plan<'_>) -> anyhow::Result<Self> {
        let Plan { name, mtu, own, secret, port, peers } = plan;
        let mtu = u16::try_from(mtu).context("the underlay's MTU")?;
        let pulse = Pulse::new(Instant::now());
        let tun::Ends { to, from, probes } = tun::open(name, mtu, inner(own), pulse.clone())
            .with_context(|| {
                format!("interface {name} cannot be made; is there a /dev/net/tun?")
            })?;
        // Its packets come from the whole internet, which the routing table looks for elsewhere; the
        // stricter of this and the setting for all interfaces holds.
        let all = sysctl::read("net/ipv4/conf/all/rp_filter")?;
        let strict = if all.trim() == "0" { "0" } else { "2" };
        sysctl::write(&format!("net/ipv4/conf/{name}/rp_filter"), strict)?;
        let ipv6 = format!("net/ipv6/conf/{name}/disable_ipv6");
        match sysctl::write(&ipv6, "1") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let link = links.find(name).await?;
        let ifindex = link.with_context(|| format!("interface {name} is gone again"))?.index;
        links.up(ifindex).await?;
        let device = DeviceBuilder::new()
            .with_udp(Sockets::default())
            .with_ip_pair(to, from)
            .with_private_key(secret)
            .with_listen_port(port)
            .with_peers(peers)
            .build()
            .await
            .with_context(|| format!("WireGuard on UDP port {port}"))?;
        Ok(Self { ifindex, device, own, probes, pulse })
    }

    /// Asks the machine at the other end for a sign of life, if it is time to.
    pub(super) fn ask(&self, machine: u16, now: Instant) {
        if let Some(mark) = self.pulse.ask(now) {
            let (from, to) = (inner(self.own), inner(machine));
            // No room is a way that does not work.
            self.probes.try_send(Probe { from, to, answers: false, mark }.packet()).ok();
        }
    }

    /// How it answers.
    pub(super) const fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// What is known of the peers, by key.
    pub(super) async fn spoken(&self) -> BTreeMap<[u8; 32], Spoken> {
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let now = Instant::now();
        let peers = self.device.peers().await.into_iter().map(|one| {
            let spoken = Spoken {
                shaken: one.stats.last_handshake.and_then(|age| now.checked_sub(age)),
                sent: count(one.stats.tx_bytes),
                received: count(one.stats.rx_bytes),
            };
            (one.peer.public_key.to_bytes(), spoken)
        });
        peers.collect()
    }

    /// One more peer.
    ///
    /// # Errors
    /// If its packets cannot be taken.
    pub(super) async fn add(&self, peer: Peer) -> anyhow::Result<()> {
        self.device.add_or_update_peer(peer).await?;
        Ok(())
    }

    /// A peer may send other addresses from now on; its session goes on.
    ///
    /// # Errors
    /// If its packets cannot be taken.
    pub(super) async fn allow(&mut self, peer: &Peer) -> anyhow::Result<()> {
        let allowed = peer.allowed_ips.clone();
        let modify = self.device.modify_peer(&peer.public_key, |known| {
            known.clear_allowed_ips();
            known.add_allowed_ips(allowed);
        });
        modify.await?;
        Ok(())
    }

    /// A peer less.
    ///
    /// # Errors
    /// If the others' packets cannot be taken any more.
    pub(super) async fn remove(&self, key: [u8; 32]) -> anyhow::Result<()> {
        self.device.remove_peer(&PublicKey::from(key)).await?;
        Ok(())
    }

    /// Lets go of the sockets; the interface stays.
    pub(super) async fn stop(self) {
        self.device.stop().await;
    }
}

/// A host, as a gateway has it: it may send what its blocks hold, and speak for itself.
pub(super) fn sender(key: [u8; 32], number: u16, blocks: &[Ipv4Net]) -> anyhow::Result<Peer> {
    let mut peer = Peer::new(PublicKey::from(key));
    for network in blocks.iter().copied().chain([Ipv4Net::from(inner(number))]) {
        // The same network in the words of another crate.
        peer = peer.with_allowed_ip(network.to_string().parse().context("a block")?);
    }
    Ok(peer)
}

/// A gateway, as a host has it: it may send from anywhere.
pub(super) fn receiver(key: [u8; 32], endpoint: SocketAddr) -> anyhow::Result<Peer> {
    let peer = Peer::new(PublicKey::from(key)).with_endpoint(endpoint);
    let timers = TimerParams {
        new_handshake_timeout: UNANSWERED..=UNANSWERED + Duration::from_millis(333),
        ..TimerParams::default()
    };
    let peer = peer.with_allowed_ip("0.0.0.0/0".parse().context("all networks")?);
    Ok(peer.dangerously_with_timer_params(timers))
}
