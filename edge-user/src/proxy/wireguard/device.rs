//! An interface, and what speaks WireGuard behind it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use anyhow::Context as _;
use gotatun::packet::Packet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    engine::{self, Engine},
    keys::Keys,
    peers::{Peers, Spoken, Wanted},
    probe::{Probe, Pulse, inner},
    there::{Far, Sender},
    tun, udp,
};
use crate::host::{links::Links, sysctl};

/// What a device is made of.
pub(super) struct Plan<'m> {
    /// The interface's name.
    pub(super) name: &'m str,
    /// Bytes of an IP packet.
    pub(super) mtu: u32,
    /// This machine's number.
    pub(super) own: u16,
    /// Its keys.
    pub(super) keys: &'m Keys,
    /// The UDP port; 0 is one of the kernel's choice.
    pub(super) port: u16,
}

/// An interface with WireGuard behind it.
pub(super) struct Tunnel {
    /// The interface's index.
    pub(super) ifindex: u32,
    /// Whether it is wide enough for IPv6, and the kernel has that.
    pub(super) has_ipv6: bool,
    peers: Arc<Mutex<Peers>>,
    own: u16,
    probes: mpsc::Sender<Packet>,
    pulse: Pulse,
    stop: CancellationToken,
    engine: JoinHandle<()>,
}

impl Tunnel {
    /// Makes it, or takes up an interface that is there; the interface is up then.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) async fn open(links: &Links, plan: Plan<'_>) -> anyhow::Result<Self> {
        let Plan { name, mtu, own, keys, port } = plan;
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
        let has_ipv6 = sysctl::take_ipv6(name)?;
        let link = links.find(name).await?;
        let ifindex = link.with_context(|| format!("interface {name} is gone again"))?.index;
        links.up(ifindex).await?;
        let opened = udp::open(port).await;
        let (send, receive) = opened.with_context(|| format!("WireGuard on UDP port {port}"))?;
        let peers = Arc::new(Mutex::new(Peers::new(keys, mtu)));
        let engine = Engine { peers: peers.clone(), from, to, send, receive };
        let stop = CancellationToken::new();
        let engine = tokio::spawn(engine.run(stop.clone()));
        Ok(Self { ifindex, has_ipv6, peers, own, probes, pulse, stop, engine })
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
    pub(super) fn spoken(&self) -> BTreeMap<[u8; 32], Spoken> {
        self.peers().spoken()
    }

    /// Speaks under these keys from now on: who knows them may begin a session anew.
    pub(super) fn answer_as(&self, keys: &Keys) {
        self.peers().change_keys(keys);
    }

    /// Begins a session with the gateway at the other end anew, under these keys.
    pub(super) fn begin_as(&self, keys: &Keys, far: &Far) {
        let mut peers = self.peers();
        peers.remove(far.key);
        peers.change_keys(keys);
        peers.put(receiver(far));
    }

    /// One more peer, or the same with other addresses; its session goes on then.
    pub(super) fn put(&self, peer: Wanted) {
        self.peers().put(peer);
    }

    /// A peer less.
    pub(super) fn remove(&self, key: [u8; 32]) {
        self.peers().remove(key);
    }

    /// Lets go of the socket; the interface stays.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.engine.await {
            tracing::error!(%error, "WireGuard did not end well");
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        engine::peers(&self.peers)
    }
}

/// A host, as a gateway has it: it may send from its networks, and speak for itself.
pub(super) fn sender(key: [u8; 32], host: &Sender) -> Wanted {
    let own = IpNet::from(IpAddr::V4(inner(host.number)));
    Wanted { key, endpoint: None, networks: host.networks.iter().copied().chain([own]).collect() }
}

/// A gateway, as a host has it: it may send from anywhere.
pub(super) fn receiver(far: &Far) -> Wanted {
    let all = vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
    Wanted { key: far.key, endpoint: Some(far.endpoint), networks: all }
}
