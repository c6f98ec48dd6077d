//! Attacks, each at a pace that is stated: what is asked is what the gateway makes of them, not
//! how fast the attackers' half of the machine is.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use edge_user::wire::modal::{
    TunnelStartRequest, TunnelStopRequest, modal_client_client::ModalClientClient,
};
use etherparse::PacketBuilder;
use rustls::{ClientConnection, pki_types::ServerName};
use tests::{
    edge::Tunnel,
    lab::Lab,
    netns::NetNs,
    strangers::Strangers,
    tap::Tap,
    tenant::Tenant,
    tls::{TlsClient, host},
};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use crate::hostile::gateway;

/// Connections that an attacker holds at a time.
const HELD: usize = 500;
/// Connections that do nothing.
const IDLE: usize = 2_000;
const API: &str = "http://169.254.20.10:80";
const API_SOCKET: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)), 80);
/// How often a second a thread can sleep.
const TICKS: u32 = 1_000;
/// Where the hostile container's programs would listen.
const PORT: u16 = 9000;

/// An attack.
pub(crate) struct Attack {
    /// With its pace.
    pub(crate) name: &'static str,
    run: fn(&Scene, &Signals) -> Result<()>,
}

/// All attacks, and before them what anybody's work on the same processors does.
pub(crate) const ATTACKS: &[Attack] = &[
    Attack { name: "no attack: a busy loop beside it", run: busy },
    Attack { name: "500 half ClientHellos a second", run: half_hellos },
    Attack { name: "slowloris, 500 connections, 5,000 bytes a second", run: slowloris },
    Attack { name: "64 KiB of SNI, 50 a second", run: long_names },
    Attack { name: "2,000 idle connections", run: idle },
    Attack { name: "SYN flood, 20,000 a second from forged sources", run: syn_flood },
    Attack { name: "garbage on the API, 200 a second", run: api_garbage },
    Attack { name: "tunnels opened and closed, 100 a second", run: restless },
];

/// What an attack and who measures it tell each other.
#[derive(Default)]
pub(crate) struct Signals {
    /// The attack has all that it needs, and goes on.
    begun: AtomicBool,
    stop: AtomicBool,
}

impl Signals {
    /// Whether the attack goes on by now.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Ends the attack.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The attack goes on, until this is no longer true.
    fn go_on(&self) -> bool {
        self.begun.store(true, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Where attackers come from.
pub(crate) struct Scene {
    strangers: Strangers,
    /// A container that is up to no good.
    hostile: Tenant,
    client: TlsClient,
    tunnel: Tunnel,
    internet: NetNs,
    mac: [u8; 6],
    greeting: Vec<u8>,
}

impl Scene {
    /// Adds the attackers to a lab.
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let port = PORT.to_string();
        let options = ["--unencrypted-port", &port, "--new-connections-per-source", "none"];
        let hostile = Tenant::new(&lab.edge, "hostile", &options);
        let tunnel = lab.edge.tunnels().into_iter().find(|one| one.container == "hostile");
        let client = lab.tls();
        let name = ServerName::try_from("nobody.r1.localhost")?;
        let mut greeting = Vec::new();
        ClientConnection::new(client.config(), name)?.write_tls(&mut greeting)?;
        Ok(Self {
            strangers: Strangers::new(lab, 101),
            hostile,
            client,
            tunnel: tunnel.context("no tunnel")?,
            internet: lab.internet.clone(),
            mac: lab.machine.mac("up0"),
            greeting,
        })
    }

    /// Attacks until it is told to stop, at the lowest priority: the bystander's own side has
    /// the processor when it wants it.
    pub(crate) fn run(&self, attack: &Attack, signals: &Signals) -> Result<()> {
        // SAFETY: it changes the priority of this thread and touches no memory.
        unsafe { libc::nice(19) };
        (attack.run)(self, signals)
    }
}

/// Calls again and again at a pace until told to stop: as evenly as a thread can sleep, since who
/// attacks from many places does not do so in step.
fn until(signals: &Signals, a_second: u32, mut again: impl FnMut() -> Result<()>) -> Result<()> {
    while signals.go_on() {
        for _ in 0..(a_second / TICKS).max(1) {
            again()?;
        }
        thread::sleep(Duration::from_secs(1) / a_second.clamp(1, TICKS));
    }
    Ok(())
}

fn busy(_: &Scene, signals: &Signals) -> Result<()> {
    while signals.go_on() {
        std::hint::spin_loop();
    }
    Ok(())
}

fn half_hellos(scene: &Scene, signals: &Signals) -> Result<()> {
    let half = &scene.greeting[..scene.greeting.len() / 2];
    let mut held = VecDeque::new();
    until(signals, 500, || {
        held.extend(scene.strangers.tries(1, gateway()?));
        if let Some(mut newest) = held.back() {
            // The gateway may have had enough.
            newest.write_all(half).ok();
        }
        if held.len() > HELD {
            held.pop_front();
        }
        Ok(())
    })
}

fn slowloris(scene: &Scene, signals: &Signals) -> Result<()> {
    let mut held = scene.strangers.tries(HELD, gateway()?);
    let bytes = scene.greeting.iter().cycle();
    let mut next = bytes.flat_map(|byte| (0..HELD).map(move |number| (number, *byte)));
    // Ten bytes a second each.
    until(signals, 5_000, || {
        let (number, byte) = next.next().context("an empty greeting")?;
        if let Some(stream) = held.get_mut(number) {
            // One that met its deadline cannot send.
            stream.write_all(&[byte]).ok();
        }
        Ok(())
    })
}

fn long_names(scene: &Scene, signals: &Signals) -> Result<()> {
    let long = tests::strangers::long_hello();
    until(signals, 50, || {
        for mut stream in scene.strangers.tries(1, gateway()?) {
            // It may be over before all is sent.
            stream.write_all(&long).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
        Ok(())
    })
}

fn idle(scene: &Scene, signals: &Signals) -> Result<()> {
    let config = scene.client.config();
    let name = ServerName::try_from(host(&scene.tunnel.url).to_owned())?;
    let opened = scene.strangers.each(IDLE, gateway()?, |mut tcp| -> Result<_> {
        let mut tls = ClientConnection::new(config.clone(), name.clone())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok((tls, tcp))
    })?;
    until(signals, 10, || Ok(()))?;
    drop(opened);
    Ok(())
}

fn syn_flood(scene: &Scene, signals: &Signals) -> Result<()> {
    let to = (Lab::PUBLIC.parse::<Ipv4Addr>()?, scene.tunnel.raw_port());
    // Only now: it is shown all that passes, which costs.
    let tap = Tap::on(&scene.internet, "eth0");
    let mut source = 0_u32;
    until(signals, 20_000, || {
        source = source.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let from = Ipv4Addr::from_bits(0x0a00_0000 | source >> 8);
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], scene.mac)
            .ipv4(from.octets(), to.0.octets(), 64)
            .tcp(1024 + (source & 0x7fff) as u16, to.1, source, 65_535)
            .syn();
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write(&mut frame, &[])?;
        tap.send_frame(&frame);
        Ok(())
    })
}

fn api_garbage(scene: &Scene, signals: &Signals) -> Result<()> {
    let garbage: Vec<u8> = scene.greeting.iter().copied().cycle().take(10_000).collect();
    scene.hostile.netns.enter(|| {
        until(signals, 200, || {
            // Beyond the bound it is reset.
            if let Ok(mut stream) = TcpStream::connect(API_SOCKET) {
                stream.write_all(&garbage).ok();
            }
            Ok(())
        })
    })
}

fn restless(scene: &Scene, signals: &Signals) -> Result<()> {
    scene.hostile.netns.enter(|| {
        let runtime = Runtime::new()?;
        let channel = runtime.block_on(Endpoint::from_static(API).connect())?;
        let mut client = ModalClientClient::new(channel);
        let port = u32::from(PORT) + 1;
        until(signals, 100, || {
            let start = TunnelStartRequest { port, unencrypted: true, ..Default::default() };
            runtime.block_on(client.tunnel_start(start))?;
            let stopped = runtime.block_on(client.tunnel_stop(TunnelStopRequest { port }))?;
            ensure!(stopped.into_inner().exists, "the tunnel was gone");
            Ok(())
        })
    })
}
