//! What outlived the last daemon: which of it is still there, and how it is taken up again.
//!
//! Rows come before links: not until all that the programs may ask for is in the tables does any
//! link change its program.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::{
    cli::values::PortRange,
    error::{Error, Kind},
    host::{
        containers::{ContainerRecord, Containers, Orphan, Survivor},
        links::Links,
        steering::KernelSteering,
    },
    region::{
        addresses::AddressPlan,
        records::Records,
        store::{Store, StoreError},
        tunnels::{TunnelRecord, Tunnels},
    },
};

/// The containers and tunnels that are still there.
pub(super) struct Left {
    containers: Vec<Survivor>,
    tunnels: Vec<(String, TunnelRecord)>,
    gone: Vec<String>,
}

/// Records of containers.
pub(super) fn container_records(leased: &Arc<dyn Store>) -> Records<ContainerRecord> {
    Records::new(leased.clone(), "container/")
}

/// Records of tunnels.
pub(super) fn tunnel_records(leased: &Arc<dyn Store>) -> Records<TunnelRecord> {
    Records::new(leased.clone(), "tunnel/")
}

/// Refuses records that this version does not know, before anything is touched.
pub(super) async fn refuse_unknown(leased: &Arc<dyn Store>) -> Result<(), StoreError> {
    container_records(leased).all().await?;
    tunnel_records(leased).all().await?;
    Ok(())
}

/// Refuses ranges that would end a container or a tunnel: after a stop that is the operator's wish,
/// but a successor is to keep what lives.
pub(super) async fn refuse_loss(
    leased: &Arc<dyn Store>,
    pool: Ipv4Net,
    raw_ports: PortRange,
) -> anyhow::Result<()> {
    for (_, record) in tunnel_records(leased).all().await? {
        if let Some(port) = record.raw.filter(|port| !raw_ports.contains(*port)) {
            let cause = format!("tunnel {} has port {port}, outside of it", record.host);
            let remedy = "keep the range, or end the tunnel before the upgrade";
            let thing = format_args!("--raw-ports {raw_ports}");
            return Err(Error::new(Kind::Refused, thing, cause, remedy).into());
        }
    }
    for (_, record) in container_records(leased).all().await? {
        if !pool.contains(&record.ipv4) {
            let cause = format!("container {:?} has {}, outside of it", record.name, record.ipv4);
            let remedy = "keep the pool, or end the container before the upgrade";
            let thing = format_args!("--ipv4-pool {pool}");
            return Err(Error::new(Kind::Refused, thing, cause, remedy).into());
        }
    }
    Ok(())
}

impl Left {
    /// Looks after all that is recorded; forgets what is gone.
    ///
    /// # Errors
    /// The store's own, and whatever leaves open whether something is gone.
    pub(super) async fn find(
        leased: &Arc<dyn Store>,
        links: &Links,
        plan: &AddressPlan,
        raw_ports: PortRange,
    ) -> anyhow::Result<Self> {
        let records = container_records(leased);
        let (mut containers, mut gone) = (Vec::new(), Vec::new());
        for (id, record) in records.all().await? {
            let name = record.name.clone();
            match Survivor::find(links, plan, id.clone(), record).await {
                Ok(survivor) => containers.push(survivor),
                // What passes must not end what lives.
                Err(error) if !error.is_certain() => {
                    let remedy = "start the daemon again; `edge down` gives the container up";
                    let thing = format_args!("container {name:?}");
                    return Err(Error::failure(thing, crate::error::causes(&error), remedy).into());
                }
                Err(error) => {
                    let why = crate::error::causes(&error);
                    tracing::info!(id, name, why, "a container ended while no daemon ran");
                    records.forget(&id).await;
                    gone.push(id);
                }
            }
        }
        let records = tunnel_records(leased);
        let living: HashSet<_> =
            containers.iter().map(|survivor| survivor.id().to_owned()).collect();
        let mut tunnels = Vec::new();
        for (id, record) in records.all().await? {
            // Source NAT may use a port outside the range: its replies must not find a tunnel.
            let outside = record.raw.filter(|port| !raw_ports.contains(*port));
            if let Some(port) = outside {
                tracing::warn!(
                    id,
                    host = record.host,
                    port,
                    "a tunnel ends: its port is not of --raw-ports"
                );
            }
            if outside.is_none() && living.contains(&record.container) {
                tunnels.push((id, record));
            } else {
                records.forget(&id).await;
            }
        }
        Ok(Self { containers, tunnels, gone })
    }

    /// Containers that have ended while no daemon ran.
    pub(super) fn gone(&self) -> &[String] {
        &self.gone
    }

    /// The raw ports that are lent.
    pub(super) fn raw_ports(&self) -> BTreeSet<u16> {
        self.tunnels.iter().filter_map(|(_, record)| record.raw).collect()
    }

    /// The addresses that are lent.
    pub(super) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.containers.iter().map(Survivor::ipv4).collect()
    }

    /// The wires that are in use.
    pub(super) fn veths(&self) -> HashSet<&str> {
        self.containers.iter().map(Survivor::veth).collect()
    }

    /// Writes the rows of all of it. One that cannot be taken up ends.
    pub(super) async fn adopt(
        self,
        containers: &Containers,
        tunnels: &Arc<Tunnels<KernelSteering>>,
    ) -> Vec<Orphan> {
        let mut orphans = HashMap::new();
        for survivor in self.containers {
            let id = survivor.id().to_owned();
            match containers.adopt(survivor).await {
                Ok(orphan) => {
                    let name = &orphan.attached.container.name;
                    tracing::info!(id, name, "a container was taken up and waits for its owner");
                    orphans.insert(id, orphan);
                }
                Err(error) => {
                    let error = crate::error::causes(&error);
                    tracing::error!(id, error, "a container could not be taken up");
                }
            }
        }
        for (id, record) in self.tunnels {
            let Some(orphan) = orphans.get(&record.container) else {
                tunnels.abandon(&id, &record).await;
                continue;
            };
            let (port, container) = (record.port, &orphan.attached.container);
            if let Err(error) = tunnels.restore(container, id, record).await {
                let (error, name) = (crate::error::causes(&error), &container.name);
                tracing::error!(name, port, error, "a tunnel could not be taken up");
            }
        }
        orphans.into_values().collect()
    }
}
