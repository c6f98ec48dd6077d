//! The ways between two namespaces, each with servers at its far end.

use std::{any::Any, net::Ipv6Addr};

use anyhow::Result;
use tests::{
    lab::Lab,
    netns::NetNs,
    process::{Running, Start as _},
    region::{Place, Plan, Scene, Underlay},
    tenant::Tenant,
    wire::Wire,
};

use crate::{
    cpu,
    field::{self, Path},
    load::Server,
};

/// Where iperf3 listens.
const BULK: u16 = 8000;
/// Where [`Server`] does.
const ECHO: u16 = 8001;
/// The two ends, where edge does not give them addresses.
const ENDS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2)];

/// One way; it goes with this guard.
pub(crate) struct Way {
    pub(crate) path: Path,
    _servers: (Running, Server),
    _scene: Box<dyn Any>,
}

impl Way {
    /// From one namespace to an address of the other; the scene is whatever must stay.
    pub(crate) fn new(
        name: &str,
        [from, to]: [&NetNs; 2],
        address: Ipv6Addr,
        scene: impl Any,
    ) -> Result<Self> {
        field::tune(from);
        field::tune(to);
        let cpu = cpu::SERVER.to_string();
        let mut iperf3 = to.command("iperf3");
        iperf3.args(["--server", "--port", &BULK.to_string(), "--affinity", &cpu]);
        let servers = (iperf3.running(), Server::start(to, ECHO)?);
        let at = |port: u16| (address, port).into();
        let path =
            Path { name: name.to_owned(), from: from.clone(), bulk: at(BULK), echo: at(ECHO) };
        path.wait()?;
        Ok(Self { path, _servers: servers, _scene: Box::new(scene) })
    }
}

/// Two namespaces of one machine.
pub(crate) fn same_host() -> Result<Vec<Way>> {
    Ok(vec![routed_here()?, wired()?, edge_here()?])
}

/// Two namespaces of two machines.
pub(crate) fn two_hosts() -> Result<Vec<Way>> {
    Ok(vec![
        between("kernel routed", Underlay::Direct, |[a, b]| {
            let [to_a, to_b] = [&a.underlay[0], &b.underlay[0]].map(ToString::to_string);
            a.netns.ip(&["route", "add", "fd00:2::/64", "via", &to_b]);
            b.netns.ip(&["route", "add", "fd00:1::/64", "via", &to_a]);
        })?,
        between("kernel VXLAN over IPv4", Underlay::V4, vxlan)?,
        edge_between("edge, direct", Underlay::Direct)?,
        edge_between("edge, Geneve over IPv4", Underlay::V4)?,
    ])
}

fn wired() -> Result<Way> {
    let [a, b] = ["a", "b"].map(NetNs::new);
    let ends = ["fd00:2::1/64", "fd00:2::2/64"];
    let wire = Wire::new(&a, "eth0", &ends[..1], &b, "eth0", &ends[1..]);
    Way::new("a bare veth pair", [&a, &b], ENDS[1], wire)
}

fn routed_here() -> Result<Way> {
    let router = NetNs::new("router");
    let [a, b] = ["a", "b"].map(NetNs::new);
    let wires = [(&a, 1), (&b, 2)].map(|(netns, number)| container(&router, netns, number));
    route(&router);
    Way::new("kernel routed", [&a, &b], ENDS[1], (wires, router))
}

fn edge_here() -> Result<Way> {
    let lab = Lab::new(&[]);
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let (from, to, address) = (a.netns.clone(), b.netns.clone(), b.i6pn());
    Way::new("edge, same host", [&from, &to], address, (a, b, lab))
}

/// Two machines without edge; the closure leads packets from one to the other.
fn between(name: &str, underlay: Underlay, lead: impl FnOnce([&Place; 2])) -> Result<Way> {
    let scene = Scene::new(&Plan::over(underlay));
    let [near, far] = [11, 12].map(|number| scene.place(&format!("host{number}"), number));
    let [a, b] = ["a", "b"].map(NetNs::new);
    let wires = [container(&near.netns, &a, 1), container(&far.netns, &b, 2)];
    route(&near.netns);
    route(&far.netns);
    lead([&near, &far]);
    Way::new(name, [&a, &b], ENDS[1], (wires, near, far, scene))
}

fn vxlan([near, far]: [&Place; 2]) {
    for (own, other, number) in [(near, far, 1), (far, near, 2)] {
        let [local, remote] = [own, other].map(|place| place.underlay[0].to_string());
        let ends = ["local", &local, "remote", &remote, "dstport", "4789", "dev", "un0"];
        own.netns.ip(&[&["link", "add", "vx0", "type", "vxlan", "id", "7"][..], &ends].concat());
        own.netns.ip(&["address", "add", &format!("fd00:9::{number}/64"), "dev", "vx0", "nodad"]);
        own.netns.ip(&["link", "set", "vx0", "up"]);
    }
    near.netns.ip(&["route", "add", "fd00:2::/64", "via", "fd00:9::2"]);
    far.netns.ip(&["route", "add", "fd00:1::/64", "via", "fd00:9::1"]);
}

fn edge_between(name: &str, underlay: Underlay) -> Result<Way> {
    let region = Plan::over(underlay).hosts(2).up();
    let [a, b] = [0, 1].map(|host: usize| region.hosts[host].private(&format!("c{host}")));
    let (from, to, address) = (a.netns.clone(), b.netns.clone(), b.i6pn());
    Way::new(name, [&from, &to], address, (a, b, region))
}

/// A namespace wired to a router, with a default route by it.
fn container(router: &NetNs, netns: &NetNs, number: u8) -> Wire {
    let [own, other] = [1, 2].map(|last| format!("fd00:{number}::{last}/64"));
    let wire = Wire::new(router, &format!("in{number}"), &[&own], netns, "eth0", &[&other]);
    netns.ip(&["route", "add", "default", "via", &format!("fd00:{number}::1")]);
    wire
}

fn route(netns: &NetNs) {
    netns.sysctl("net/ipv6/conf/all/forwarding", "1");
}
