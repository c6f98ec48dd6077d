//! An internet of one machine: a namespace at the other end of a veth.

use std::{
    net::Ipv4Addr,
    os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr, unix::net::UnixListener},
    process::Command,
};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::step;

/// The networks that are reserved for documentation: nobody has them in earnest.
const NETWORKS: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
];
/// A shorter route is a way to the world at large.
const SHORTEST_NETWORK: u8 = 8;

/// The namespace and the veth; they go with this guard.
pub(super) struct Scene {
    /// The machine's address on the veth.
    pub(super) machine: Ipv4Addr,
    /// The address of the internet's one client.
    pub(super) client: Ipv4Addr,
    _only: UnixListener,
}

impl Scene {
    /// The host side of the veth.
    pub(super) const UPLINK: &str = "edgedemo0";
    /// The namespace.
    pub(super) const INTERNET: &str = "edge-demo-internet";

    /// Makes it, after removing what a killed demo left.
    pub(super) fn make() -> Result<Self> {
        // An abstract address goes with its process, however that ends.
        let only = SocketAddr::from_abstract_name("edge-demo")
            .and_then(|address| UnixListener::bind_addr(&address))
            .context("a demo runs on this machine already; end that one first")?;
        remove();
        let network = free(&used()?)?;
        let mut hosts = network.hosts();
        let two = hosts.next().zip(hosts.next());
        let (machine, client) = two.context("the network has room for two")?;
        let scene = Self { machine, client, _only: only };
        let (uplink, internet) = (Self::UPLINK, Self::INTERNET);
        ip(&format!("netns add {internet}"))?;
        ip(&format!("link add {uplink} type veth peer name eth0 netns {internet}"))?;
        ip(&format!("address add {machine}/24 dev {uplink}"))?;
        ip(&format!("link set {uplink} up"))?;
        ip(&format!("-n {internet} address add {client}/24 dev eth0"))?;
        ip(&format!("-n {internet} link set lo up"))?;
        ip(&format!("-n {internet} link set eth0 up"))?;
        Ok(scene)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        remove();
    }
}

fn remove() {
    // What is not there need not be removed.
    ip(&format!("link del {}", Scene::UPLINK)).ok();
    ip(&format!("netns del {}", Scene::INTERNET)).ok();
}

fn ip(words: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    step::ask(command)
}

/// The networks that routes lead to and addresses lie in.
fn used() -> Result<Vec<Ipv4Net>> {
    let read = |text: String| {
        serde_json::from_str::<Value>(&text).context("cannot read what `ip -json` says")
    };
    let routes = read(ip("-json -4 route show table all")?)?;
    let addresses = read(ip("-json -4 address show")?)?;
    Ok(networks(&routes, &addresses))
}

fn networks(routes: &Value, addresses: &Value) -> Vec<Ipv4Net> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let host = |text: &str| text.parse::<Ipv4Addr>().map(Ipv4Net::from).ok();
    let parse = |text: &str| text.parse::<Ipv4Net>().ok().or_else(|| host(text));
    let routes = list(routes).into_iter().filter_map(|route| parse(route["dst"].as_str()?));
    let local = list(addresses).into_iter().flat_map(|link| list(&link["addr_info"]));
    let local = local.filter_map(|address| {
        let length = u8::try_from(address["prefixlen"].as_u64()?).ok()?;
        Ipv4Net::new(address["local"].as_str()?.parse().ok()?, length).ok()
    });
    routes.filter(|net: &Ipv4Net| net.prefix_len() >= SHORTEST_NETWORK).chain(local).collect()
}

/// The first that nothing overlaps.
fn free(used: &[Ipv4Net]) -> Result<Ipv4Net> {
    let overlap = |a: Ipv4Net, b: Ipv4Net| a.contains(&b.trunc()) || b.contains(&a.trunc());
    let found = NETWORKS.into_iter().find(|one| !used.iter().any(|net| overlap(*one, *net)));
    found.with_context(|| {
        let all = NETWORKS.map(|network| network.to_string()).join(", ");
        format!("each of {all} is in use here; `ip route` says by whom; free one of them")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_network_that_nobody_uses_is_taken() {
        let routes = json!([
            { "dst": "default", "gateway": "192.0.2.1" },
            { "dst": "0.0.0.0/1" },
            { "dst": "198.51.100.7" },
            { "type": "broadcast", "dst": "127.255.255.255" },
        ]);
        let addresses = json!([{ "ifname": "eth0", "addr_info": [
            { "family": "inet", "local": "192.0.2.2", "prefixlen": 24 },
        ] }]);
        let used = networks(&routes, &addresses);
        assert_eq!(free(&used).unwrap().to_string(), "203.0.113.0/24");
        assert_eq!(free(&[]).unwrap(), NETWORKS[0]);
        let error = free(&NETWORKS).unwrap_err().to_string();
        assert!(error.contains("203.0.113.0/24"), "{error}");
    }
}
