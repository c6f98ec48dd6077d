//! Forwarding, IPv6, routes, and whether anybody else uses the containers' addresses.

use std::{net::IpAddr, path::Path};

use ipnet::{IpNet, Ipv4Net};

use super::{Finding, Subject};
use crate::host::{
    links::{Link, LinkError, Links, Route},
    sysctl,
};

/// A shorter route is a way to the world at large, not a network that uses its addresses.
const SHORTEST_NETWORK: u8 = 8;

/// Everything between the uplinks and the containers.
pub(super) async fn look(links: &Links, subject: &Subject) -> Result<Vec<Finding>, LinkError> {
    let all = links.list().await?;
    let of_edge = |index: u32| {
        all.iter().any(|link| link.index == index && link.name.starts_with(&subject.veth_prefix))
    };
    let mut addresses = links.all_addresses().await?;
    addresses.retain(|(index, _)| !of_edge(*index));
    let mut routes = links.routes().await?;
    routes.retain(|route| !route.interface.is_some_and(of_edge));
    Ok(vec![
        default_route(&all, links.default_interface().await?),
        pool(subject.pool, &addresses, &routes, &all),
        ip_forward(sysctl::read("net/ipv4/ip_forward").ok().as_deref()),
        ipv6(
            Path::new("/proc/net/if_inet6").exists(),
            sysctl::read("net/ipv6/conf/all/disable_ipv6").ok().as_deref(),
        ),
    ])
}

fn default_route(links: &[Link], index: Option<u32>) -> Finding {
    const NAME: &str = "default-route";
    let link = links.iter().find(|link| Some(link.index) == index);
    match link {
        Some(link) => {
            Finding::ok(NAME, format_args!("by {}", link.name), "containers reach the internet")
        }
        None => Finding::slower(
            NAME,
            "none",
            "containers do not reach the internet, and --uplink auto finds nothing",
            "ip route add default via ROUTER",
        ),
    }
}

fn pool(pool: Ipv4Net, addresses: &[(u32, IpNet)], routes: &[Route], links: &[Link]) -> Finding {
    let pool_net = IpNet::V4(pool);
    let name_of = |index: Option<u32>| {
        let link = links.iter().find(|link| Some(link.index) == index);
        link.map_or("no interface", |link| link.name.as_str())
    };
    let mut users: Vec<_> = addresses
        .iter()
        .filter(|(_, address)| pool_net.contains(&address.addr()))
        .map(|(index, address)| format!("{address} is an address of {}", name_of(Some(*index))))
        .collect();
    let networks = routes.iter().filter(|route| {
        route.is_unicast
            && route.destination.prefix_len() >= SHORTEST_NETWORK
            && overlap(pool_net, route.destination)
    });
    users.extend(
        networks.map(|route| {
            format!("{} is routed to {}", route.destination, name_of(route.interface))
        }),
    );
    if users.is_empty() {
        let meaning = "nobody else uses the containers' addresses";
        return Finding::ok("pool", pool, meaning);
    }
    Finding::broken(
        "pool",
        format_args!("{pool}, but {}", users.join(", ")),
        "containers get addresses that others have: neither side reaches the other, and packets \
         from there are taken for containers'",
        "choose a range that nobody uses, as --ipv4-pool 10.200.0.0/16, for `edge up` too",
    )
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn ip_forward(setting: Option<&str>) -> Finding {
    const NAME: &str = "ip-forward";
    match setting {
        Some("0") => Finding::ok(
            NAME,
            "off",
            "`edge up` turns it on for containers' way out, and off again when it stops",
        ),
        Some(_) => Finding::ok(NAME, "on", "containers' packets find their way out"),
        None => Finding::broken(
            NAME,
            "/proc/sys/net/ipv4/ip_forward cannot be read",
            "edge cannot let containers' packets out, so it does not start",
            "mount /proc/sys writable where `edge up` runs",
        ),
    }
}

fn ipv6(has: bool, disabled: Option<&str>) -> Finding {
    match (has, disabled) {
        (false, _) => Finding::broken(
            "ipv6",
            "the kernel has none",
            "containers cannot be given their private IPv6 address",
            "boot without ipv6.disable=1, with a kernel that has IPv6",
        ),
        (true, Some("1")) => Finding::slower(
            "ipv6",
            "off on this machine's interfaces",
            "containers have it among themselves; clients reach tunnels over IPv4 only",
            "sysctl net.ipv6.conf.all.disable_ipv6=0, and put it in /etc/sysctl.d",
        ),
        (true, _) => Finding::ok(
            "ipv6",
            "on",
            format_args!(
                "containers get addresses below {}",
                IpAddr::from([0xfdaa, 0, 0, 0, 0, 0, 0, 0])
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mtu: 1500, queues: (1, 1), ..Link::default() }
    }

    fn route(destination: &str, interface: u32) -> Route {
        let destination = destination.parse().unwrap();
        Route { destination, interface: Some(interface), table: 254, is_unicast: true }
    }

    #[test]
    fn a_pool_in_use_is_broken_and_says_by_whom() {
        let links = [link(2, "eth0"), link(3, "tailscale0")];
        let range: Ipv4Net = "100.64.0.0/10".parse().unwrap();
        let judge =
            |addresses: &[(u32, IpNet)], routes: &[Route]| pool(range, addresses, routes, &links);
        let elsewhere = [(2, "192.0.2.5/24".parse().unwrap())];
        let world = [route("0.0.0.0/0", 2), route("64.0.0.0/2", 2), route("::/0", 2)];
        assert_eq!(judge(&elsewhere, &world).state, State::Ok);

        let address = judge(&[(2, "100.70.0.9/24".parse().unwrap())], &[]);
        assert_eq!(address.state, State::Broken);
        assert!(address.found.ends_with("100.70.0.9/24 is an address of eth0"), "{address:?}");
        for network in ["100.64.0.0/10", "100.100.100.100/32", "100.0.0.0/8"] {
            let routed = judge(&[], &[route(network, 3)]);
            assert_eq!(routed.state, State::Broken);
            let found = format!("{network} is routed to tailscale0");
            assert!(routed.found.ends_with(&found), "{routed:?}");
        }
        let refused = Route { is_unicast: false, ..route("100.64.0.0/10", 3) };
        assert_eq!(judge(&[], &[refused]).state, State::Ok);
    }

    #[test]
    fn the_rest_has_three_states() {
        assert_eq!(default_route(&[link(2, "eth0")], Some(2)).found, "by eth0");
        assert_eq!(default_route(&[], None).state, State::Slower);
        assert_eq!(ip_forward(Some("0")).state, State::Ok);
        assert_eq!(ip_forward(None).state, State::Broken);
        assert_eq!(ipv6(false, None).state, State::Broken);
        assert_eq!(ipv6(true, Some("1")).state, State::Slower);
        assert_eq!(ipv6(true, Some("0")).state, State::Ok);
    }
}
