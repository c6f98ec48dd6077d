//! A gateway's half of its region: the settings, the control plane, and the gateway's own
//! membership.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    handover::Holdings,
    machine::Machine,
    membership,
    role::{Gateway, Orders},
    underlay,
};
use crate::{
    cli::UpArgs,
    error::{Error, Kind},
    gateway::{
        authority as tls,
        region_tunnels::{Places, RegionTunnels},
    },
    host::{tunnel_rows::TunnelRows, uplink::Uplink},
    region::{
        claims::{Claims, Terms},
        common,
        etcd::Etcd,
        identity::{Authority, Credentials},
        member::Member,
        ports::Ports,
        rest::REST,
        roster::{About, Carriage, RegionSettings},
        server::{self, ControlPlane},
        store::Store,
    },
};

/// What successors know the control plane's socket by.
const CONTROL: &str = "control";

/// A gateway's control plane, open, and its membership, which has not begun.
pub(super) struct Founded {
    pub(super) plane: Arc<ControlPlane<RegionTunnels>>,
    pub(super) tunnels: Arc<RegionTunnels>,
    pub(super) member: Arc<Member>,
    pub(super) settings: RegionSettings,
    pub(super) listener: TcpListener,
}

/// What it is made of.
pub(super) struct Ground<'d> {
    pub(super) orders: &'d Orders,
    pub(super) gateway: &'d Gateway,
    pub(super) machine: &'d Machine,
    pub(super) state_dir: &'d Path,
    /// The region's state, if this gateway is its only one.
    pub(super) durable: Arc<dyn Store>,
    /// What lives no longer than the machine runs.
    pub(super) leased: &'d Arc<dyn Store>,
    pub(super) uplinks: &'d [Uplink],
    pub(super) underlays: &'d [Uplink],
    pub(super) rows: &'d Arc<TunnelRows>,
    pub(super) tls_port: u16,
    pub(super) raw_host: String,
}

impl Ground<'_> {
    /// Opens the region's state, and makes it if there is none. Tunnels of hosts that are there
    /// are open when this returns.
    ///
    /// # Errors
    /// If the region was another one, or an underlay will not do.
    pub(super) async fn found(
        self,
        inherited: &mut Holdings,
        holdings: &mut Holdings,
        stop: CancellationToken,
    ) -> anyhow::Result<Founded> {
        let terms = Terms::default();
        let store = self.store().await?;
        let claims = Claims::new(store.clone(), terms);
        let settings = self.settings(&claims).await?;
        let authority = Arc::new(self.authorities(&store).await?);
        claims.refuse_outside(settings.ipv4_pool).await.context("--ipv4-pool")?;
        let listener = match inherited.take(CONTROL).next() {
            Some(open) => TcpListener::from_std(open.into()).context("control plane")?,
            None => listen(self.gateway.control)?,
        };
        holdings.keep(CONTROL, &listener)?;
        let own = vec![loopback(listener.local_addr()?).to_string()];
        let credentials = server::own(&claims, &authority, self.state_dir, own).await?;
        let host = credentials.membership.host;

        let (first, last) = settings.raw_ports;
        // Those of tunnels that are there are lent when the region's state is opened.
        let lent = BTreeSet::new();
        let ports = Ports::open(store.clone(), first..=last, REST, &lent);
        let places = Places {
            host,
            domain: settings.domain.clone(),
            tls_port: self.tls_port,
            raw_host: self.raw_host.clone(),
            raw_ports: settings.raw_ports,
            public: self.uplinks.iter().flat_map(|uplink| uplink.addresses.clone()).collect(),
        };
        let tunnels = RegionTunnels::new(ports.await?, self.rows.clone(), places);
        let plane = ControlPlane::open(store, authority, &settings, terms, tunnels.clone(), stop);
        let plane = Arc::new(plane.await?);
        let containers = membership::containers(self.leased, host).await?;
        let member = Member::open(self.state_dir, credentials, About::default(), containers)?;
        Ok(Founded { plane, tunnels, member: Arc::new(member), settings, listener })
    }

    /// The region's state: this machine's own, or one that all its gateways share.
    async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let Some((place, access)) = &self.gateway.etcd else { return Ok(self.durable.clone()) };
        Ok(Arc::new(Etcd::open(place.clone(), access).await.context("--store")?))
    }

    /// The authority over the region's machines; with other gateways this one has it, and the one
    /// over tunnels' names, in common.
    async fn authorities(&self, store: &Arc<dyn Store>) -> anyhow::Result<Authority> {
        let (dir, region) = (self.state_dir, self.gateway.region.as_str());
        let machines = || Authority::open_or_create(dir, region);
        if self.gateway.etcd.is_none() {
            return Ok(machines()?);
        }
        let UpArgs { cert, domain, .. } = &self.orders.args;
        if cert.is_none() {
            let dir = &dir.join(tls::DIRECTORY);
            let tunnels = || tls::Authority::open_or_create(dir, domain);
            common::open(store, &tls::Authority::pair(dir), tunnels).await?;
        }
        Ok(common::open(store, &Authority::pair(dir), machines).await?)
    }

    /// What all machines of the region have in common.
    async fn settings(&self, claims: &Claims) -> anyhow::Result<RegionSettings> {
        let kept = claims.settings().await?;
        let Gateway { region, carriage, region_key, .. } = self.gateway;
        let args = &self.orders.args;
        let exposed = underlay::exposed(self.underlays, self.uplinks, self.machine).await?;
        let keyed = match exposed {
            Some(underlay) if *carriage == Carriage::Direct => {
                let cause = "it is also the way to the internet, and with --carriage direct nothing tells \
                             the region's packets from strangers'";
                let remedy = "use --carriage geneve, or an interface of their own";
                return Err(underlay::refused(underlay, cause, remedy));
            }
            Some(underlay) if !region_key => {
                tracing::warn!(
                    underlay = underlay.name,
                    "it is also the way to the internet: --region-key is switched on"
                );
                true
            }
            _ => *region_key && *carriage == Carriage::Geneve,
        };
        let kept = kept.filter(|kept| kept.region == region.as_str());
        let keys = match &kept {
            _ if !keyed => Vec::new(),
            Some(kept) if !kept.keys.is_empty() => kept.keys.clone(),
            _ => vec![rand::random()],
        };
        let settings = RegionSettings {
            region: region.to_string(),
            number: number(region.as_str()),
            domain: args.domain.clone(),
            ipv4_pool: args.ipv4_pool,
            mtu: underlay::region_mtu(self.underlays, *carriage, keyed)?,
            raw_host: self.raw_host.clone(),
            raw_ports: (args.raw_ports.first, args.raw_ports.last),
            keys,
            carriage: *carriage,
        };
        let own = Credentials::load(self.state_dir)?.map(|own| own.membership.host);
        let others = claims.gateways(own).await?;
        let settings = match (kept, others.first()) {
            (Some(kept), Some(other)) => agreed(settings, kept, *other)?,
            _ => settings,
        };
        underlay::fits(self.underlays, &settings)?;
        Ok(settings)
    }
}

/// The settings by which another gateway serves, if this one is told the same.
fn agreed(
    told: RegionSettings,
    kept: RegionSettings,
    other: u16,
) -> anyhow::Result<RegionSettings> {
    let raw_ports = |of: &RegionSettings| format!("{}-{}", of.raw_ports.0, of.raw_ports.1);
    let differing = [
        ("--domain", told.domain.clone(), kept.domain.clone()),
        ("--ipv4-pool", told.ipv4_pool.to_string(), kept.ipv4_pool.to_string()),
        ("--raw-ports", raw_ports(&told), raw_ports(&kept)),
        ("--carriage", told.carriage.to_string(), kept.carriage.to_string()),
        ("--region-key", on(!told.keys.is_empty()), on(!kept.keys.is_empty())),
    ];
    for (option, told, kept) in differing {
        if told != kept {
            let cause = format_args!("{told} here, but gateway {other} of the region has {kept}");
            let remedy = "give all gateways of a region the same, or change it while none runs";
            return Err(Error::new(Kind::Refused, option, cause, remedy).into());
        }
    }
    Ok(kept)
}

fn on(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// A region's number: the one at the end of its name, else one that the name gives.
fn number(region: &str) -> u16 {
    let letters = region.trim_end_matches(|c: char| c.is_ascii_digit());
    match region[letters.len()..].parse() {
        Ok(number) if number != 0 => number,
        _ => {
            // FNV-1a: the same on all gateways.
            let hash = region.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            ((hash >> 16) as u16 ^ hash as u16).max(1)
        }
    }
}

/// Where the region's machines find the control plane; on a machine without IPv6 the address of
/// all machines is IPv4's.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let mut bound = bind(address);
    if bound.is_err() && address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        bound = bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
    }
    bound.map_err(|error| {
        let thing = format_args!("control plane {address}");
        Error::new(Kind::Refused, thing, error, "free it, or choose another with --control").into()
    })
}

/// Where the gateway finds itself.
fn loopback(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        // It serves IPv4, too.
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// Where other machines find it: what a token says.
pub(super) fn endpoints(listener: SocketAddr, underlays: &[Uplink]) -> Vec<String> {
    if !listener.ip().is_unspecified() {
        return vec![listener.to_string()];
    }
    let v4_only = listener.is_ipv4();
    underlay::addresses(underlays)
        .into_iter()
        .filter(|address| address.is_ipv4() || !v4_only)
        .map(|address| SocketAddr::new(address, listener.port()).to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_numbered_by_its_name() {
        assert_eq!((number("r1"), number("r5"), number("eu-west-12")), (1, 5, 12));
        for name in ["main", "r0", "r70000", "r99999999999999999999"] {
            assert!(number(name) != 0 && number(name) == number(name), "{name}");
        }
        assert_ne!(number("main"), number("test"));
    }
}
