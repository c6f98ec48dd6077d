//! Containers that outlived a daemon: what is recorded of them, and whether they are still there.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Attached, Containers, Orphan, Place, flags, write};
use crate::{
    host::{
        links::{LinkError, Links},
        netns::{self, NetNs},
        wiring::{self, PeerError, Tenant, Wired, WiringError},
    },
    region::{addresses::AddressPlan, proxy::Membership, roster, tunnel::Container},
};

/// A container as it is recorded, under its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// What its owner calls it.
    pub name: String,
    /// The tenant.
    pub workspace: String,
    /// The tenant's number.
    pub workspace_id: u32,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its private IPv6 address.
    pub i6pn: Ipv6Addr,
    /// Where its namespace is.
    pub place: Place,
    /// Ordinary egress through source NAT.
    pub egress: bool,
    /// It may talk to the others of its workspace that may; absent in what older versions wrote.
    #[serde(default)]
    pub private: bool,
    /// What it is to its proxy; absent in what older versions wrote.
    #[serde(default)]
    pub proxy: Option<Membership>,
    /// The host-side veth's name.
    pub veth: String,
    /// The host-side veth's index.
    pub ifindex: u32,
    /// Proves whose it is.
    pub token: String,
}

/// A recorded container that is still there.
pub struct Survivor {
    id: String,
    record: ContainerRecord,
    namespace: NetNs,
}

/// Why a recorded container cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// Its namespace cannot be opened.
    #[error("its namespace is gone")]
    Namespace(#[source] std::io::Error),
    /// Its wire is cut.
    #[error(transparent)]
    Wire(#[from] PeerError),
    /// The operator chose other addresses.
    #[error("its address {0} is not in --ipv4-pool {1} any more")]
    Pool(Ipv4Addr, Ipv4Net),
    /// The machine is another host, or of another region.
    #[error("its address {0} is not of host {1}, which this machine is now")]
    Elsewhere(Ipv6Addr, u16),
    /// Netlink refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl LostError {
    /// Whether it will be the same at every other try.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Namespace(error) => netns::is_gone(error),
            Self::Wire(error) => error.is_certain(),
            Self::Pool(..) | Self::Elsewhere(..) => true,
            Self::Link(_) => false,
        }
    }
}

impl Survivor {
    /// Looks whether a recorded container is still there, on a machine with these addresses.
    ///
    /// # Errors
    /// [`LostError`]: if it is certain, what is left of it must go.
    pub async fn find(
        links: &Links,
        plan: &AddressPlan,
        id: String,
        record: ContainerRecord,
    ) -> Result<Self, LostError> {
        let AddressPlan { pool, region, host, .. } = *plan;
        if !pool.contains(&record.ipv4) {
            return Err(LostError::Pool(record.ipv4, pool));
        }
        let [.., own_region, own_host, _, _, _] = record.i6pn.segments();
        if (own_region, own_host) != (region, host) {
            return Err(LostError::Elsewhere(record.i6pn, host));
        }
        let namespace = record.place.open().map_err(LostError::Namespace)?;
        let own = [record.ipv4.into(), record.i6pn.into()];
        let index = wiring::joined(links, &record.veth, &namespace, &own).await?;
        if index != record.ifindex {
            return Err(PeerError::Other(record.veth).into());
        }
        Ok(Self { id, record, namespace })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.record.ipv4
    }

    /// Its host-side veth.
    pub fn veth(&self) -> &str {
        &self.record.veth
    }
}

impl Containers {
    /// Takes up a container that outlived the last daemon: it has its rows again. Its link comes
    /// later, by [`Containers::relink`], when all rows are there. It has no owner.
    ///
    /// # Errors
    /// [`WiringError`]; then it has ended.
    pub async fn adopt(&self, survivor: Survivor) -> Result<Orphan, WiringError> {
        let Survivor { id, record, namespace } = survivor;
        let addresses = vec![record.ipv4.into(), record.i6pn.into()];
        let wired = Wired::of(record.veth, record.ifindex, addresses);
        let flags = flags(record.egress, record.private, record.proxy.is_some());
        let tenant = Tenant { number: record.workspace_id, name: &record.workspace };
        if let Err(error) = self.wiring.adopt(&wired, flags, tenant).await {
            self.records.forget(&id).await;
            self.region.delete(&id).await;
            self.wiring.disconnect(&wired).await;
            self.addresses.give_back(record.ipv4).await;
            return Err(error);
        }
        let attached = Arc::new(Attached {
            container: Arc::new(Container {
                id: id.clone(),
                name: record.name,
                workspace: record.workspace,
                ipv4: record.ipv4,
                i6pn: record.i6pn,
            }),
            place: record.place,
            namespace,
            wired,
            egress: record.egress,
            private: record.private,
            proxy: record.proxy,
            token: record.token,
        });
        write(&self.attached).insert(id, attached.clone());
        Ok(self.orphans.add(&attached))
    }

    /// Puts this daemon's program on the link of a container that was adopted.
    pub fn relink(&self, attached: &Attached) -> Result<(), WiringError> {
        self.wiring.relink(&attached.wired)
    }
}

impl ContainerRecord {
    /// As the region has it.
    pub fn of_region(&self, id: &str, host: u16) -> roster::ContainerRecord {
        roster::ContainerRecord {
            id: id.to_owned(),
            name: self.name.clone(),
            workspace: self.workspace.clone(),
            workspace_id: self.workspace_id,
            host,
            ipv4: self.ipv4,
            i6pn: self.i6pn,
            private: self.private,
            proxy: self.proxy.clone(),
        }
    }

    pub(super) fn of(attached: &Attached, workspace_id: u32) -> Self {
        let container = &attached.container;
        Self {
            name: container.name.clone(),
            workspace: container.workspace.clone(),
            workspace_id,
            ipv4: container.ipv4,
            i6pn: container.i6pn,
            place: attached.place.clone(),
            egress: attached.egress,
            private: attached.private,
            proxy: attached.proxy.clone(),
            veth: attached.wired.veth.clone(),
            ifindex: attached.wired.ifindex,
            token: attached.token.clone(),
        }
    }
}
