//! What routes and addresses there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

use super::{LinkError, Links};

/// The table of routes that the machine's own programs take.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Where packets to a network go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub destination: IpNet,
    /// The interface, if it is one.
    pub interface: Option<u32>,
    /// The table it stands in.
    pub table: u32,
    /// Whether packets travel on; false for the machine's own addresses and for refusals.
    pub is_unicast: bool,
}

impl Links {
    /// Every route of every table, IPv4 first.
    pub async fn routes(&self) -> Result<Vec<Route>, LinkError> {
        let mut routes = Vec::new();
        for family in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let nothing: IpAddr = if family.header.address_family == AddressFamily::Inet {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let messages =
                self.all("routes", |handle| handle.route().get(family).execute()).await?;
            routes.extend(messages.iter().filter_map(|message| describe(message, nothing)));
        }
        Ok(routes)
    }

    /// Every address of every interface, with the interface's index and the prefix length.
    pub async fn all_addresses(&self) -> Result<Vec<(u32, IpNet)>, LinkError> {
        let messages = self.all("addresses", |handle| handle.address().get().execute()).await?;
        let address = |message: &AddressMessage| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => {
                    let net = IpNet::new(*address, message.header.prefix_len).ok()?;
                    Some((message.header.index, net))
                }
                _ => None,
            })
        };
        Ok(messages.iter().filter_map(address).collect())
    }

    /// The interface of the default route (IPv4, else IPv6), if there is one.
    pub async fn default_interface(&self) -> Result<Option<u32>, LinkError> {
        let routes = self.routes().await?;
        Ok(routes.iter().filter(|route| route.is_default()).find_map(|route| route.interface))
    }

    pub(super) async fn has_default(&self, v4: bool) -> Result<bool, LinkError> {
        let routes = self.routes().await?;
        let of_family = |route: &&Route| route.destination.addr().is_ipv4() == v4;
        Ok(routes.iter().filter(of_family).any(Route::is_default))
    }
}

impl Route {
    fn is_default(&self) -> bool {
        self.is_unicast && self.destination.prefix_len() == 0 && self.table == MAIN
    }
}

/// A route without a destination goes everywhere.
fn describe(message: &RouteMessage, nothing: IpAddr) -> Option<Route> {
    let (mut address, mut interface) = (nothing, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = (*v4).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = (*v6).into(),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                interface = interface.or(hops.first().map(|hop| hop.interface_index));
            }
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    let is_unicast = message.header.kind == RouteType::Unicast;
    Some(Route { destination, interface, table, is_unicast })
}
