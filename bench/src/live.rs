//! How many packets a second does one CPU carry? Frames made by the kernel itself
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`), as a NIC's driver would hand them over: dropped in XDP, and into
//! a container's namespace, beside a program that does nothing and plain routing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use anyhow::{Result, ensure};
use edge_common::{
    tables::TunnelRow,
    verdict::{Hook, Verdict},
};
use edge_user::datapath::{Datapath, UplinkMode};
use nix::net::if_::if_nametoindex;
use tests::{lab::Lab, netns::NetNs, wire::Wire};

use crate::{
    arrivals, cpu,
    decision::counted,
    empty::Empty,
    frames::{segment, settings},
    machine::Machine,
    report::{Better, Measure, Report},
};

const PINS: &str = "/sys/fs/bpf/edge/bench-live";
const FRAMES: u32 = 1_000_000;
/// What a driver takes off its ring at once.
const BATCH: u32 = 64;
/// Ethernet and IPv4 without options: what routing changes.
const HEADERS: usize = 34;
const PORT: u16 = 20_000;
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// The container as plain routing reaches it.
const ROUTED: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 2);
/// Of the container pool, which nobody outside may address.
const INNER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 9);

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let scene = Scene::new()?;
    let mut dropped = Measure::new("dropped in XDP", "million/s", Better::More);
    let mut delivered = Measure::new("into a namespace", "million/s", Better::More);
    let outer = scene.frame("up0", (PUBLIC, PORT))?;
    let inner = scene.frame("up0", (INNER, PORT))?;
    let routed = scene.frame("plain0", (ROUTED, PORT))?;
    let (drop, pass) = (Empty::dropping()?, Empty::renewing(&routed, HEADERS)?);
    for _ in 0..rounds {
        let rate = scene.rate("up0", |up| Ok(drop.live_frames(&outer, up, FRAMES, BATCH)?))?;
        dropped.push("a program that only drops", rate);
        let rate = scene.judged(Verdict::BareInner, &inner)?;
        dropped.push("edge, refusal", rate);

        let before = arrivals::seen(&scene.container)?;
        let rate = scene.rate("plain0", |up| Ok(pass.live_frames(&routed, up, FRAMES, BATCH)?))?;
        delivered.push("kernel routed, no tunnel", rate * scene.share_since(before)?);
        let before = arrivals::seen(&scene.container)?;
        let rate = scene.judged(Verdict::Tunnel, &outer)?;
        delivered.push("edge, raw tunnel", rate * scene.share_since(before)?);
    }
    Ok(Report {
        question: "How many packets a second does one CPU carry?".to_owned(),
        machine,
        measures: vec![dropped, delivered],
    })
}

/// A machine with edge's programs on `up0` and none on `plain0`, and a container that counts and
/// drops whatever comes in.
struct Scene {
    datapath: Datapath,
    machine: NetNs,
    container: NetNs,
    _wires: [Wire; 3],
}

impl Scene {
    fn new() -> Result<Self> {
        let [machine, internet, container] = ["machine", "internet", "container"].map(NetNs::new);
        machine.sysctl("net/ipv4/ip_forward", "1");
        let public = format!("{}/24", Lab::PUBLIC);
        let wires = [
            Wire::new(&machine, "up0", &[&public], &internet, "eth0", &[]),
            Wire::new(&machine, "plain0", &["198.18.8.1/24"], &internet, "eth1", &[]),
            Wire::new(&machine, "ct0", &["198.18.9.1/24"], &container, "eth0", &[]),
        ];
        let mac = container.mac("eth0");
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        machine.ip(&["neigh", "add", &ROUTED.to_string(), "lladdr", &text, "dev", "ct0"]);
        arrivals::count_and_drop(&container, "ip protocol tcp")?;

        let datapath = Datapath::load(Path::new(PINS))?;
        datapath.configure(&settings()?)?;
        let ifindex = machine.enter(|| if_nametoindex("ct0"))?;
        let [a, b, c, d, e, f] = mac;
        let public = SocketAddr::from((PUBLIC, PORT)).into();
        let mac = [a, b, c, d, e, f, 0, 0];
        // A frame is used again as it was left, so the tunnel leads to itself.
        let row = TunnelRow { container: public, ifindex, mac, ..TunnelRow::default() };
        datapath.add_tunnel(public, row)?;
        machine.enter(|| datapath.attach_uplink("up0", UplinkMode::Tcx))?;
        Ok(Self { datapath, machine, container, _wires: wires })
    }

    /// A segment that comes in by an interface of the machine.
    fn frame(&self, interface: &str, to: (Ipv4Addr, u16)) -> Result<Vec<u8>> {
        let mut frame = segment((CLIENT, 40_000), to)?;
        frame[..6].copy_from_slice(&self.machine.mac(interface));
        Ok(frame)
    }

    /// Million frames a second through `xdp_uplink`, each of which must be judged so.
    fn judged(&self, verdict: Verdict, frame: &[u8]) -> Result<f64> {
        let before = counted(&self.datapath, Hook::XdpUplink, verdict)?;
        let rate = self.rate("up0", |ifindex| {
            Ok(self.datapath.live_frames(frame, ifindex, FRAMES, BATCH)?)
        })?;
        let hits = counted(&self.datapath, Hook::XdpUplink, verdict)? - before;
        ensure!(hits == u64::from(FRAMES), "{verdict:?}: {hits} of {FRAMES} frames");
        Ok(rate)
    }

    /// Million frames a second that a run sends in by an interface, on one CPU.
    fn rate(&self, interface: &str, run: impl Fn(u32) -> Result<()> + Sync) -> Result<f64> {
        let elapsed = self.machine.enter(|| {
            cpu::pin(cpu::CLIENT)?;
            let ifindex = if_nametoindex(interface)?;
            let begun = Instant::now();
            run(ifindex).map(|()| begun.elapsed())
        })?;
        Ok(f64::from(FRAMES) / elapsed.as_secs_f64() / 1e6)
    }

    /// Of the frames that were sent since, how many arrived: a queue on the way that is full drops
    /// what comes next. From 0 to 1.
    fn share_since(&self, before: u64) -> Result<f64> {
        let arrived = u32::try_from(arrivals::seen(&self.container)? - before)?;
        ensure!(arrived > 0, "no frame arrived");
        Ok(f64::from(arrived) / f64::from(FRAMES))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.machine.enter(|| self.datapath.detach("up0"));
        std::fs::remove_dir_all(PINS).ok();
    }
}
