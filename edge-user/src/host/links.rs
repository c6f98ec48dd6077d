//! Links, addresses, routes and neighbours, over netlink.

mod survey;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{TryStream, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, CacheInfo},
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        neighbour::NeighbourState,
        route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope},
    },
};
use tokio::sync::Mutex;

pub use self::survey::Route;
use super::netns::NetNs;

/// Where containers send everything: a link-local router that exists as a neighbour entry only.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The routing table for namespaces that have a default route of their own.
const OWN_TABLE: u32 = 0xed9e;

/// A netlink connection into one namespace.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
    /// Held while the kernel lists something: it lists one thing at a time on one socket, and
    /// answers a second question with EBUSY.
    listing: Arc<Mutex<()>>,
}

/// Why netlink refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: the kernel refused; edge needs root and a kernel with veth")]
pub struct LinkError {
    what: String,
    #[source]
    source: rtnetlink::Error,
}

/// What edge wants to know of an interface.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Its index in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// What the kernel calls its type, for virtual ones (`veth`, `bond`…).
    pub kind: Option<String>,
    /// Bus and name of the device behind it, for physical ones.
    pub parent: Option<(String, String)>,
    /// Its MAC address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// The index of a veth's other end, in whatever namespace that is.
    pub peer: Option<u32>,
    /// Receive and transmit queues.
    pub queues: (u32, u32),
    /// Bytes of the largest packet that is given to it to be cut.
    pub gso_max: u32,
    /// Bytes of the largest that segments are merged into.
    pub gro_max: u32,
    /// Packets that were to leave by it and were dropped: a TUN interface's when its program does
    /// not read them in time.
    pub unsent: u64,
}

/// Both ends of a veth to be made.
pub struct Veth<'a> {
    /// The host-side name.
    pub host: &'a str,
    /// The host side's MAC address.
    pub host_mac: [u8; 6],
    /// The name inside.
    pub inside: &'a str,
    /// The MAC address inside.
    pub inside_mac: [u8; 6],
    /// Bytes of an IP packet.
    pub mtu: u32,
}

impl Links {
    /// Into the namespace of this process.
    pub fn here() -> std::io::Result<Self> {
        let (connection, handle, _messages) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self::over(handle))
    }

    /// Into another one.
    pub fn within(namespace: &NetNs) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle) = namespace.run(|| {
            let _reactor = runtime.enter();
            let (connection, handle, _messages) = rtnetlink::new_connection()?;
            Ok((connection, handle))
        })?;
        tokio::spawn(connection);
        Ok(Self::over(handle))
    }

    fn over(handle: Handle) -> Self {
        Self { handle, listing: Arc::default() }
    }

    /// Asks for a list, and waits for all of it.
    async fn all<T, S>(
        &self,
        what: &str,
        ask: impl FnOnce(&Handle) -> S,
    ) -> Result<Vec<T>, LinkError>
    where
        S: TryStream<Ok = T, Error = rtnetlink::Error>,
    {
        let _listing = self.listing.lock().await;
        let answer = ask(&self.handle).try_collect().await;
        answer.map_err(|source| LinkError { what: format!("listing {what}"), source })
    }

    /// The interfaces of the namespace.
    pub async fn list(&self) -> Result<Vec<Link>, LinkError> {
        let messages = self.all("interfaces", |handle| handle.link().get().execute()).await?;
        Ok(messages.iter().map(describe).collect())
    }

    /// One interface by name, if it is there.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        // Not a list: with many containers, most of it would be thrown away.
        let mut answer = pin!(self.handle.link().get().match_name(name.to_owned()).execute());
        match answer.try_next().await {
            Ok(found) => Ok(found.as_ref().map(describe)),
            Err(source) if is_missing(&source) => Ok(None),
            Err(source) => Err(LinkError { what: format!("looking for {name}"), source }),
        }
    }

    /// Makes a veth whose other end lies in `namespace`; both ends are still down.
    pub async fn add_veth(&self, veth: &Veth<'_>, namespace: &NetNs) -> Result<(), LinkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.inside)
            .address(veth.inside_mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(namespace.as_fd().as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(veth.host, veth.inside)
            .address(veth.host_mac.to_vec())
            .mtu(veth.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| LinkError { what: format!("making veth {}", veth.host), source })
    }

    /// Removes an interface; fine if it is gone.
    pub async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(source) if !is_missing(&source) => {
                Err(LinkError { what: format!("removing {name}"), source })
            }
            _ => Ok(()),
        }
    }

    /// Brings an interface up.
    pub async fn up(&self, index: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|source| LinkError { what: format!("bringing up interface {index}"), source })
    }

    /// Gives an interface an address of its own, without a network behind it.
    pub async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        self.put_address(index, address, None).await
    }

    /// The same, for so long from now if that is said. Programs of this machine do not choose an
    /// IPv6 address that was lent.
    pub async fn lend_address(
        &self,
        index: u32,
        address: IpAddr,
        term: Option<Duration>,
    ) -> Result<(), LinkError> {
        let seconds = term.map(|term| u32::try_from(term.as_secs()).unwrap_or(u32::MAX));
        let times = match address {
            IpAddr::V4(_) => seconds.map(|seconds| (seconds, seconds)),
            IpAddr::V6(_) => Some((0, seconds.unwrap_or(u32::MAX))),
        };
        self.put_address(index, address, times).await
    }

    /// With seconds for which it is preferred, and valid.
    async fn put_address(
        &self,
        index: u32,
        address: IpAddr,
        times: Option<(u32, u32)>,
    ) -> Result<(), LinkError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, prefix).replace();
        // There is nobody on the link to collide with.
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        if let Some((preferred, valid)) = times {
            let mut times = CacheInfo::default();
            (times.ifa_preferred, times.ifa_valid) = (preferred, valid);
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(times));
        }
        request
            .execute()
            .await
            .map_err(|source| LinkError { what: format!("adding address {address}"), source })
    }

    /// Takes an address from an interface; fine if it is not there.
    pub async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        // The same message as for adding it.
        let message = self.handle.address().add(index, address, prefix).message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -libc::EADDRNOTAVAIL =>
            {
                Ok(())
            }
            Err(source) => Err(LinkError { what: format!("removing address {address}"), source }),
            Ok(()) => Ok(()),
        }
    }

    /// The addresses of an interface that others may use.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, LinkError> {
        let ask = |handle: &Handle| handle.address().get().set_link_index_filter(index).execute();
        let messages = self.all("addresses", ask).await?;
        let mut addresses = Vec::new();
        for message in &messages {
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Address(IpAddr::V4(v4)) => addresses.push(IpAddr::V4(*v4)),
                    AddressAttribute::Address(IpAddr::V6(v6)) if !v6.is_unicast_link_local() => {
                        addresses.push(IpAddr::V6(*v6));
                    }
                    _ => {}
                }
            }
        }
        Ok(addresses)
    }

    /// Routes one address to an interface and says which MAC address it has there.
    pub async fn add_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), LinkError> {
        let failed = |source| LinkError { what: format!("routing {address}"), source };
        let route = match address {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .output_interface(index)
                .build(),
        };
        self.handle.route().add(route).replace().execute().await.map_err(failed)?;
        self.handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(failed)
    }

    /// Routes a network to an interface that has no link layer, which carries so many bytes there.
    pub async fn add_route(&self, index: u32, network: IpNet, mtu: u32) -> Result<(), LinkError> {
        let failed = |source| LinkError { what: format!("routing {network}"), source };
        let mut route = route_to(index, network);
        route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        let request = self.handle.route().add(route).replace();
        request.execute().await.map_err(failed)
    }

    /// Undoes it; fine if it is gone.
    pub async fn remove_route(&self, index: u32, network: IpNet) -> Result<(), LinkError> {
        match self.handle.route().del(route_to(index, network)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => {
                Ok(())
            }
            Err(source) => Err(LinkError { what: format!("no longer routing {network}"), source }),
            Ok(()) => Ok(()),
        }
    }

    /// Sends everything else from `source` to the gateway; by a rule of its own if the namespace
    /// has a default route already.
    pub async fn add_default(&self, index: u32, source: IpAddr) -> Result<(), LinkError> {
        let failed = |error| LinkError { what: "adding the default route".into(), source: error };
        let own_table = self.has_default(source.is_ipv4()).await?;
        let table = if own_table { OWN_TABLE } else { 254 };
        let route = match source {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(GATEWAY_V4)
                .output_interface(index)
                .pref_source(v4)
                .onlink()
                .table_id(table)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(GATEWAY_V6)
                .output_interface(index)
                .pref_source(v6)
                .table_id(table)
                .build(),
        };
        self.handle.route().add(route).replace().execute().await.map_err(failed)?;
        if own_table {
            let rule = self.handle.rule().add().table_id(OWN_TABLE).priority(OWN_TABLE);
            match source {
                IpAddr::V4(v4) => rule.v4().source_prefix(v4, 32).execute().await,
                IpAddr::V6(v6) => rule.v6().source_prefix(v6, 128).execute().await,
            }
            .map_err(failed)?;
        }
        Ok(())
    }
}

fn route_to(index: u32, network: IpNet) -> RouteMessage {
    match network {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .build(),
    }
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, queues: (1, 1), ..Link::default() };
    let (mut bus, mut device) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max = *bytes,
            LinkAttribute::GroMaxSize(bytes) => link.gro_max = *bytes,
            LinkAttribute::Stats64(stats) => link.unsent = stats.tx_dropped,
            LinkAttribute::NumRxQueues(queues) => link.queues.0 = *queues,
            LinkAttribute::NumTxQueues(queues) => link.queues.1 = *queues,
            LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
            LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let rtnetlink::packet_route::link::LinkInfo::Kind(kind) = info {
                        link.kind = Some(kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    link.parent = bus.zip(device);
    link
}

fn is_missing(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -libc::ENODEV)
}
