//! Records and views as they go over the wire, and back.
//!
//! What comes from another machine is checked here: a number out of range or an address that is
//! none is a [`Malformed`], never a guess.

use std::{net::Ipv4Addr, str::FromStr, sync::Arc};

use tonic::Status;

use super::{
    bounds::{Asked, Bounds, Defaults},
    cluster::{ClusterMember, ClusterRecord},
    proxy::{Membership, Proxy, ProxyAddress, ProxyRecord, Traffic, key},
    roster::{
        About, Allotted, Carriage, ContainerRecord, HostRecord, RegionSettings, Role, TunnelRecord,
        Uplink, WireGuard,
    },
    spread::Share,
    tunnel::{RawSocket, TunnelOptions},
    view::{Difference, Host, Rows, View},
};
use crate::wire::{OptionsError, region as wire};

/// A message that does not say what it must.
#[derive(Debug, thiserror::Error)]
#[error(
    "{field} {value:?} of a message cannot be understood; run the same version of edge on all machines of the region"
)]
pub struct Malformed {
    field: &'static str,
    value: String,
}

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// What a text says.
pub(super) fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|_unreadable| Malformed { field, value: text.to_owned() })
}

fn parse_all<T: FromStr>(field: &'static str, texts: &[String]) -> Result<Vec<T>, Malformed> {
    texts.iter().map(|text| parse(field, text)).collect()
}

/// A number of 16 bits.
pub(super) fn short(field: &'static str, number: u32) -> Result<u16, Malformed> {
    u16::try_from(number).map_err(|_large| Malformed { field, value: number.to_string() })
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A machine's own words.
pub(super) fn announcement(about: &About, containers: Vec<wire::Container>) -> wire::Announcement {
    wire::Announcement {
        version: about.version.clone(),
        underlay: texts(&about.underlay),
        uplinks: about.uplinks.iter().map(uplink).collect(),
        public: texts(&about.public),
        containers,
        control: about.control.clone(),
        wireguard: about.wireguard.as_ref().map(wireguard),
        runs_members: about.runs_members.into(),
    }
}

fn wireguard(WireGuard { key, port, mtu }: &WireGuard) -> wire::WireGuard {
    wire::WireGuard { key: key.clone(), port: (*port).into(), mtu: *mtu }
}

fn read_wireguard(sent: Option<&wire::WireGuard>) -> Result<Option<WireGuard>, Malformed> {
    let Some(wire::WireGuard { key, port, mtu }) = sent else { return Ok(None) };
    let port = short("WireGuard port", *port)?;
    Ok(Some(WireGuard { key: key.clone(), port, mtu: *mtu }))
}

/// What a machine says of itself.
pub(super) fn about(announced: &wire::Announcement) -> Result<About, Malformed> {
    Ok(About {
        version: announced.version.clone(),
        underlay: parse_all("underlay address", &announced.underlay)?,
        uplinks: announced.uplinks.iter().map(read_uplink).collect(),
        public: parse_all("public address", &announced.public)?,
        control: announced.control.clone(),
        wireguard: read_wireguard(announced.wireguard.as_ref())?,
        runs_members: short("number of members", announced.runs_members)?,
    })
}

fn uplink(Uplink { interface, hook, mtu }: &Uplink) -> wire::Uplink {
    wire::Uplink { interface: interface.clone(), hook: hook.clone(), mtu: *mtu }
}

fn read_uplink(wire::Uplink { interface, hook, mtu }: &wire::Uplink) -> Uplink {
    Uplink { interface: interface.clone(), hook: hook.clone(), mtu: *mtu }
}

/// A container.
pub(super) fn container(record: &ContainerRecord) -> wire::Container {
    wire::Container {
        id: record.id.clone(),
        name: record.name.clone(),
        workspace: record.workspace.clone(),
        workspace_id: record.workspace_id,
        host: record.host.into(),
        ipv4: record.ipv4.to_string(),
        i6pn: record.i6pn.to_string(),
        private: record.private,
        proxy: record.proxy.as_ref().map(|proxy| proxy.name.clone()),
        proxy_ip: record.proxy.as_ref().and_then(|proxy| Some(proxy.ip?.to_string())),
    }
}

/// A container.
pub(super) fn read_container(sent: &wire::Container) -> Result<ContainerRecord, Malformed> {
    Ok(ContainerRecord {
        id: sent.id.clone(),
        name: sent.name.clone(),
        workspace: sent.workspace.clone(),
        workspace_id: sent.workspace_id,
        host: short("host", sent.host)?,
        ipv4: parse("IPv4 address", &sent.ipv4)?,
        i6pn: parse("i6pn address", &sent.i6pn)?,
        private: sent.private,
        proxy: match &sent.proxy {
            None => None,
            Some(name) => {
                let ip = sent.proxy_ip.as_ref().map(|ip| parse("proxy's address", ip));
                Some(Membership { name: name.clone(), ip: ip.transpose()? })
            }
        },
    })
}

/// What holds for a tunnel.
pub(super) fn options(options: &TunnelOptions) -> wire::TunnelOptions {
    let TunnelOptions { unencrypted, h2, native_ipv6, .. } = *options;
    wire::TunnelOptions { unencrypted, h2, native_ipv6, options: Some(options.into()) }
}

/// What holds for a tunnel.
pub(super) fn read_options(sent: Option<&wire::TunnelOptions>) -> Result<TunnelOptions, Malformed> {
    let Some(sent) = sent else { return Ok(TunnelOptions::default()) };
    let malformed =
        |error: OptionsError| Malformed { field: "tunnel option", value: error.to_string() };
    let holds = sent.options.as_ref().map(Asked::try_from).transpose().map_err(malformed)?;
    // Nothing is added to what was sent.
    let none = Defaults { bounds: Bounds::NONE, allow: Arc::default() };
    let wire::TunnelOptions { unencrypted, h2, native_ipv6, .. } = *sent;
    let holds = none.for_operator(&holds.unwrap_or_default());
    Ok(TunnelOptions { unencrypted, h2, native_ipv6, ..holds })
}

/// A tunnel.
pub(super) fn tunnel(record: &TunnelRecord) -> wire::Tunnel {
    let raw = record.place.raw.as_ref();
    wire::Tunnel {
        id: record.id.clone(),
        container: record.container.clone(),
        host: record.host.into(),
        port: record.port.into(),
        options: Some(options(&record.options)),
        name: record.place.name.clone(),
        tls_port: record.place.tls_port.into(),
        raw_host: raw.map(|raw| raw.host.clone()),
        raw_port: raw.map(|raw| raw.port.into()),
        raw_gateway: raw.map_or(0, |raw| raw.gateway.into()),
    }
}

/// A tunnel.
pub(super) fn read_tunnel(sent: &wire::Tunnel) -> Result<TunnelRecord, Malformed> {
    let raw = match (&sent.raw_host, sent.raw_port) {
        (Some(host), Some(port)) => {
            let gateway = short("gateway", sent.raw_gateway)?;
            Some(RawSocket { host: host.clone(), port: short("raw port", port)?, gateway })
        }
        _ => None,
    };
    Ok(TunnelRecord {
        id: sent.id.clone(),
        container: sent.container.clone(),
        host: short("host", sent.host)?,
        port: short("port", sent.port)?,
        options: read_options(sent.options.as_ref())?,
        place: Allotted {
            name: sent.name.clone(),
            tls_port: short("TLS port", sent.tls_port)?,
            raw,
        },
    })
}

/// A cluster.
pub(super) fn cluster(record: &ClusterRecord) -> wire::Cluster {
    let member = |member: &ClusterMember| wire::ClusterMember {
        container: member.container.clone(),
        host: member.host.into(),
        ipv4: member.ipv4.to_string(),
        i6pn: member.i6pn.to_string(),
        finished: member.finished,
    };
    wire::Cluster {
        id: record.id.clone(),
        name: record.name.clone(),
        workspace: record.workspace.clone(),
        size: record.size.into(),
        mark: record.mark,
        members: record.members.iter().map(member).collect(),
        over: record.over.clone(),
        shares: record.shares.iter().map(share).collect(),
    }
}

/// A cluster.
pub(super) fn read_cluster(sent: wire::Cluster) -> Result<ClusterRecord, Malformed> {
    let members = sent.members.into_iter().map(|sent| {
        Ok(ClusterMember {
            host: short("host", sent.host)?,
            ipv4: parse("IPv4 address", &sent.ipv4)?,
            i6pn: parse("i6pn address", &sent.i6pn)?,
            container: sent.container,
            finished: sent.finished,
        })
    });
    Ok(ClusterRecord {
        size: short("cluster size", sent.size)?,
        members: members.collect::<Result<_, Malformed>>()?,
        id: sent.id,
        name: sent.name,
        workspace: sent.workspace,
        mark: sent.mark,
        over: sent.over,
        shares: sent.shares.iter().map(read_share).collect::<Result<_, _>>()?,
    })
}

fn share(share: &Share) -> wire::Share {
    wire::Share { host: share.host.into(), count: share.count.into(), taker: share.taker }
}

fn read_share(sent: &wire::Share) -> Result<Share, Malformed> {
    let (host, count) = (short("host", sent.host)?, short("share", sent.count)?);
    Ok(Share { host, count, taker: sent.taker })
}

/// A proxy.
fn proxy(proxy: &Proxy) -> wire::Proxy {
    let record = &proxy.record;
    let address = |one: &ProxyAddress| wire::ProxyAddress {
        ip: one.ip.to_string(),
        created: one.created,
        served: one.served,
        leaves: one.leaves,
        gateway: proxy.holders.get(&one.ip).copied().unwrap_or(0).into(),
        beside: one.beside.map(|beside| beside.to_string()),
    };
    wire::Proxy {
        id: record.id.clone(),
        name: record.name.clone(),
        workspace: record.workspace.clone(),
        created: record.created,
        addresses: record.addresses.iter().map(address).collect(),
        spread: record.spread.label().to_owned(),
    }
}

fn read_proxy(sent: wire::Proxy) -> Result<Proxy, Malformed> {
    let (mut addresses, mut holders) = (Vec::new(), std::collections::BTreeMap::new());
    for one in sent.addresses {
        let ip = parse("proxy's address", &one.ip)?;
        let beside = one.beside.map(|beside| parse("proxy's IPv6 address", &beside)).transpose()?;
        let wire::ProxyAddress { created, served, leaves, gateway, .. } = one;
        addresses.push(ProxyAddress { ip, beside, created, served, leaves });
        if gateway != 0 {
            holders.insert(ip, short("gateway", gateway)?);
        }
    }
    let spread = parse("spread", &sent.spread)?;
    let wire::Proxy { id, name, workspace, created, .. } = sent;
    let record = ProxyRecord { id, name, workspace, created, addresses, spread };
    Ok(Proxy { record, holders })
}

/// What went under an address.
pub(super) fn traffic(ip: Ipv4Addr, traffic: Traffic) -> wire::AddressTraffic {
    let Traffic { packets_out, bytes_out, packets_in, bytes_in, connections, unsolicited } =
        traffic;
    wire::AddressTraffic {
        ip: ip.to_string(),
        packets_out,
        bytes_out,
        packets_in,
        bytes_in,
        connections,
        unsolicited,
    }
}

/// What went under an address.
pub(super) fn read_traffic(sent: &wire::AddressTraffic) -> Result<(Ipv4Addr, Traffic), Malformed> {
    let wire::AddressTraffic { packets_out, bytes_out, packets_in, bytes_in, .. } = *sent;
    let wire::AddressTraffic { connections, unsolicited, .. } = *sent;
    let traffic =
        Traffic { packets_out, bytes_out, packets_in, bytes_in, connections, unsolicited };
    Ok((parse("proxy's address", &sent.ip)?, traffic))
}

fn settings(settings: &RegionSettings) -> wire::Settings {
    wire::Settings {
        region: settings.region.clone(),
        number: settings.number.into(),
        domain: settings.domain.clone(),
        ipv4_pool: settings.ipv4_pool.to_string(),
        mtu: settings.mtu,
        raw_host: settings.raw_host.clone(),
        raw_first: settings.raw_ports.0.into(),
        raw_last: settings.raw_ports.1.into(),
        keys: settings.keys.clone(),
        direct: settings.carriage == Carriage::Direct,
    }
}

fn read_settings(sent: &wire::Settings) -> Result<Arc<RegionSettings>, Malformed> {
    Ok(Arc::new(RegionSettings {
        region: sent.region.clone(),
        number: short("region number", sent.number)?,
        domain: sent.domain.clone(),
        ipv4_pool: parse("IPv4 pool", &sent.ipv4_pool)?,
        mtu: sent.mtu,
        raw_host: sent.raw_host.clone(),
        raw_ports: (short("raw port", sent.raw_first)?, short("raw port", sent.raw_last)?),
        keys: sent.keys.clone(),
        carriage: if sent.direct { Carriage::Direct } else { Carriage::Geneve },
    }))
}

fn host(Host { record, alive }: &Host) -> wire::Host {
    wire::Host {
        id: record.id.into(),
        gateway: record.role == Role::Gateway,
        alive: *alive,
        version: record.about.version.clone(),
        underlay: texts(&record.about.underlay),
        uplinks: record.about.uplinks.iter().map(uplink).collect(),
        public: texts(&record.about.public),
        control: record.about.control.clone(),
        blocks: texts(&record.blocks),
        key: record.key.clone(),
        wireguard: record.about.wireguard.as_ref().map(wireguard),
        runs_members: record.about.runs_members.into(),
    }
}

fn read_host(sent: &wire::Host) -> Result<Host, Malformed> {
    let record = HostRecord {
        id: short("host", sent.id)?,
        role: if sent.gateway { Role::Gateway } else { Role::Host },
        key: sent.key.clone(),
        blocks: parse_all("block", &sent.blocks)?,
        about: About {
            version: sent.version.clone(),
            underlay: parse_all("underlay address", &sent.underlay)?,
            uplinks: sent.uplinks.iter().map(read_uplink).collect(),
            public: parse_all("public address", &sent.public)?,
            control: sent.control.clone(),
            wireguard: read_wireguard(sent.wireguard.as_ref())?,
            runs_members: short("number of members", sent.runs_members)?,
        },
    };
    Ok(Host { record, alive: sent.alive })
}

/// All of a view.
pub(super) fn snapshot(view: &View) -> wire::Snapshot {
    wire::Snapshot {
        settings: Some(settings(&view.settings)),
        hosts: view.hosts.values().map(|one| host(one)).collect(),
        containers: view.containers.values().map(|one| container(one)).collect(),
        tunnels: view.tunnels.values().map(|one| tunnel(one)).collect(),
        clusters: view.clusters.values().map(|one| cluster(one)).collect(),
        proxies: view.proxies.values().map(|one| proxy(one)).collect(),
    }
}

/// All of a view.
pub(super) fn read_snapshot(revision: u64, sent: wire::Snapshot) -> Result<View, Malformed> {
    let wire::Snapshot { settings, hosts, containers, tunnels, clusters, proxies } = sent;
    let none = wire::Changes::default();
    let all = wire::Changes { settings, hosts, containers, tunnels, clusters, proxies, ..none };
    let mut view = View::default();
    view.apply(read_changes(revision, all)?);
    Ok(view)
}

/// What makes a view the next one.
pub(super) fn changes(difference: &Difference) -> wire::Changes {
    let Difference { settings: new, hosts, containers, tunnels, clusters, proxies, .. } =
        difference;
    wire::Changes {
        settings: new.as_deref().map(settings),
        hosts: hosts.put.iter().map(|(_, one)| host(one)).collect(),
        hosts_gone: hosts.gone.iter().map(|id| (*id).into()).collect(),
        containers: containers.put.iter().map(|(_, one)| container(one)).collect(),
        containers_gone: containers.gone.clone(),
        tunnels: tunnels.put.iter().map(|(_, one)| tunnel(one)).collect(),
        tunnels_gone: tunnels.gone.clone(),
        clusters: clusters.put.iter().map(|(_, one)| cluster(one)).collect(),
        clusters_gone: clusters.gone.clone(),
        proxies: proxies.put.iter().map(|(_, one)| proxy(one)).collect(),
        proxies_gone: proxies.gone.clone(),
    }
}

/// What makes a view the next one.
pub(super) fn read_changes(revision: u64, sent: wire::Changes) -> Result<Difference, Malformed> {
    let hosts = sent.hosts.iter().map(|sent| {
        let host = read_host(sent)?;
        Ok((host.record.id, Arc::new(host)))
    });
    let containers = sent.containers.iter().map(|sent| {
        let container = read_container(sent)?;
        Ok((container.id.clone(), Arc::new(container)))
    });
    let tunnels = sent.tunnels.iter().map(|sent| {
        let tunnel = read_tunnel(sent)?;
        Ok((tunnel.id.clone(), Arc::new(tunnel)))
    });
    let clusters = sent.clusters.into_iter().map(|sent| {
        let cluster = read_cluster(sent)?;
        Ok((format!("{}/{}", cluster.workspace, cluster.name), Arc::new(cluster)))
    });
    let proxies = sent.proxies.into_iter().map(|sent| {
        let proxy = read_proxy(sent)?;
        Ok((key(&proxy.record.workspace, &proxy.record.name), Arc::new(proxy)))
    });
    let hosts_gone = sent.hosts_gone.iter().map(|id| short("host", *id));
    Ok(Difference {
        revision,
        settings: sent.settings.as_ref().map(read_settings).transpose()?,
        hosts: Rows {
            put: hosts.collect::<Result<_, Malformed>>()?,
            gone: hosts_gone.collect::<Result<_, Malformed>>()?,
        },
        containers: Rows {
            put: containers.collect::<Result<_, Malformed>>()?,
            gone: sent.containers_gone,
        },
        tunnels: Rows { put: tunnels.collect::<Result<_, Malformed>>()?, gone: sent.tunnels_gone },
        clusters: Rows {
            put: clusters.collect::<Result<_, Malformed>>()?,
            gone: sent.clusters_gone,
        },
        proxies: Rows { put: proxies.collect::<Result<_, Malformed>>()?, gone: sent.proxies_gone },
    })
}
