//! What the commands say of proxies, and to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_common::verdict::Verdict;
use tonic::{Request, Response, Status};

use crate::{
    datapath::{Datapath, Whose},
    error::causes,
    host::containers::Containers,
    proxy::{
        keeper::Nudge,
        wireguard::{Path, Toward},
    },
    region::{
        member::Member,
        proxies::{Proxies as Store, ProxyError},
        proxy::{
            Known, NoPair, Pair, Proxy, ProxyRecord, Status as ProxyStatus, Traffic, UnknownSpread,
            key,
        },
        roster::ContainerRecord,
    },
    wire::admin::{
        self as wire, AddProxyIpRequest, CreateProxyRequest, DeleteProxyRequest,
        DeleteProxyResponse, ListProxiesRequest, ListProxiesResponse, RemoveProxyIpRequest,
        proxies_server::Proxies,
    },
};

/// How long an answer waits for new addresses to be served: in a region that takes a moment.
const SERVED: Duration = Duration::from_secs(1);
/// How long a gateway may take to say what went by it.
const COUNTED: Duration = Duration::from_secs(2);
/// How often it looks.
const AGAIN: Duration = Duration::from_millis(50);

/// Answers commands about proxies.
pub struct ProxyService {
    /// Where they are kept, on a machine that may change them.
    pub store: Option<Store>,
    /// This machine's containers, and what is known of proxies.
    pub containers: Arc<Containers>,
    /// The kernel's counters.
    pub datapath: Arc<Datapath>,
    /// This machine's membership in its region, if it has one.
    pub member: Option<Arc<Member>>,
    /// Who writes what has changed.
    pub keeper: Nudge,
}

#[tonic::async_trait]
impl Proxies for ProxyService {
    async fn create(
        &self,
        request: Request<CreateProxyRequest>,
    ) -> Result<Response<wire::Proxy>, Status> {
        let CreateProxyRequest { workspace, name, ips, spread } = request.into_inner();
        let ips = ips.iter().map(|ip| pair(ip)).collect::<Result<Vec<_>, _>>()?;
        let spread = spread
            .parse()
            .map_err(|error: UnknownSpread| Status::invalid_argument(error.to_string()))?;
        self.done(self.store()?.create(&workspace, &name, &ips, spread).await).await
    }

    async fn list(
        &self,
        request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let ListProxiesRequest { workspace, name, traffic } = request.into_inner();
        let known = self.known().await?;
        let wanted = |proxy: &&Arc<Proxy>| {
            (workspace.is_empty() || proxy.record.workspace == workspace)
                && (name.is_empty() || proxy.record.name == name)
        };
        let found: Vec<_> = known.values().filter(wanted).cloned().collect();
        let mut proxies: Vec<_> = found.iter().map(|proxy| self.describe(proxy)).collect();
        if traffic {
            self.count(&found, &mut proxies).await;
        }
        if proxies.is_empty() && !name.is_empty() {
            return Err(status(&ProxyError::Unknown(name, workspace)));
        }
        Ok(Response::new(ListProxiesResponse { proxies }))
    }

    async fn add_ip(
        &self,
        request: Request<AddProxyIpRequest>,
    ) -> Result<Response<wire::Proxy>, Status> {
        let AddProxyIpRequest { workspace, name, ip } = request.into_inner();
        let ip = pair(&ip)?;
        self.done(self.store()?.add(&workspace, &name, ip).await).await
    }

    async fn remove_ip(
        &self,
        request: Request<RemoveProxyIpRequest>,
    ) -> Result<Response<wire::Proxy>, Status> {
        let RemoveProxyIpRequest { workspace, name, ip, drain } = request.into_inner();
        let (ip, drain) = (address(&ip)?, Duration::from_millis(drain));
        self.done(self.store()?.remove(&workspace, &name, ip, drain).await).await
    }

    async fn delete(
        &self,
        request: Request<DeleteProxyRequest>,
    ) -> Result<Response<DeleteProxyResponse>, Status> {
        let DeleteProxyRequest { workspace, name } = request.into_inner();
        let deleted = self.store()?.delete(&workspace, &name).await;
        deleted.map_err(|error| status(&error))?;
        self.keeper.settled().await;
        Ok(Response::new(DeleteProxyResponse {}))
    }
}

impl ProxyService {
    fn store(&self) -> Result<&Store, Status> {
        self.store.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "proxy: this machine is a host of its region; give the command on a gateway",
            )
        })
    }

    async fn known(&self) -> Result<Known, Status> {
        match &self.store {
            Some(store) => store.known().await.map_err(|error| status(&error.into())),
            None => Ok(self.containers.proxies().known()),
        }
    }

    /// Answers with what a change has led to, once it is carried out here.
    async fn done(
        &self,
        changed: Result<ProxyRecord, ProxyError>,
    ) -> Result<Response<wire::Proxy>, Status> {
        let record = changed.map_err(|error| status(&error))?;
        let own = key(&record.workspace, &record.name);
        let mut proxy = Arc::new(Proxy::of(record, &Default::default()));
        let until = Instant::now() + SERVED;
        loop {
            self.keeper.settled().await;
            if let Some(known) = self.known().await?.get(&own) {
                proxy = known.clone();
            }
            let mut addresses = proxy.record.addresses.iter();
            let waits = addresses.any(|address| {
                let (status, _) = self.containers.proxies().status(&proxy, address);
                matches!(status, ProxyStatus::Creating | ProxyStatus::Unhealthy)
            });
            if !waits || Instant::now() > until {
                return Ok(Response::new(self.describe(&proxy)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn describe(&self, proxy: &Proxy) -> wire::Proxy {
        let record = &proxy.record;
        let users = self.containers.proxies().users();
        let ips = record.addresses.iter().map(|one| {
            let (status, problem) = self.containers.proxies().status(proxy, one);
            wire::ProxyIp {
                ip: one.ip.to_string(),
                status: status.label().to_owned(),
                created: one.created,
                gateway: proxy.holders.get(&one.ip).copied().unwrap_or(0).into(),
                containers: users
                    .get(&one.ip)
                    .map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX)),
                problem: problem.map(|problem| problem.to_string()),
                traffic: None,
                beside: one.beside.map(|beside| beside.to_string()),
            }
        });
        wire::Proxy {
            id: record.id.clone(),
            name: record.name.clone(),
            workspace: record.workspace.clone(),
            created: record.created,
            ips: ips.collect(),
            paths: self.paths(proxy),
            refused: 0,
            spread: record.spread.label().to_owned(),
        }
    }

    /// The ways by WireGuard that a proxy's packets take here.
    fn paths(&self, proxy: &Proxy) -> Vec<wire::ProxyPath> {
        let Some(member) = &self.member else { return Vec::new() };
        let (record, view) = (&proxy.record, member.view().borrow().clone());
        let its = |one: &&Arc<ContainerRecord>| {
            one.workspace == record.workspace
                && one.proxy.as_ref().is_some_and(|own| own.name == record.name)
        };
        let hosts: BTreeSet<u16> =
            view.containers.values().filter(its).map(|one| one.host).collect();
        let concerns = |path: &Path| match path.toward {
            Toward::Gateway => proxy.holders.values().any(|gateway| *gateway == path.machine),
            Toward::Host => hosts.contains(&path.machine),
        };
        let all = self.containers.proxies().paths().all;
        all.iter().filter(|path| concerns(path)).map(described).collect()
    }

    /// Adds what went under the addresses, each as the gateway says that serves it; of one that does
    /// not answer nothing is known.
    async fn count(&self, found: &[Arc<Proxy>], proxies: &mut [wire::Proxy]) {
        let gateways: BTreeSet<u16> =
            found.iter().flat_map(|proxy| proxy.holders.values().copied()).collect();
        let own = self.member.as_ref().map(|member| member.host());
        let asked = gateways.into_iter().map(async |gateway| match &self.member {
            Some(member) if own != Some(gateway) => {
                let answer = tokio::time::timeout(COUNTED, member.proxy_traffic(gateway)).await;
                match answer {
                    Ok(Ok(traffic)) => traffic,
                    Ok(Err(error)) => {
                        tracing::debug!(gateway, %error, "it does not tell what went by it");
                        BTreeMap::new()
                    }
                    Err(_elapsed) => BTreeMap::new(),
                }
            }
            _ => {
                let board = self.containers.proxies().clone();
                let counts = tokio::task::spawn_blocking(move || board.counts().traffic).await;
                counts.unwrap_or_default()
            }
        });
        let traffic: BTreeMap<Ipv4Addr, Traffic> =
            futures::future::join_all(asked).await.into_iter().flatten().collect();
        let refused = self.refused();
        for (proxy, told) in found.iter().zip(proxies) {
            told.refused = refused.get(&proxy.record.workspace).copied().unwrap_or(0);
            for (address, ip) in proxy.record.addresses.iter().zip(&mut told.ips) {
                ip.traffic = traffic.get(&address.ip).copied().map(Into::into);
            }
        }
    }

    /// Packets of each workspace's proxied containers here that had no way out.
    fn refused(&self) -> BTreeMap<String, u64> {
        let tallies = match self.datapath.verdicts_and_tallies() {
            Ok((_, tallies)) => tallies,
            Err(error) => {
                tracing::warn!(%error, "kernel counters cannot be read");
                return BTreeMap::new();
            }
        };
        let mut refused = BTreeMap::new();
        for tally in tallies {
            if let (Verdict::ProxyAway, Whose::Workspace(name)) = (tally.verdict, tally.whose) {
                *refused.entry(name).or_default() += tally.count.packets;
            }
        }
        refused
    }
}

fn described(path: &Path) -> wire::ProxyPath {
    let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    wire::ProxyPath {
        machine: path.machine.into(),
        toward: path.toward.label().to_owned(),
        handshake_age: path.handshake_age().map(|age| whole(age.as_millis())),
        round_trip: path.round_trip.map(|took| whole(took.as_micros())),
        sent: path.sent,
        received: path.received,
    }
}

impl From<Traffic> for wire::ProxyTraffic {
    fn from(traffic: Traffic) -> Self {
        let Traffic { packets_out, bytes_out, packets_in, bytes_in, connections, unsolicited } =
            traffic;
        Self { packets_out, bytes_out, packets_in, bytes_in, connections, unsolicited }
    }
}

fn pair(text: &str) -> Result<Pair, Status> {
    text.parse().map_err(|error: NoPair| Status::invalid_argument(error.to_string()))
}

fn address(text: &str) -> Result<Ipv4Addr, Status> {
    text.parse().map_err(|_unreadable| {
        Status::invalid_argument(format!(
            "address {text:?}: it is no IPv4 address; give one, as 192.0.2.1"
        ))
    })
}

fn status(error: &ProxyError) -> Status {
    Status::new(error.code(), causes(error))
}
