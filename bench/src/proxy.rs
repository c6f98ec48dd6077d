//! What does a static outbound address cost? A container of one machine whose packets leave by
//! another under that one's address: by edge's proxy, by wireguard-go and by plain routing with
//! nftables' source NAT behind, and by a SOCKS server.

use std::{any::Any, fs, net::SocketAddr};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tests::{
    netns::NetNs,
    process::{Running, Start as _},
    region::{Place, Plan, Scene, Underlay},
    wire::Wire,
};

use crate::{
    cpu,
    field::{self, Path},
    i6pn::ways::wireguard,
    load::{self, Server},
    machine::Machine,
    raw::{MANY, WHILE, bulk},
    report::{Better, Measure, Report},
};

/// The address that the internet sees.
const ADDRESS: &str = "192.0.2.65";
/// Addresses that edge may serve.
const NETWORK: &str = "192.0.2.64/28";
/// A machine's and a container's end of their wire, without edge.
const WIRE: [&str; 2] = ["10.9.0.1", "10.9.0.2"];
/// Where iperf3 listens.
const BULK: u16 = 8000;
/// Where [`Server`] does.
const ECHO: u16 = 8001;
/// Where the SOCKS server does.
const SOCKS: u16 = 1080;

/// One way; it goes with this guard.
struct Way {
    path: Path,
    _servers: (Running, Server),
    _scene: Box<dyn Any>,
}

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let ways = [
        // The first is what the others are compared with.
        without_edge("wireguard-go, source NAT", Underlay::V4, by_wireguard)?,
        edge()?,
        without_edge("kernel routed, source NAT", Underlay::Direct, by_routing)?,
        by_socks()?,
    ];
    let mut measures = [
        Measure::new("one stream out", "Gbit/s", Better::More),
        Measure::new("CPU of the whole machine", "s/GB", Better::Less),
        Measure::new("four streams out", "Gbit/s", Better::More),
        Measure::new("one stream in", "Gbit/s", Better::More),
        Measure::new("round trips, 1 connection", "1/s", Better::More),
        Measure::new("round trips, 16 connections", "1/s", Better::More),
        Measure::new("p99 of these", "µs", Better::Less),
        Measure::new("new connections", "1/s", Better::More),
    ];
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for Way { path, .. } in &ways {
            let values = once(path).with_context(|| path.name.clone())?;
            for (measure, value) in measures.iter_mut().zip(values) {
                measure.push(&path.name, value);
            }
        }
    }
    let question = "What does a static outbound address cost?".to_owned();
    Ok(Report { question, machine, measures: measures.into() })
}

/// One round of one way, in the order of the measures.
fn once(path: &Path) -> Result<[f64; 8]> {
    let (one, cpu) = bulk(path, &[])?;
    let (four, _) = bulk(path, &["--parallel", "4"])?;
    let (back, _) = bulk(path, &["--reverse"])?;
    let single = load::round_trips(&path.from, path.echo(), 1, WHILE)?;
    let many = load::round_trips(&path.from, path.echo(), MANY, WHILE)?;
    let new = load::new_connections(&path.from, path.echo(), MANY, WHILE)?;
    Ok([one, cpu, four, back, single.rate, many.rate, many.p99, new])
}

impl Way {
    fn new(name: &str, from: &NetNs, internet: &NetNs, scene: impl Any) -> Result<Self> {
        Self::through(name, from, internet, None, scene)
    }

    fn through(
        name: &str,
        from: &NetNs,
        internet: &NetNs,
        socks: Option<SocketAddr>,
        scene: impl Any,
    ) -> Result<Self> {
        field::tune(from);
        field::tune(internet);
        let mut iperf3 = internet.command("iperf3");
        let cpu = cpu::SERVER.to_string();
        iperf3.args(["--server", "--port", &BULK.to_string(), "--affinity", &cpu]);
        let servers = (iperf3.running(), Server::start(internet, ECHO)?);
        let [bulk, echo] = [BULK, ECHO].map(|port| (Scene::CLIENT, port).into());
        let path = Path { name: name.to_owned(), from: from.clone(), bulk, echo, socks };
        path.wait()?;
        Ok(Self { path, _servers: servers, _scene: Box::new(scene) })
    }
}

fn edge() -> Result<Way> {
    let plan = Plan::over(Underlay::V4).hosts(1);
    let region = plan.gateway_arguments_more(&["--proxy-addresses", NETWORK]).up();
    region.gateway().edge.cli(&["proxy", "create", "static", "--ip", ADDRESS]).ok();
    let tenant = region.hosts[0].tenant("proxied", &["--proxy", "static"]);
    let (from, internet) = (tenant.netns.clone(), region.scene.internet.clone());
    Way::new("edge, proxy", &from, &internet, (tenant, region))
}

/// The closure leads packets from a host to a gateway and back, as long as what it returns stays.
fn without_edge<S: Any>(
    name: &str,
    underlay: Underlay,
    lead: impl FnOnce([&Place; 2]) -> S,
) -> Result<Way> {
    let (scene, places, container, wire) = machines(underlay);
    let [host, gateway] = &places;
    gateway.netns.ip(&["address", "add", &format!("{ADDRESS}/32"), "dev", Scene::UPLINK]);
    translate(gateway, Scene::UPLINK, &format!("snat to {ADDRESS}"))?;
    let led = lead([host, gateway]);
    let internet = scene.internet.clone();
    Way::new(name, &container, &internet, (led, wire, places, scene))
}

/// A host with a container, and a gateway.
fn machines(underlay: Underlay) -> (Scene, [Place; 2], NetNs, Wire) {
    let scene = Scene::new(&Plan::over(underlay));
    let places = [("host", 11), ("gateway", 1)].map(|(name, number)| scene.place(name, number));
    for place in &places {
        place.netns.sysctl("net/ipv4/ip_forward", "1");
    }
    let container = NetNs::new("container");
    let ends = WIRE.map(|address| format!("{address}/24"));
    let wire = Wire::new(&places[0].netns, "in1", &[&ends[0]], &container, "eth0", &[&ends[1]]);
    container.ip(&["route", "add", "default", "via", WIRE[0]]);
    (scene, places, container, wire)
}

fn translate(place: &Place, by: &str, how: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("snat.nft");
    let text = format!(
        "table ip translation {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {}/24 oifname {by} {how}
    }}
}}
",
        WIRE[0]
    );
    fs::write(&script, text)?;
    place.netns.command("nft").arg("-f").arg(&script).output_of().ok();
    Ok(())
}

fn by_routing([host, gateway]: [&Place; 2]) {
    let [to_host, to_gateway] = [host, gateway].map(|place| place.underlay[0].to_string());
    let internet = Scene::CLIENT.to_string();
    host.netns.ip(&["route", "add", &internet, "via", "inet6", &to_gateway]);
    gateway.netns.ip(&["route", "add", WIRE[1], "via", "inet6", &to_host]);
}

fn by_wireguard([host, gateway]: [&Place; 2]) -> Vec<Running> {
    let ends = wireguard([host, gateway]);
    let internet = Scene::CLIENT.to_string();
    host.netns.ip(&["route", "add", &internet, "dev", &ends[0].1]);
    gateway.netns.ip(&["route", "add", WIRE[1], "dev", &ends[1].1]);
    ends.into_iter().map(|(running, _)| running).collect()
}

/// The container speaks SOCKS to the gateway, which it reaches under its host's address.
fn by_socks() -> Result<Way> {
    let (scene, places, container, wire) = machines(Underlay::V4);
    let [host, gateway] = &places;
    gateway.netns.ip(&["address", "add", &format!("{ADDRESS}/32"), "dev", Scene::UPLINK]);
    translate(host, "un0", "masquerade")?;
    let mut server = gateway.netns.command("microsocks");
    let running = server.args(["-p", &SOCKS.to_string(), "-b", ADDRESS]).running();
    let socks = Some(SocketAddr::new(gateway.underlay[0], SOCKS));
    let internet = scene.internet.clone();
    Way::through("microsocks", &container, &internet, socks, (running, wire, places, scene))
}

/// iperf3 by a SOCKS server: the folder holds the configuration that it needs.
pub(crate) fn through_socks(
    from: &NetNs,
    socks: SocketAddr,
) -> Result<(std::process::Command, TempDir)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("proxychains.conf");
    let (address, port) = (socks.ip(), socks.port());
    fs::write(&file, format!("strict_chain\n[ProxyList]\nsocks5 {address} {port}\n"))?;
    let mut command = from.command("proxychains4");
    command.args(["-q", "-f"]).arg(file).arg("iperf3");
    Ok((command, folder))
}
