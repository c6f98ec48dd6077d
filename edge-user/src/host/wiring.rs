//! The wire between the host and a namespace: a veth, its addresses, routes and program.

use std::{io, net::IpAddr, sync::Arc};

use edge_common::tables::AddressRow;

use super::{
    links::{GATEWAY_V4, GATEWAY_V6, LinkError, Links, Veth},
    netns::{self, NetNs},
    sysctl,
};
use crate::datapath::{Datapath, DatapathError};

/// The router's MAC address on every veth: each veth is a link of its own.
const ROUTER_MAC: [u8; 6] = [0x02, 0xed, 0, 0, 0, 1];

/// What wiring a namespace takes.
pub struct Plan<'a> {
    /// The host-side name.
    pub veth: String,
    /// The namespace.
    pub namespace: &'a NetNs,
    /// Its own addresses: the first IPv4 one is the source of what it sends.
    pub addresses: Vec<IpAddr>,
    /// [`AddressRow`]'s flags.
    pub flags: u32,
    /// Whose it is.
    pub tenant: Tenant<'a>,
    /// Bytes of an IP packet.
    pub mtu: u32,
}

/// A workspace.
#[derive(Debug, Clone, Copy)]
pub struct Tenant<'a> {
    /// Its number; 0 for none.
    pub number: u32,
    /// Its name.
    pub name: &'a str,
}

impl Tenant<'_> {
    /// Of what is the daemon's own.
    pub const NONE: Tenant<'static> = Tenant { number: 0, name: "" };
}

/// A namespace on the wire.
#[derive(Debug, Clone)]
pub struct Wired {
    /// The host-side name.
    pub veth: String,
    /// The host-side index.
    pub ifindex: u32,
    /// The MAC address inside.
    pub mac: [u8; 6],
    /// The addresses that are its own.
    pub addresses: Vec<IpAddr>,
}

/// Why a veth and a namespace do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no such veth.
    #[error("its interface {0} is gone")]
    Gone(String),
    /// The names are the same, and something else is not.
    #[error("the interface {0} is another one's by now")]
    Other(String),
    /// The namespace cannot be entered.
    #[error("its namespace cannot be entered")]
    Namespace(#[source] io::Error),
    /// Netlink refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl PeerError {
    /// Whether it will be the same at every other try.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Gone(_) | Self::Other(_) => true,
            Self::Namespace(error) => netns::is_gone(error),
            Self::Link(_) => false,
        }
    }
}

/// The index of a host-side veth, if its other end lies in this namespace and has the MAC address
/// that goes with these addresses.
pub async fn joined(
    links: &Links,
    veth: &str,
    namespace: &NetNs,
    addresses: &[IpAddr],
) -> Result<u32, PeerError> {
    let host = links.find(veth).await?.ok_or_else(|| PeerError::Gone(veth.to_owned()))?;
    let inside = Links::within(namespace).map_err(PeerError::Namespace)?.list().await?;
    let (mac, index) = (Some(mac_of(addresses)), Some(host.index));
    let other = inside.iter().find(|link| link.mac == mac && link.peer == index);
    match other {
        Some(other) if host.peer == Some(other.index) => Ok(host.index),
        _ => Err(PeerError::Other(veth.to_owned())),
    }
}

impl Wired {
    /// As [`Wiring::connect`] left it.
    pub fn of(veth: String, ifindex: u32, addresses: Vec<IpAddr>) -> Self {
        Self { veth, ifindex, mac: mac_of(&addresses), addresses }
    }
}

/// Why a namespace could not be wired; nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The namespace cannot be entered.
    #[error("the network namespace cannot be entered; is its process still there?")]
    Namespace(#[source] io::Error),
    /// Netlink refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The data path refused.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The interface went away while it was set up.
    #[error("interface {0} vanished while it was set up; was its namespace removed?")]
    Vanished(String),
    /// A kernel setting could not be written.
    #[error("a kernel setting of {veth} cannot be written; is /proc/sys read-only?")]
    Setting {
        /// The interface.
        veth: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Wires namespaces to this host.
pub struct Wiring {
    links: Links,
    datapath: Arc<Datapath>,
}

impl Wiring {
    /// For the namespace of this process.
    pub fn new(links: Links, datapath: Arc<Datapath>) -> Self {
        Self { links, datapath }
    }

    /// Wires a namespace. Its rows and program are in place before the link comes up, so no packet
    /// passes unjudged.
    pub async fn connect(&self, plan: &Plan<'_>) -> Result<Wired, WiringError> {
        let made = self.make(plan).await;
        if made.is_err() {
            self.disconnect_parts(&plan.veth, &plan.addresses).await;
        }
        made
    }

    /// Takes up a namespace that an earlier daemon wired: writes its rows again and what the host's
    /// kernel must know. Its link follows by [`Wiring::relink`].
    pub async fn adopt(
        &self,
        wired: &Wired,
        flags: u32,
        tenant: Tenant<'_>,
    ) -> Result<(), WiringError> {
        let v6 = self.configure_host_side(&wired.veth, flags)?;
        self.write_rows(wired, flags, tenant)?;
        self.add_neighbours(wired, v6).await
    }

    /// Puts this daemon's program in the place of an earlier one's.
    pub fn relink(&self, wired: &Wired) -> Result<(), WiringError> {
        Ok(self.datapath.attach_container(&wired.veth)?)
    }

    /// Takes a namespace off the wire; fine if parts of it are gone already.
    pub async fn disconnect(&self, wired: &Wired) {
        self.disconnect_parts(&wired.veth, &wired.addresses).await;
    }

    async fn disconnect_parts(&self, veth: &str, addresses: &[IpAddr]) {
        if let Err(error) = self.links.remove(veth).await {
            tracing::warn!(veth, %error, "interface not removed");
        }
        self.datapath.detach(veth);
        for address in addresses {
            if let Err(error) = self.datapath.remove_address((*address).into()) {
                tracing::warn!(%address, %error, "row not removed");
            }
        }
    }

    async fn make(&self, plan: &Plan<'_>) -> Result<Wired, WiringError> {
        let inside = Links::within(plan.namespace).map_err(WiringError::Namespace)?;
        let existing = inside.list().await?;
        let taken = existing.iter().any(|link| link.name == "eth0");
        let name = if taken { "edge0" } else { "eth0" };
        let mac = mac_of(&plan.addresses);
        let veth = Veth {
            host: &plan.veth,
            host_mac: ROUTER_MAC,
            inside: name,
            inside_mac: mac,
            mtu: plan.mtu,
        };
        self.links.add_veth(&veth, plan.namespace).await?;
        let vanished = || WiringError::Vanished(plan.veth.clone());
        let ifindex = self.links.find(&plan.veth).await?.ok_or_else(vanished)?.index;
        let v6 = self.configure_host_side(&plan.veth, plan.flags)?;
        let wired = Wired::of(plan.veth.clone(), ifindex, plan.addresses.clone());
        self.write_rows(&wired, plan.flags, plan.tenant)?;
        self.datapath.attach_container(&plan.veth)?;
        self.configure_inside(plan, &inside, name).await?;
        self.links.up(ifindex).await?;
        self.add_neighbours(&wired, v6).await?;
        Ok(wired)
    }

    fn write_rows(&self, wired: &Wired, flags: u32, tenant: Tenant<'_>) -> Result<(), WiringError> {
        let account = self.datapath.account(tenant.number, tenant.name, None)?;
        let (ifindex, workspace, mac) = (wired.ifindex, tenant.number, padded(wired.mac));
        let row = AddressRow { ifindex, flags, workspace, account, mac };
        for address in &wired.addresses {
            self.datapath.add_address((*address).into(), row)?;
        }
        Ok(())
    }

    async fn add_neighbours(&self, wired: &Wired, v6: bool) -> Result<(), WiringError> {
        for address in wired.addresses.iter().filter(|address| address.is_ipv4() || v6) {
            self.links.add_neighbour(wired.ifindex, *address, wired.mac).await?;
        }
        Ok(())
    }

    /// Answers whether the host's own stack takes IPv6 from this link: only what leaves by a proxy,
    /// and only what the program lets through.
    fn configure_host_side(&self, veth: &str, flags: u32) -> Result<bool, WiringError> {
        let failed = |source| WiringError::Setting { veth: veth.to_owned(), source };
        // Should the program ever be gone, the kernel still refuses forged IPv4 sources.
        sysctl::write(&format!("net/ipv4/conf/{veth}/rp_filter"), "1").map_err(failed)?;
        if flags & AddressRow::PROXIED != 0 {
            return sysctl::take_ipv6(veth).map_err(failed);
        }
        match sysctl::write(&format!("net/ipv6/conf/{veth}/disable_ipv6"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(false),
        }
    }

    async fn configure_inside(
        &self,
        plan: &Plan<'_>,
        inside: &Links,
        name: &str,
    ) -> Result<(), WiringError> {
        let setting = |source| WiringError::Setting { veth: name.to_owned(), source };
        let v6 = plan.namespace.run(|| prepare_ipv6(name)).map_err(setting)?;
        let links = inside.list().await?;
        let index = |wanted: &str| links.iter().find(|link| link.name == wanted);
        if let Some(loopback) = index("lo") {
            inside.up(loopback.index).await?;
        }
        let link = index(name).ok_or_else(|| WiringError::Vanished(name.to_owned()))?.index;
        let usable = |address: &&IpAddr| address.is_ipv4() || v6;
        for address in plan.addresses.iter().filter(usable) {
            inside.add_address(link, *address).await?;
        }
        inside.up(link).await?;
        for (gateway, v4) in [(IpAddr::V4(GATEWAY_V4), true), (IpAddr::V6(GATEWAY_V6), false)] {
            let own = plan.addresses.iter().find(|own| own.is_ipv4() == v4);
            if let Some(source) = own.filter(usable) {
                inside.add_neighbour(link, gateway, ROUTER_MAC).await?;
                inside.add_default(link, *source).await?;
            }
        }
        Ok(())
    }
}

/// The link has one router, and it is known. Answers whether the namespace has IPv6 at all.
fn prepare_ipv6(name: &str) -> io::Result<bool> {
    match sysctl::read(&format!("net/ipv6/conf/{name}/disable_ipv6")) {
        Ok(value) if value == "0" => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    sysctl::quiet_ipv6(name)?;
    Ok(true)
}

/// A locally administered MAC address, made of the IPv4 address.
fn mac_of(addresses: &[IpAddr]) -> [u8; 6] {
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(v4.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = v4.unwrap_or_default();
    [0x02, 0xed, a, b, c, d]
}

/// A MAC address as the tables hold it.
pub fn padded(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, 0, 0]
}
