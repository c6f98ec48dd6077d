//! The ways between two namespaces, each with servers at its far end.

use std::{
    any::Any,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Running, Start as _, wait_for},
    region::{Place, Plan, Scene, Underlay},
    tenant::Tenant,
    wire::Wire,
};

use crate::{
    field::{self, BULK, ECHO, Path},
    load::Server,
};

/// What a machine calls its interface towards the underlay.
const UNDERLAY: &str = "un0";
/// The two ends, where edge does not give them addresses.
const ENDS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2)];

/// One way; it goes with this guard.
pub(crate) struct Way {
    pub(crate) path: Path,
    /// Where the path ends.
    pub(crate) to: NetNs,
    /// Where packets come into the last machine, if there is one between the two ends.
    pub(crate) entrance: Option<Entrance>,
    _servers: (Running, Server),
    _scene: Box<dyn Any>,
}

/// An interface of a machine.
pub(crate) struct Entrance {
    pub(crate) netns: NetNs,
    pub(crate) interface: String,
}

impl Entrance {
    fn new(netns: &NetNs, interface: &str) -> Self {
        Self { netns: netns.clone(), interface: interface.to_owned() }
    }

    /// A machine's end of a container's wire.
    fn of_container(machine: &NetNs, container: &NetNs) -> Result<Self> {
        let links = |netns: &NetNs| -> Result<Vec<Value>> {
            let text = netns.command("ip").args(["-json", "link", "show"]).output_of().ok();
            Ok(serde_json::from_str(&text.stdout)?)
        };
        let named = |link: &Value| link["ifname"] == "eth0";
        let inside = links(container)?.into_iter().find(named).context("no eth0")?;
        let outside = links(machine)?;
        let found = outside.iter().find(|link| link["ifindex"] == inside["link_index"]);
        let name = found.and_then(|link| link["ifname"].as_str());
        Ok(Self::new(machine, name.context("the machine has no such wire")?))
    }
}

impl Way {
    /// The same, known to come in there.
    fn by(self, entrance: Entrance) -> Self {
        Self { entrance: Some(entrance), ..self }
    }

    /// From one namespace to an address of the other; the scene is whatever must stay.
    pub(crate) fn new(
        name: &str,
        ends: [&NetNs; 2],
        address: impl Into<IpAddr>,
        scene: impl Any,
    ) -> Result<Self> {
        Self::through(name, ends, address, None, scene)
    }

    /// The same by a SOCKS server, if there is one.
    pub(crate) fn through(
        name: &str,
        [from, to]: [&NetNs; 2],
        address: impl Into<IpAddr>,
        socks: Option<SocketAddr>,
        scene: impl Any,
    ) -> Result<Self> {
        field::tune(from);
        field::tune(to);
        let servers = field::servers(to)?;
        let address = address.into();
        let [bulk, echo] = [BULK, ECHO].map(|port| (address, port).into());
        let path = Path { name: name.to_owned(), from: from.clone(), bulk, echo, socks };
        path.wait()?;
        let (to, _scene) = (to.clone(), Box::new(scene));
        Ok(Self { path, to, entrance: None, _servers: servers, _scene })
    }
}

/// Two namespaces of one machine, on wires of this MTU.
pub(crate) fn same_host(mtu: u32) -> Result<Vec<Way>> {
    Ok(vec![routed_here(mtu)?, bridged(mtu)?, wired(mtu)?, edge_here(mtu)?])
}

/// Two namespaces of two machines, over an underlay of this MTU.
pub(crate) fn two_hosts(mtu: u32) -> Result<Vec<Way>> {
    Ok(vec![
        between("kernel routed", Underlay::Direct, mtu, |[a, b]| {
            let [to_a, to_b] = [&a.underlay[0], &b.underlay[0]].map(ToString::to_string);
            a.netns.ip(&["route", "add", "fd00:2::/64", "via", &to_b]);
            b.netns.ip(&["route", "add", "fd00:1::/64", "via", &to_a]);
        })?,
        between("kernel VXLAN over IPv4", Underlay::V4, mtu, vxlan)?,
        // The same packet does not come in twice.
        Way { entrance: None, ..between("wireguard-go over IPv4", Underlay::V4, mtu, wireguard)? },
        edge_between("edge, direct", Underlay::Direct, mtu)?,
        edge_between("edge, Geneve over IPv4", Underlay::V4, mtu)?,
    ])
}

fn wired(mtu: u32) -> Result<Way> {
    let [a, b] = ["a", "b"].map(NetNs::new);
    let ends = ["fd00:2::1/64", "fd00:2::2/64"];
    let wire = Wire::new(&a, "eth0", &ends[..1], &b, "eth0", &ends[1..]).mtu(mtu);
    Way::new("a bare veth pair", [&a, &b], ENDS[1], wire)
}

fn bridged(mtu: u32) -> Result<Way> {
    let switch = NetNs::new("switch");
    switch.ip(&["link", "add", "br0", "type", "bridge"]);
    switch.ip(&["link", "set", "br0", "up"]);
    let [a, b] = ["a", "b"].map(NetNs::new);
    let wires = [(&a, 1), (&b, 2)].map(|(netns, number)| {
        let (port, address) = (format!("in{number}"), format!("fd00:2::{number}/64"));
        let wire = Wire::new(&switch, &port, &[], netns, "eth0", &[&address]).mtu(mtu);
        switch.ip(&["link", "set", &port, "master", "br0"]);
        wire
    });
    let entrance = Entrance::new(&switch, "in1");
    Ok(Way::new("a Linux bridge", [&a, &b], ENDS[1], (wires, switch))?.by(entrance))
}

fn routed_here(mtu: u32) -> Result<Way> {
    let router = NetNs::new("router");
    let [a, b] = ["a", "b"].map(NetNs::new);
    let wires = [(&a, 1), (&b, 2)].map(|(netns, number)| container(&router, netns, number, mtu));
    route(&router);
    let entrance = Entrance::new(&router, "in1");
    Ok(Way::new("kernel routed", [&a, &b], ENDS[1], (wires, router))?.by(entrance))
}

fn edge_here(mtu: u32) -> Result<Way> {
    // Containers have the MTU of the way out.
    let lab = Lab::with_wire(&[], |wire| wire.mtu(mtu));
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let (from, to, address) = (a.netns.clone(), b.netns.clone(), b.i6pn());
    let entrance = Entrance::of_container(&lab.machine, &from)?;
    Ok(Way::new("edge, same host", [&from, &to], address, (a, b, lab))?.by(entrance))
}

/// Two machines without edge; the closure leads packets from one to the other, as long as what it
/// returns stays.
fn between<S: Any>(
    name: &str,
    underlay: Underlay,
    mtu: u32,
    lead: impl FnOnce([&Place; 2]) -> S,
) -> Result<Way> {
    let scene = Scene::new(&Plan::over(underlay).mtu(mtu).wired());
    let [near, far] = [11, 12].map(|number| scene.place(&format!("host{number}"), number));
    let [a, b] = ["a", "b"].map(NetNs::new);
    let wires = [container(&near.netns, &a, 1, mtu), container(&far.netns, &b, 2, mtu)];
    route(&near.netns);
    route(&far.netns);
    let led = lead([&near, &far]);
    let entrance = Entrance::new(&far.netns, UNDERLAY);
    Ok(Way::new(name, [&a, &b], ENDS[1], (led, wires, near, far, scene))?.by(entrance))
}

fn vxlan([near, far]: [&Place; 2]) {
    for (own, other) in [(near, far), (far, near)] {
        let [local, remote] = [own, other].map(|place| place.underlay[0].to_string());
        // No outer checksum (RFC 7348): a veth does not make the one that a NIC would, and frames
        // that are used again would be taken for damaged.
        let ends = ["local", &local, "remote", &remote, "dstport", "4789", "noudpcsum"];
        own.netns.ip(&[
            &["link", "add", "ov0", "type", "vxlan", "id", "7", "dev", UNDERLAY][..],
            &ends,
        ]
        .concat());
    }
    lead_over_overlay([(near, "ov0"), (far, "ov0")]);
}

/// As its own manual sets it up: a tunnel in userspace, keys on both sides. It listens in a folder
/// that all namespaces share, under the interface's name: so each has another, also than those of a
/// run that was killed.
/// What runs, with the names of the interfaces.
pub(crate) fn wireguard([near, far]: [&Place; 2]) -> [(Running, String); 2] {
    const PORT: &str = "51820";
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let ends = [near, far].map(|place| {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wg{number}-{}", std::process::id());
        let mut command = place.netns.command("wireguard-go");
        let running = command.args(["--foreground", &name]).running();
        wait_for("wireguard-go to make its interface", PATIENCE, || {
            let mut show = place.netns.command("wg");
            show.args(["show", &name]).output_of().status.success().then_some(())
        });
        let key = tempfile::NamedTempFile::new().expect("a file for a key");
        let private = place.netns.command("wg").arg("genkey").output_of().ok();
        std::fs::write(&key, private.stdout).expect("a file for a key");
        let mut set = place.netns.command("wg");
        set.args(["set", &name, "listen-port", PORT, "private-key"]).arg(key.path());
        set.output_of().ok();
        let public = place.netns.command("wg").args(["show", &name, "public-key"]).output_of();
        (running, name, public.ok().stdout.trim().to_owned())
    });
    let [(_, near_name, near_key), (_, far_name, far_key)] = &ends;
    for (own, name, other, key) in
        [(near, near_name, far, far_key), (far, far_name, near, near_key)]
    {
        let endpoint = format!("{}:{PORT}", other.underlay[0]);
        let mut set = own.netns.command("wg");
        set.args(["set", name, "peer", key, "endpoint", &endpoint]);
        set.args(["allowed-ips", "0.0.0.0/0,::/0"]);
        set.output_of().ok();
    }
    lead_over_overlay([(near, near_name), (far, far_name)]);
    ends.map(|(running, name, _)| (running, name))
}

/// Each machine has an interface at whose other end is the other.
fn lead_over_overlay(ends: [(&Place, &str); 2]) {
    for ((own, name), number) in ends.into_iter().zip(1..) {
        own.netns.ip(&["address", "add", &format!("fd00:9::{number}/64"), "dev", name, "nodad"]);
        own.netns.ip(&["link", "set", name, "up"]);
    }
    let [(near, near_name), (far, far_name)] = ends;
    near.netns.ip(&["route", "add", "fd00:2::/64", "via", "fd00:9::2", "dev", near_name]);
    far.netns.ip(&["route", "add", "fd00:1::/64", "via", "fd00:9::1", "dev", far_name]);
}

fn edge_between(name: &str, underlay: Underlay, mtu: u32) -> Result<Way> {
    let region = Plan::over(underlay).hosts(1).mtu(mtu).wired().up();
    let (near, far) = (region.gateway(), &region.hosts[0]);
    let (a, b) = (near.private("a"), far.private("b"));
    let (from, to, address) = (a.netns.clone(), b.netns.clone(), b.i6pn());
    let entrance = Entrance::new(&far.place.netns, UNDERLAY);
    Ok(Way::new(name, [&from, &to], address, (a, b, region))?.by(entrance))
}

/// A namespace wired to a router, with a default route by it.
fn container(router: &NetNs, netns: &NetNs, number: u8, mtu: u32) -> Wire {
    let [own, other] = [1, 2].map(|last| format!("fd00:{number}::{last}/64"));
    let side = format!("in{number}");
    let wire = Wire::new(router, &side, &[&own], netns, "eth0", &[&other]).mtu(mtu);
    netns.ip(&["route", "add", "default", "via", &format!("fd00:{number}::1")]);
    wire
}

fn route(netns: &NetNs) {
    netns.sysctl("net/ipv6/conf/all/forwarding", "1");
}
