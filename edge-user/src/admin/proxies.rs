//! What the commands say of proxies, and to them.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{Request, Response, Status};

use crate::{
    error::causes,
    host::containers::Containers,
    proxy::keeper::Nudge,
    region::{
        proxies::{Proxies as Store, ProxyError},
        proxy::{Known, Proxy, ProxyRecord, Status as ProxyStatus, key},
    },
    wire::admin::{
        self as wire, AddProxyIpRequest, CreateProxyRequest, DeleteProxyRequest,
        DeleteProxyResponse, ListProxiesRequest, ListProxiesResponse, RemoveProxyIpRequest,
        proxies_server::Proxies,
    },
};

/// How long an answer waits for new addresses to be served: in a region that takes a moment.
const SERVED: Duration = Duration::from_secs(1);
/// How often it looks.
const AGAIN: Duration = Duration::from_millis(50);

/// Answers commands about proxies.
pub struct ProxyService {
    /// Where they are kept, on a machine that may change them.
    pub store: Option<Store>,
    /// This machine's containers, and what is known of proxies.
    pub containers: Arc<Containers>,
    /// Who writes what has changed.
    pub keeper: Nudge,
}

#[tonic::async_trait]
impl Proxies for ProxyService {
    async fn create(
        &self,
        request: Request<CreateProxyRequest>,
    ) -> Result<Response<wire::Proxy>, Status> {
        let CreateProxyRequest { workspace, name, ips } = request.into_inner();
        let ips = ips.iter().map(|ip| address(ip)).collect::<Result<Vec<_>, _>>()?;
        self.done(self.store()?.create(&workspace, &name, &ips).await).await
    }

    async fn list(
        &self,
        request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let ListProxiesRequest { workspace, name } = request.into_inner();
        let known = self.known().await?;
        let wanted = |proxy: &&Arc<Proxy>| {
            (workspace.is_empty() || proxy.record.workspace == workspace)
                && (name.is_empty() || proxy.record.name == name)
        };
        let proxies: Vec<_> =
            known.values().filter(wanted).map(|proxy| self.describe(proxy)).collect();
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
        let ip = address(&ip)?;
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
            let waits = addresses.any(|address| proxy.status(address) == ProxyStatus::Creating);
            if !waits || Instant::now() > until {
                return Ok(Response::new(self.describe(&proxy)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn describe(&self, proxy: &Proxy) -> wire::Proxy {
        let record = &proxy.record;
        let attached = self.containers.list();
        let has = |ip: Ipv4Addr| {
            let its = attached.iter().filter(|one| {
                one.container.workspace == record.workspace
                    && one.proxy.as_ref().is_some_and(|own| own.name == record.name)
            });
            its.filter(|one| {
                let standing = self.containers.proxies().standing(&one.container.id);
                standing.and_then(|standing| standing.address()) == Some(ip)
            })
            .count()
        };
        let ips = record.addresses.iter().map(|one| wire::ProxyIp {
            ip: one.ip.to_string(),
            status: proxy.status(one).label().to_owned(),
            created: one.created,
            gateway: proxy.holders.get(&one.ip).copied().unwrap_or(0).into(),
            containers: u32::try_from(has(one.ip)).unwrap_or(u32::MAX),
        });
        wire::Proxy {
            id: record.id.clone(),
            name: record.name.clone(),
            workspace: record.workspace.clone(),
            created: record.created,
            ips: ips.collect(),
        }
    }
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
