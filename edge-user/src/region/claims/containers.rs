//! Containers, their names, and their tunnels.

use serde::{Deserialize, Serialize};

use super::{ClaimError, Claims, Found, Transaction};
use crate::region::{
    proxy,
    roster::{self, ContainerRecord, RegionSettings, TunnelRecord},
    store::StoreError,
};

/// Who has a raw port.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct PortRecord {
    container: String,
    port: u16,
}

/// Who has a name.
#[derive(Serialize, Deserialize)]
struct NameRecord {
    container: String,
    host: u16,
}

impl Claims {
    /// Makes a container known, and its name its own.
    ///
    /// # Errors
    /// [`ClaimError::NameTaken`]; [`ClaimError::NotYours`] or [`ClaimError::BadAddress`] for what
    /// is another host's.
    pub async fn put_container(
        &self,
        id: u16,
        container: ContainerRecord,
    ) -> Result<(), ClaimError> {
        if container.host != id {
            return Err(ClaimError::NotYours(format!("container {}", container.id)));
        }
        self.check(id, &container).await?;
        let (key, name) =
            (roster::container(&container.id), roster::name(&container.workspace, &container.name));
        loop {
            let hold = self.hold(id).await?;
            let known: Option<Found<ContainerRecord>> = self.get(&key).await?;
            let holder: Option<Found<NameRecord>> = self.get(&name).await?;
            if let Some(known) = &known {
                if known.record.host != id {
                    return Err(ClaimError::NotYours(format!("container {}", container.id)));
                }
                if known.record == container {
                    return Ok(());
                }
            }
            // Of one that lives already, the proxy may have been deleted since.
            if let (None, Some(proxy)) = (&known, &container.proxy)
                && self
                    .store
                    .get(&proxy::record_key(&container.workspace, &proxy.name))
                    .await?
                    .is_none()
            {
                return Err(ClaimError::NoProxy(proxy.name.clone(), container.workspace));
            }
            if let Some(Found { record: NameRecord { container: other, host }, .. }) = &holder
                && *other != container.id
            {
                let ContainerRecord { name, workspace, .. } = container;
                return Err(ClaimError::NameTaken { name, workspace, host: *host });
            }
            let mut transaction = Transaction::default();
            transaction.given(&key, known.as_ref());
            transaction.given(&name, holder.as_ref());
            if let Some(Found { record: old, .. }) = &known
                && (&old.workspace, &old.name) != (&container.workspace, &container.name)
            {
                transaction.delete(roster::name(&old.workspace, &old.name));
            }
            let claim = NameRecord { container: container.id.clone(), host: id };
            transaction.put(name.clone(), &claim, Some(hold))?;
            transaction.put(key.clone(), &container, Some(hold))?;
            match transaction.commit(&self.store).await {
                Ok(true) => return Ok(()),
                // Both are looked at anew.
                Ok(false) | Err(StoreError::LeaseEnded(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends a container, its name's claim and its tunnels. Answers whether it was known.
    ///
    /// # Errors
    /// [`ClaimError::NotYours`].
    pub async fn delete_container(&self, id: u16, container: &str) -> Result<bool, ClaimError> {
        let key = roster::container(container);
        loop {
            let found: Option<Found<ContainerRecord>> = self.get(&key).await?;
            let Some(found) = found else { return Ok(false) };
            if found.record.host != id {
                return Err(ClaimError::NotYours(format!("container {container}")));
            }
            let mut transaction = Transaction::default();
            transaction.given(&key, Some(&found));
            transaction.delete(key.clone());
            transaction.delete(roster::name(&found.record.workspace, &found.record.name));
            for (key, entry) in self.store.list(&format!("region/tunnel/{container}/")).await? {
                transaction.end_tunnel(&entry.read(&key)?);
            }
            if transaction.commit(&self.store).await? {
                return Ok(true);
            }
        }
    }

    /// The container, if it is this host's.
    ///
    /// # Errors
    /// [`ClaimError::NoContainer`], [`ClaimError::NotYours`].
    pub async fn own_container(
        &self,
        id: u16,
        container: &str,
    ) -> Result<ContainerRecord, ClaimError> {
        let found: Option<Found<ContainerRecord>> = self.get(&roster::container(container)).await?;
        let found = found.ok_or_else(|| ClaimError::NoContainer(container.to_owned()))?;
        if found.record.host != id {
            return Err(ClaimError::NotYours(format!("container {container}")));
        }
        Ok(found.record)
    }

    /// The tunnel on a port, if there is one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn tunnel(
        &self,
        container: &str,
        port: u16,
    ) -> Result<Option<TunnelRecord>, ClaimError> {
        let found: Option<Found<TunnelRecord>> = self.get(&roster::tunnel(container, port)).await?;
        Ok(found.map(|found| found.record))
    }

    /// Writes a tunnel of a container that is there, in place of the one on its port, and makes
    /// its raw port its own.
    ///
    /// # Errors
    /// [`ClaimError::NoContainer`] if it has ended meanwhile, [`ClaimError::PortTaken`].
    pub async fn put_tunnel(&self, tunnel: &TunnelRecord) -> Result<(), ClaimError> {
        let key = roster::container(&tunnel.container);
        let at = roster::tunnel(&tunnel.container, tunnel.port);
        loop {
            let hold = self.hold(tunnel.host).await?;
            let container: Option<Found<ContainerRecord>> = self.get(&key).await?;
            let container =
                container.ok_or_else(|| ClaimError::NoContainer(tunnel.container.clone()))?;
            let previous: Option<Found<TunnelRecord>> = self.get(&at).await?;
            let mut transaction = Transaction::default();
            transaction.given(&key, Some(&container));
            transaction.given(&at, previous.as_ref());
            if let Some(previous) = &previous {
                transaction.end_tunnel(&previous.record);
            }
            if let Some(raw) = &tunnel.place.raw {
                let claim = PortRecord { container: tunnel.container.clone(), port: tunnel.port };
                let raw_port = roster::raw_port(raw.port);
                let holder: Option<Found<PortRecord>> = self.get(&raw_port).await?;
                if holder.as_ref().is_some_and(|holder| holder.record != claim) {
                    return Err(ClaimError::PortTaken(raw.port));
                }
                transaction.given(&raw_port, holder.as_ref());
                transaction.put(raw_port, &claim, Some(hold))?;
            }
            transaction.put(at.clone(), tunnel, Some(hold))?;
            match transaction.commit(&self.store).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(StoreError::LeaseEnded(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the tunnel on a port. Answers whether there was one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn delete_tunnel(&self, container: &str, port: u16) -> Result<bool, ClaimError> {
        let key = roster::tunnel(container, port);
        loop {
            let found: Option<Found<TunnelRecord>> = self.get(&key).await?;
            let Some(found) = found else { return Ok(false) };
            let mut transaction = Transaction::default();
            transaction.given(&key, Some(&found));
            transaction.end_tunnel(&found.record);
            if transaction.commit(&self.store).await? {
                return Ok(true);
            }
        }
    }

    /// Refuses names that are no labels, and addresses that are not the host's to give.
    async fn check(&self, id: u16, container: &ContainerRecord) -> Result<(), ClaimError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let label = |name: &str| (1..=63).contains(&name.len()) && name.bytes().all(fits);
        for name in [&container.name, &container.id] {
            if !label(name) {
                return Err(ClaimError::BadName(name.clone()));
            }
        }
        let bad = |address, why| {
            Err(ClaimError::BadAddress { container: container.id.clone(), address, why })
        };
        let blocks = self.host(id).await?.record.blocks;
        if !blocks.iter().any(|block| block.contains(&container.ipv4)) {
            return bad(container.ipv4.into(), "it is of no block of the host");
        }
        let workspace = self.workspace(&container.workspace).await?;
        let settings: Option<Found<RegionSettings>> = self.get(roster::SETTINGS).await?;
        let number = settings.map(|found| found.record.number).unwrap_or_default();
        // fdaa · workspace · region · host.
        let [high, low] = [workspace >> 16, workspace & 0xffff].map(|half| half as u16);
        if container.workspace_id != workspace
            || container.i6pn.segments()[..5] != [0xfdaa, high, low, number, id]
        {
            return bad(container.i6pn.into(), "it names another workspace, region or host");
        }
        Ok(())
    }
}

impl Transaction {
    /// Takes a tunnel and its claim away.
    fn end_tunnel(&mut self, tunnel: &TunnelRecord) {
        self.delete(roster::tunnel(&tunnel.container, tunnel.port));
        if let Some(raw) = &tunnel.place.raw {
            self.delete(roster::raw_port(raw.port));
        }
    }
}
