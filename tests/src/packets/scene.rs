//! The host that all packet tables play on: its settings and rows, natively and in the kernel.

use std::net::{IpAddr, SocketAddr};

use edge_common::{
    address::{Address, Endpoint},
    native::Rows,
    tables::{AddressRow, ForwardRow, LAYOUT, ListenerRow, Settings, TunnelRow},
};
use edge_user::datapath::{Datapath, DatapathError};

/// Who has addresses on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The host-side veth.
    pub ifindex: u32,
    /// The MAC address inside.
    pub mac: [u8; 6],
}

/// `BPF_PROG_TEST_RUN` gives every skb the loopback device: whoever sends in a table has its index.
pub const SENDER: u32 = 1;
/// The uplink.
pub const UPLINK: u32 = 4;

/// The container with a raw tunnel and with egress.
pub const SERVER: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0a] };
/// A container without egress and without a raw tunnel.
pub const QUIET: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0b] };
/// A container behind another veth.
pub const OTHER: Owner = Owner { ifindex: 9, mac: [2, 0, 0, 0, 0, 0x0c] };
/// The daemon's service namespace.
pub const SERVICE: Owner = Owner { ifindex: SENDER, mac: [2, 0, 0, 0, 0, 0x0d] };

/// [`SERVER`]'s tunnel as the internet sees it, and its port inside; IPv4.
pub const PUBLIC: &str = "192.0.2.10:20001";
/// See [`PUBLIC`].
pub const INNER: &str = "100.64.0.2:8000";
/// The place of the IPv4 rows in the traffic counters.
pub const SLOT: u32 = 3;
/// See [`PUBLIC`]; IPv6.
pub const PUBLIC_V6: &str = "[2001:db8::10]:20001";
/// See [`PUBLIC`]; IPv6.
pub const INNER_V6: &str = "[fdaa:0:1::2]:8000";
/// The place of the IPv6 rows in the traffic counters. The daemon gives both families one slot;
/// two tell more.
pub const SLOT_V6: u32 = 5;

/// A public port that a socket of its own serves (TLS).
pub const OWN_LISTENER: &str = "192.0.2.10:443";
/// A port of [`QUIET`] that only userspace serves.
pub const RELAYED: &str = "100.64.0.3:9000";
/// The same, IPv6.
pub const RELAYED_V6: &str = "[fdaa:0:1::3]:9000";
/// Where the relay dials from.
pub const RELAY: &str = "100.64.0.1:50000";
/// The same, IPv6.
pub const RELAY_V6: &str = "[fdaa:0:1::1]:50000";

/// Somebody on the internet.
pub const CLIENT: &str = "198.51.100.7:40000";
/// See [`CLIENT`]; IPv6.
pub const CLIENT_V6: &str = "[2001:db8:1::7]:40000";
/// A router on the way.
pub const ROUTER: &str = "203.0.113.9";
/// See [`ROUTER`]; IPv6.
pub const ROUTER_V6: &str = "2001:db8:2::9";
/// A port of [`SERVER`] that is not forwarded.
pub const OWN_PORT: &str = "100.64.0.2:45000";
/// See [`OWN_PORT`]; IPv6.
pub const OWN_PORT_V6: &str = "[fdaa:0:1::2]:45000";

/// The largest segments that fit.
pub const MSS: u16 = 1300;
/// See [`MSS`].
pub const MSS_V6: u16 = 1280;

/// An address of a table.
pub fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address in a table").into()
}

/// An endpoint of a table.
pub fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an endpoint in a table").into()
}

/// A MAC address as rows hold it.
pub const fn padded([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    [a, b, c, d, e, f, 0, 0]
}

/// All rows.
pub fn rows() -> Rows {
    let mut rows = Rows {
        settings: Settings {
            layout: LAYOUT,
            mss_v4: MSS.into(),
            mss_v6: MSS_V6.into(),
            service: address("169.254.20.10"),
            pool: address("100.64.0.0"),
            pool_mask: address("255.192.0.0"),
            private: address("fdaa::"),
            private_mask: address("ffff::"),
            ..Settings::default()
        },
        ..Rows::default()
    };
    // A mapped IPv4 mask covers the mapping as well.
    rows.settings.pool_mask.words[..3].fill(u32::MAX);

    for (owner, flags, addresses) in [
        (SERVER, AddressRow::EGRESS, &["100.64.0.2", "fdaa:0:1::2"][..]),
        (QUIET, 0, &["100.64.0.3", "fdaa:0:1::3"]),
        (OTHER, AddressRow::EGRESS, &["100.64.0.4", "fdaa:0:1::4"]),
        (SERVICE, AddressRow::SERVICE, &["169.254.20.10", "100.64.0.1", "fdaa:0:1::1"]),
    ] {
        let row =
            AddressRow { ifindex: owner.ifindex, flags, workspace: 1, mac: padded(owner.mac) };
        rows.addresses.extend(addresses.iter().map(|one| (address(one), row)));
    }
    for (public, inner, slot) in [(PUBLIC, INNER, SLOT), (PUBLIC_V6, INNER_V6, SLOT_V6)] {
        let (public, inner) = (endpoint(public), endpoint(inner));
        let (ifindex, mac) = (SERVER.ifindex, padded(SERVER.mac));
        rows.tunnels.insert(
            public,
            TunnelRow { container: inner, ifindex, slot, mac, ..TunnelRow::default() },
        );
        rows.forwards
            .insert(inner, ForwardRow { public, uplink: UPLINK, slot, ..ForwardRow::default() });
    }
    for inner in [RELAYED, RELAYED_V6] {
        rows.forwards.insert(endpoint(inner), ForwardRow { slot: 7, ..ForwardRow::default() });
    }
    for (public, kind) in [
        (PUBLIC, ListenerRow::RAW),
        (PUBLIC_V6, ListenerRow::RAW),
        ("127.0.0.1:20001", ListenerRow::RAW),
        ("[::1]:20001", ListenerRow::RAW),
        (OWN_LISTENER, ListenerRow::OWN),
    ] {
        rows.listeners.insert(endpoint(public), ListenerRow { kind });
    }
    rows
}

/// Writes the same rows into the kernel's tables.
pub fn install(rows: &Rows, datapath: &Datapath) -> Result<(), DatapathError> {
    datapath.configure(&rows.settings)?;
    for (address, row) in &rows.addresses {
        datapath.add_address(*address, *row)?;
    }
    for (public, row) in &rows.tunnels {
        datapath.add_tunnel(*public, *row)?;
    }
    for (inner, row) in &rows.forwards {
        datapath.add_forward(*inner, *row)?;
    }
    for (public, row) in &rows.listeners {
        datapath.add_listener(*public, *row)?;
    }
    for (ifindex, row) in &rows.underlays {
        datapath.add_underlay(*ifindex, *row)?;
    }
    for (address, row) in &rows.peers {
        datapath.add_peer(*address, *row)?;
    }
    for (number, row) in &rows.hosts {
        datapath.add_host(*number, *row)?;
    }
    for (network, row) in &rows.blocks {
        datapath.add_block(*network, *row)?;
    }
    Ok(())
}
