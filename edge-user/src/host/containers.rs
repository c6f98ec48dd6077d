//! The containers of this host.

mod adopt;
mod error;
mod lease;
mod place;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use edge_common::tables::AddressRow;

use self::lease::Orphans;
pub use self::{
    adopt::{ContainerRecord, LostError, Survivor},
    error::AttachError,
    lease::{ClaimError, Orphan},
    place::Place,
};
use super::{
    callers::{Callers, OwnWay, Peer},
    netns::NetNs,
    wiring::{Plan, Tenant, Wired, Wiring},
};
use crate::{
    proxy::board::Board,
    region::{
        addresses::Addresses,
        affiliation::{Affiliation, AffiliationError, Tenancy},
        cluster::ClusterRecord,
        clusters::Clusters,
        names,
        proxy::{Membership, Proxy, ProxyAddress, Status as ProxyStatus},
        records::Records,
        tunnel::Container,
    },
};

/// What is asked for.
pub struct Request {
    /// Empty: one is made up.
    pub name: String,
    /// The tenant's name.
    pub workspace: String,
    /// Whose namespace it is.
    pub place: Place,
    /// Ordinary egress through source NAT.
    pub egress: bool,
    /// It may talk to the others of its workspace that may.
    pub private: bool,
    /// The proxy by which all egress goes.
    pub proxy: Option<String>,
}

/// A container on the wire.
pub struct Attached {
    /// As the region knows it.
    pub container: Arc<Container>,
    /// Where its namespace is.
    pub place: Place,
    /// Its namespace.
    pub namespace: NetNs,
    /// Its wire.
    pub wired: Wired,
    /// Ordinary egress through source NAT.
    pub egress: bool,
    /// It may talk to the others of its workspace that may.
    pub private: bool,
    /// What it is to its proxy, if it has one.
    pub proxy: Option<Membership>,
    /// Proves to the next daemon whose it is.
    pub token: String,
}

/// The containers of this host.
pub struct Containers {
    wiring: Wiring,
    addresses: Addresses,
    region: Affiliation,
    records: Records<ContainerRecord>,
    veth_prefix: String,
    mtu: u32,
    attached: RwLock<HashMap<String, Arc<Attached>>>,
    /// Containers that are being made, by id.
    starting: RwLock<HashMap<String, Reservation>>,
    orphans: Orphans,
    clusters: Arc<Clusters>,
    proxies: Arc<Board>,
}

/// What no two containers have in common.
#[derive(Clone)]
struct Reservation {
    name: String,
    workspace: String,
    namespace: (u64, u64),
}

impl Containers {
    /// None yet. Host-side veths are named `veth_prefix` and seven characters.
    pub fn new(
        wiring: Wiring,
        addresses: Addresses,
        region: Affiliation,
        records: Records<ContainerRecord>,
        veth_prefix: String,
        mtu: u32,
        clusters: Arc<Clusters>,
    ) -> Self {
        let (attached, starting, orphans, proxies) = Default::default();
        Self {
            wiring,
            addresses,
            region,
            records,
            veth_prefix,
            mtu,
            attached,
            starting,
            orphans,
            clusters,
            proxies,
        }
    }

    /// Makes a namespace a container.
    pub async fn attach(&self, request: Request) -> Result<Arc<Attached>, AttachError> {
        if let Some(proxy) = &request.proxy
            && self.proxies.is_complete()
            && self.proxies.proxy(&request.workspace, proxy).is_none()
        {
            return Err(AttachError::NoProxy(proxy.clone(), request.workspace));
        }
        let workspace = self.region.workspace(&request.workspace).await?;
        let namespace = request
            .place
            .open()
            .map_err(|error| AttachError::NoNamespace(request.place.to_string(), error))?;
        let identity = namespace
            .identity()
            .and_then(|own| Ok((own, NetNs::current()?.identity()?)))
            .map_err(|error| AttachError::NoNamespace("network namespace".into(), error))?;
        if identity.0 == identity.1 {
            return Err(AttachError::OwnNamespace);
        }
        let id = names::id("co");
        let name =
            if request.name.is_empty() { id.replace("co-", "c-") } else { request.name.clone() };
        let wanted = Reservation {
            name: name.clone(),
            workspace: request.workspace.clone(),
            namespace: identity.0,
        };
        self.reserve(&id, wanted)?;
        let made = self.make(&id, name, workspace, request, namespace).await;
        write(&self.starting).remove(&id);
        made
    }

    /// Ends a container's place here. Its tunnels must have ended.
    pub async fn detach(&self, attached: &Attached) {
        self.region.delete(&attached.container.id).await;
        self.records.forget(&attached.container.id).await;
        self.wiring.disconnect(&attached.wired).await;
        write(&self.attached).remove(&attached.container.id);
        self.addresses.give_back(attached.container.ipv4).await;
    }

    /// All containers, by workspace and name.
    pub fn list(&self) -> Vec<Arc<Attached>> {
        let mut list: Vec<_> = read(&self.attached).values().cloned().collect();
        list.sort_by(|a, b| {
            let key = |attached: &Arc<Attached>| {
                (attached.container.workspace.clone(), attached.container.name.clone())
            };
            key(a).cmp(&key(b))
        });
        list
    }

    /// A container by its id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Attached>> {
        read(&self.attached).get(id).cloned()
    }

    /// The container that this namespace is, if it is one.
    pub fn by_namespace(&self, namespace: &NetNs) -> io::Result<Option<Arc<Attached>>> {
        let wanted = namespace.identity()?;
        let attached = read(&self.attached);
        let is_it = |one: &&Arc<Attached>| one.namespace.identity().is_ok_and(|id| id == wanted);
        Ok(attached.values().find(is_it).cloned())
    }

    /// The region that they are of.
    pub fn region(&self) -> &Affiliation {
        &self.region
    }

    /// The service namespace's own address of the containers' range.
    pub fn service_address(&self) -> Ipv4Addr {
        self.addresses.service()
    }

    /// The wires, for the service namespace.
    pub fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    fn attached_at(&self, address: IpAddr) -> Option<Arc<Attached>> {
        let canonical = address.to_canonical();
        let is_here = |attached: &&Arc<Attached>| match canonical {
            IpAddr::V4(v4) => attached.container.ipv4 == v4,
            IpAddr::V6(v6) => attached.container.i6pn == v6,
        };
        read(&self.attached).values().find(is_here).cloned()
    }

    fn reserve(&self, id: &str, wanted: Reservation) -> Result<(), AttachError> {
        let mut starting = write(&self.starting);
        let mut others: Vec<_> = starting.values().cloned().collect();
        others.extend(read(&self.attached).values().map(|attached| Reservation {
            name: attached.container.name.clone(),
            workspace: attached.container.workspace.clone(),
            namespace: attached.namespace.identity().unwrap_or_default(),
        }));
        for other in others {
            if other.name == wanted.name && other.workspace == wanted.workspace {
                return Err(AttachError::NameTaken(other.name, other.workspace));
            }
            if other.namespace == wanted.namespace {
                return Err(AttachError::NamespaceTaken(other.name));
            }
        }
        starting.insert(id.to_owned(), wanted);
        Ok(())
    }

    async fn make(
        &self,
        id: &str,
        name: String,
        workspace: u32,
        request: Request,
        namespace: NetNs,
    ) -> Result<Arc<Attached>, AttachError> {
        let addresses = self.addresses.take(workspace).await?;
        let plan = Plan {
            veth: format!("{}{}", self.veth_prefix, &id[id.len() - 7..]),
            namespace: &namespace,
            addresses: vec![addresses.ipv4.into(), addresses.i6pn.into()],
            flags: flags(request.egress, request.private, request.proxy.is_some()),
            tenant: Tenant { number: workspace, name: &request.workspace },
            mtu: self.mtu,
        };
        let container = Container {
            id: id.to_owned(),
            name,
            workspace: request.workspace.clone(),
            ipv4: addresses.ipv4,
            i6pn: addresses.i6pn,
        };
        let proxy = request.proxy.map(|name| self.membership(&container.workspace, name));
        let tenancy =
            Tenancy { workspace_id: workspace, private: request.private, proxy: proxy.clone() };
        let made =
            match tokio::join!(self.wiring.connect(&plan), self.region.put(&container, tenancy)) {
                (Ok(wired), Ok(())) => Ok(wired),
                (Ok(wired), Err(refused)) => {
                    self.wiring.disconnect(&wired).await;
                    Err(AttachError::from(AffiliationError::from(refused)))
                }
                (Err(error), _) => {
                    self.region.delete(id).await;
                    Err(error.into())
                }
            };
        let wired = match made {
            Ok(wired) => wired,
            Err(error) => {
                self.addresses.give_back(addresses.ipv4).await;
                return Err(error);
            }
        };
        let attached = Arc::new(Attached {
            container: Arc::new(container),
            place: request.place,
            namespace,
            wired,
            egress: request.egress,
            private: request.private,
            proxy,
            token: names::secret(),
        });
        let record = ContainerRecord::of(&attached, workspace);
        if let Err(error) = self.records.put(id, &record).await {
            self.region.delete(id).await;
            self.wiring.disconnect(&attached.wired).await;
            self.addresses.give_back(addresses.ipv4).await;
            return Err(error.into());
        }
        write(&self.attached).insert(id.to_owned(), attached.clone());
        Ok(attached)
    }
}

impl Containers {
    /// What a new container is to its proxy. One that is not known yet, as on a host that runs its
    /// workspace's first container, gives it an address later.
    fn membership(&self, workspace: &str, name: String) -> Membership {
        let known = self.proxies.proxy(workspace, &name);
        let users = |ip| {
            let attached = read(&self.attached);
            let has = |one: &&Arc<Attached>| {
                one.container.workspace == workspace
                    && one.proxy.as_ref().is_some_and(|own| own.name == name && own.ip == Some(ip))
            };
            attached.values().filter(has).count()
        };
        let ip = known.and_then(|proxy| proxy.record.least_used(users));
        Membership { name, ip }
    }

    /// What is known of proxies.
    pub fn proxies(&self) -> &Arc<Board> {
        &self.proxies
    }
}

impl Callers for Containers {
    fn by_address(&self, address: IpAddr) -> Option<Arc<Container>> {
        Some(self.attached_at(address)?.container.clone())
    }

    fn may_ask_outside(&self, address: IpAddr) -> bool {
        self.attached_at(address).is_some_and(|attached| attached.egress)
    }

    fn own_way(&self, address: IpAddr) -> Option<OwnWay> {
        let attached = self.attached_at(address).filter(|attached| attached.proxy.is_some())?;
        Some(OwnWay::new(attached))
    }

    fn proxies_of(&self, workspace: &str) -> Vec<Arc<Proxy>> {
        self.proxies.of_workspace(workspace)
    }

    fn status_of(&self, proxy: &Proxy, address: &ProxyAddress) -> ProxyStatus {
        self.proxies.status(proxy, address).0
    }

    fn is_private(&self, address: IpAddr) -> bool {
        self.attached_at(address).is_some_and(|attached| attached.private)
    }

    fn cluster(&self, container: &str) -> Option<(Arc<ClusterRecord>, usize)> {
        self.clusters.of_container(container)
    }

    fn peer(&self, workspace: &str, name: &str) -> Peer {
        let is_it = |one: &&Arc<Attached>| {
            let container = &one.container;
            one.private && container.workspace == workspace && container.name == name
        };
        if let Some(own) = read(&self.attached).values().find(is_it) {
            return Peer::At(own.container.i6pn);
        }
        let ranked = name.split_once('.').and_then(|(rank, cluster)| {
            self.clusters.ranked(workspace, cluster, rank.parse().ok()?)
        });
        match ranked.or_else(|| self.region.peer(workspace, name)) {
            Some(address) => Peer::At(address),
            None if self.region.knows_peers() => Peer::Nobody,
            None => Peer::Unknown,
        }
    }
}

/// What a container's address rows say of it.
fn flags(egress: bool, private: bool, proxied: bool) -> u32 {
    let flag = |holds, flag| if holds { flag } else { 0 };
    flag(egress, AddressRow::EGRESS)
        | flag(private, AddressRow::I6PN)
        | flag(proxied, AddressRow::PROXIED)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
