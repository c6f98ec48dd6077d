//! What does a static outbound address cost? A container of one machine whose packets leave by
//! another under that one's address: by edge's proxy, by wireguard-go and by plain routing with
//! nftables' source NAT behind, and by a SOCKS server.

mod spread;

use std::{any::Any, net::SocketAddr};

use anyhow::Result;
pub(crate) use spread::measure as spread;
use tests::{
    netns::NetNs,
    process::{Running, Start as _},
    region::{Place, Plan, Scene, Underlay},
    wire::Wire,
};

use crate::{
    field::{self, Path},
    i6pn::ways::{Way, wireguard},
    load,
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
/// Where the SOCKS server listens.
const SOCKS: u16 = 1080;

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
    field::interleaved(rounds, ways.iter().map(|way| &way.path), &mut measures, once)?;
    let question = "What does a static outbound address cost?".to_owned();
    Ok(Report { question, machine, measures: measures.into() })
}

/// One round of one way, in the order of the measures.
fn once(path: &Path) -> Result<[f64; 8]> {
    let one = bulk(path, &[])?;
    let four = bulk(path, &["--parallel", "4"])?.gigabits;
    let back = bulk(path, &["--reverse"])?.gigabits;
    let single = load::round_trips(&path.from, path.echo(), 1, WHILE)?;
    let many = load::round_trips(&path.from, path.echo(), MANY, WHILE)?;
    let new = load::new_connections(&path.from, path.echo(), MANY, WHILE)?;
    Ok([one.gigabits, one.cpu, four, back, single.rate, many.rate, many.p99, new])
}

fn edge() -> Result<Way> {
    let plan = Plan::over(Underlay::V4).hosts(1);
    let region = plan.gateway_arguments_more(&["--proxy-addresses", NETWORK]).up();
    region.gateway().edge.cli(&["proxy", "create", "static", "--ip", ADDRESS]).ok();
    let tenant = region.hosts[0].tenant("proxied", &["--proxy", "static"]);
    let (from, internet) = (tenant.netns.clone(), region.scene.internet.clone());
    Way::new("edge, proxy", [&from, &internet], Scene::CLIENT, (tenant, region))
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
    Way::new(name, [&container, &internet], Scene::CLIENT, (led, wire, places, scene))
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
    field::nft(&place.netns, &text)
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
    let scene = (running, wire, places, scene);
    Way::through("microsocks", [&container, &internet], Scene::CLIENT, socks, scene)
}
