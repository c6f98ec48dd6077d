//! Host numbers and address blocks.

use std::collections::HashSet;

use ipnet::Ipv4Net;

use super::{ClaimError, Claims, Found, Transaction};
use crate::region::{
    addresses::BLOCK,
    roster::{self, About, ContainerRecord, HostRecord, RegionSettings, Role},
    token::{self, TokenError, TokenRecord},
};

/// Blocks that one host may have: 16,000 containers.
const BLOCKS: usize = 256;
/// What a resting block belongs to: no host has this number.
const NOBODY: u16 = 0;

impl Claims {
    /// Makes the machine with this key a host, by a token's secret; the same key again is the
    /// same host again.
    ///
    /// # Errors
    /// [`ClaimError::Token`], [`ClaimError::NoHostLeft`].
    pub async fn join(&self, secret: &[u8], key: &str) -> Result<u16, ClaimError> {
        let at = roster::token(&token::hash(secret));
        // All who join want the next number: one after the other, none tries in vain.
        let _turn = self.joining.lock().await;
        loop {
            let found: Option<Found<TokenRecord>> = self.get(&at).await?;
            let found = found.ok_or(TokenError::Unknown)?;
            if let Some(host) = found.record.admits(key)? {
                return Ok(host);
            }
            let mut transaction = Transaction::default();
            let id = self.admit(&mut transaction, Role::Host, key).await?;
            transaction.given(&at, Some(&found));
            let expires = self.store.grant(found.record.remembered()).await?;
            transaction.put(at.clone(), &found.record.used(key, id), Some(expires))?;
            if transaction.commit(&self.store).await? {
                return Ok(id);
            }
            self.store.revoke(expires).await?;
        }
    }

    /// Makes the machine with this key a gateway. For the gateway's own process only.
    ///
    /// # Errors
    /// [`ClaimError::NoHostLeft`].
    pub async fn admit_gateway(&self, key: &str) -> Result<u16, ClaimError> {
        loop {
            let mut transaction = Transaction::default();
            let id = self.admit(&mut transaction, Role::Gateway, key).await?;
            if transaction.commit(&self.store).await? {
                return Ok(id);
            }
        }
    }

    /// The gateways that are there, but for the one with this number.
    ///
    /// # Errors
    /// The store's own.
    pub async fn gateways(&self, but: Option<u16>) -> Result<Vec<u16>, ClaimError> {
        let mut gateways = Vec::new();
        for (key, entry) in self.store.list("region/host/").await? {
            let HostRecord { id, role, .. } = entry.read(&key)?;
            if role == Role::Gateway
                && Some(id) != but
                && self.store.get(&roster::presence(id)).await?.is_some()
            {
                gateways.push(id);
            }
        }
        Ok(gateways)
    }

    /// Takes all from a host that is gone for good: its blocks rest, and its certificate is void.
    /// Answers whether there was one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn forget(&self, id: u16) -> Result<bool, ClaimError> {
        loop {
            let Ok(found) = self.host(id).await else { return Ok(false) };
            for container in self.containers_of(id).await? {
                self.delete_container(id, &container.id).await?;
            }
            let mut transaction = Transaction::default();
            transaction.given(&roster::host(id), Some(&found));
            let rest = self.store.grant(self.terms.rest).await?;
            for block in &found.record.blocks {
                transaction.put(roster::block(*block), &NOBODY, Some(rest))?;
            }
            for key in [roster::host(id), roster::presence(id), roster::hold(id)] {
                transaction.delete(key);
            }
            if transaction.commit(&self.store).await? {
                return Ok(true);
            }
            self.store.revoke(rest).await?;
        }
    }

    /// Leases the lowest block of the pool that no host has.
    ///
    /// # Errors
    /// [`ClaimError::NoBlockLeft`], [`ClaimError::TooManyBlocks`].
    pub async fn lease_block(&self, id: u16) -> Result<Ipv4Net, ClaimError> {
        loop {
            let mut host = self.host(id).await?;
            if host.record.blocks.len() >= BLOCKS {
                return Err(ClaimError::TooManyBlocks(BLOCKS));
            }
            let settings: Option<Found<RegionSettings>> = self.get(roster::SETTINGS).await?;
            let pool = settings.map(|found| found.record.ipv4_pool).unwrap_or_default();
            let taken = self.store.list("block/").await?;
            let taken: HashSet<_> = taken.into_iter().map(|(key, _)| key).collect();
            let mut blocks = pool.subnets(BLOCK.max(pool.prefix_len())).into_iter().flatten();
            let block = blocks.find(|block| !taken.contains(&roster::block(*block)));
            let block = block.ok_or(ClaimError::NoBlockLeft(pool))?;

            let mut transaction = Transaction::default();
            transaction.given::<u16>(&roster::block(block), None);
            transaction.given(&roster::host(id), Some(&host));
            transaction.put(roster::block(block), &id, None)?;
            host.record.blocks.push(block);
            transaction.put(roster::host(id), &host.record, None)?;
            if transaction.commit(&self.store).await? {
                tracing::info!(%block, host = id, "leased a block of container addresses");
                return Ok(block);
            }
        }
    }

    /// Takes a block back; its rest begins.
    ///
    /// # Errors
    /// [`ClaimError::NotYours`], [`ClaimError::BlockInUse`].
    pub async fn return_block(&self, id: u16, block: Ipv4Net) -> Result<(), ClaimError> {
        loop {
            let mut host = self.host(id).await?;
            if !host.record.blocks.contains(&block) {
                return Err(ClaimError::NotYours(format!("block {block}")));
            }
            let mut containers = self.containers_of(id).await?.into_iter();
            if let Some(user) = containers.find(|container| block.contains(&container.ipv4)) {
                return Err(ClaimError::BlockInUse { block, container: user.name });
            }
            let rest = self.store.grant(self.terms.rest).await?;
            let mut transaction = Transaction::default();
            transaction.given(&roster::host(id), Some(&host));
            host.record.blocks.retain(|own| *own != block);
            transaction.put(roster::host(id), &host.record, None)?;
            transaction.put(roster::block(block), &NOBODY, Some(rest))?;
            if transaction.commit(&self.store).await? {
                return Ok(());
            }
            self.store.revoke(rest).await?;
        }
    }

    /// What the region knows of a host.
    ///
    /// # Errors
    /// [`ClaimError::UnknownHost`].
    pub async fn record(&self, id: u16) -> Result<HostRecord, ClaimError> {
        Ok(self.host(id).await?.record)
    }

    pub(super) async fn host(&self, id: u16) -> Result<Found<HostRecord>, ClaimError> {
        self.get(&roster::host(id)).await?.ok_or(ClaimError::UnknownHost(id))
    }

    pub(super) async fn containers_of(&self, id: u16) -> Result<Vec<ContainerRecord>, ClaimError> {
        let mut own = Vec::new();
        for (key, entry) in self.store.list("region/container/").await? {
            let record: ContainerRecord = entry.read(&key)?;
            if record.host == id {
                own.push(record);
            }
        }
        Ok(own)
    }

    /// Adds a machine with the next free number.
    async fn admit(
        &self,
        transaction: &mut Transaction,
        role: Role,
        key: &str,
    ) -> Result<u16, ClaimError> {
        let next: Option<Found<u16>> = self.get(roster::NEXT_HOST).await?;
        let first = next.as_ref().map_or(1, |found| found.record.max(1));
        let mut ids = (first..=u16::MAX).chain(1..first);
        // Most likely the first one is free.
        let id = loop {
            let id = ids.next().ok_or(ClaimError::NoHostLeft)?;
            if self.store.get(&roster::host(id)).await?.is_none() {
                break id;
            }
        };
        let (blocks, about) = (Vec::new(), About::default());
        let record = HostRecord { id, role, key: key.to_owned(), blocks, about };
        transaction.given(roster::NEXT_HOST, next.as_ref());
        transaction.given::<HostRecord>(&roster::host(id), None);
        transaction.put(roster::NEXT_HOST.to_owned(), &id.checked_add(1).unwrap_or(1), None)?;
        transaction.put(roster::host(id), &record, None)?;
        Ok(id)
    }
}
