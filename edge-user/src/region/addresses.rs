//! The addresses of a host's containers.
//!
//! IPv4 comes from blocks of the region's pool that the host leases one after another: other
//! hosts need one row for a block, not for a container. IPv6 is told by what it holds:
//! `fdaa` (16 bits) · workspace (32) · region (16) · host (16) · container (48, random).

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use ipnet::Ipv4Net;
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    member::CallError,
    rest::Rests,
    store::{Store, StoreError},
};

/// Prefix length of the blocks that hosts lease.
pub const BLOCK: u8 = 26;
/// The first 16 bits of every private address.
const PRIVATE: u16 = 0xfdaa;

/// Whether an address is of the private network.
pub fn is_private(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] == PRIVATE)
}

/// What a host's addresses are made of.
#[derive(Debug, Clone)]
pub struct AddressPlan {
    /// The region's IPv4 range, leased in blocks.
    pub pool: Ipv4Net,
    /// The region's number.
    pub region: u16,
    /// The host's number within the region.
    pub host: u16,
    /// How long an IPv4 address rests after use.
    pub rest: Duration,
}

/// Where a host's blocks come from.
pub trait Blocks: Send + Sync + 'static {
    /// The blocks that the host has, the one first that it had first.
    fn own(&self) -> BoxFuture<'_, Result<Vec<Ipv4Net>, AddressError>>;

    /// One more.
    fn lease(&self) -> BoxFuture<'_, Result<Ipv4Net, AddressError>>;
}

/// Lends addresses to the containers of one host.
pub struct Addresses {
    blocks: Arc<dyn Blocks>,
    plan: AddressPlan,
    service: Ipv4Addr,
    rests: Rests,
    /// Held while a block is leased, so that two callers do not lease one each.
    leasing: Mutex<()>,
}

/// The addresses of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerAddresses {
    /// Unique in the region.
    pub ipv4: Ipv4Addr,
    /// Unique for ever.
    pub i6pn: Ipv6Addr,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// None is left.
    #[error(
        "no container address is left in {pool}: each is taken, leased to another host, or rests \
         for {rest:?} after use; end containers that are not needed, or give the region a wider pool"
    )]
    Exhausted {
        /// The region's pool.
        pool: Ipv4Net,
        /// How long an address rests.
        rest: Duration,
    },
    /// The region did not give a block.
    #[error("no more container addresses: {0}")]
    Region(#[from] CallError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Addresses {
    /// For the region of one machine, whose store has the blocks too. Leases the first one if
    /// the host has none. Addresses in `lent` belong to containers that outlived the last daemon.
    ///
    /// # Errors
    /// [`AddressError::Exhausted`] if other hosts have all of the pool.
    pub async fn open(
        store: Arc<dyn Store>,
        plan: AddressPlan,
        lent: &BTreeSet<Ipv4Addr>,
    ) -> Result<Self, AddressError> {
        let blocks = Arc::new(StoreBlocks { store: store.clone(), plan: plan.clone() });
        Self::over(blocks, store, plan, lent).await
    }

    /// Of these blocks; the store is the host's own, and remembers rests. Leases the first block
    /// if the host has none.
    ///
    /// # Errors
    /// [`AddressError::Exhausted`] or [`AddressError::Region`] if there is no block.
    pub async fn over(
        blocks: Arc<dyn Blocks>,
        store: Arc<dyn Store>,
        plan: AddressPlan,
        lent: &BTreeSet<Ipv4Addr>,
    ) -> Result<Self, AddressError> {
        let mut own = blocks.own().await?;
        if own.is_empty() {
            own.push(blocks.lease().await?);
        }
        let first = own.first().and_then(|block| block.hosts().next());
        let service = first.ok_or_else(|| exhausted(&plan))?;

        let lent = lent.iter().copied().map(u32::from).collect();
        let rests = Rests::load(store, "address/", plan.rest, 0, lent).await?;
        for block in own {
            rests.add(block.hosts().filter(|address| *address != service).map(u32::from));
        }
        Ok(Self { blocks, plan, service, rests, leasing: Mutex::new(()) })
    }

    /// The service namespace's own address: the first of the first block.
    pub fn service(&self) -> Ipv4Addr {
        self.service
    }

    /// Lends addresses to a container of the workspace with this id.
    ///
    /// # Errors
    /// [`AddressError::Exhausted`] if no IPv4 address is left.
    pub async fn take(&self, workspace: u32) -> Result<ContainerAddresses, AddressError> {
        let ipv4 = match self.rests.take(|_| false).await? {
            Some(address) => address,
            None => self.take_from_new_block().await?,
        };
        Ok(ContainerAddresses { ipv4: ipv4.into(), i6pn: self.i6pn(workspace) })
    }

    /// Takes an address back; its rest begins.
    pub async fn give_back(&self, ipv4: Ipv4Addr) {
        self.rests.give_back(ipv4.into()).await;
    }

    async fn take_from_new_block(&self) -> Result<u32, AddressError> {
        let _leasing = self.leasing.lock().await;
        loop {
            if let Some(address) = self.rests.take(|_| false).await? {
                return Ok(address);
            }
            let block = self.blocks.lease().await?;
            self.rests.add(block.hosts().map(u32::from));
        }
    }

    /// 48 random bits need no register: no address comes twice.
    fn i6pn(&self, workspace: u32) -> Ipv6Addr {
        let AddressPlan { region, host, .. } = self.plan;
        let container = u128::from(rand::random::<u64>() >> 16).max(1);
        Ipv6Addr::from_bits(
            u128::from(PRIVATE) << 112
                | u128::from(workspace) << 80
                | u128::from(region) << 64
                | u128::from(host) << 48
                | container,
        )
    }
}

/// The blocks of the region of one machine.
struct StoreBlocks {
    store: Arc<dyn Store>,
    plan: AddressPlan,
}

impl Blocks for StoreBlocks {
    fn own(&self) -> BoxFuture<'_, Result<Vec<Ipv4Net>, AddressError>> {
        async {
            let mut own = Vec::new();
            for (key, entry) in self.store.list("block/").await? {
                let block = key.strip_prefix("block/").and_then(|block| block.parse().ok());
                if let Some(block) = block
                    && entry.read::<u16>(&key)? == self.plan.host
                    && self.plan.pool.contains::<&Ipv4Net>(&block)
                {
                    own.push(block);
                }
            }
            // The order of keys is that of text, in which .128 comes before .64.
            own.sort_unstable();
            Ok(own)
        }
        .boxed()
    }

    fn lease(&self) -> BoxFuture<'_, Result<Ipv4Net, AddressError>> {
        lease(&*self.store, &self.plan).boxed()
    }
}

/// Leases the lowest block of the pool that no host has.
async fn lease(store: &dyn Store, plan: &AddressPlan) -> Result<Ipv4Net, AddressError> {
    let size = BLOCK.max(plan.pool.prefix_len());
    loop {
        let leased: HashMap<_, _> = store.list("block/").await?.into_iter().collect();
        let mut blocks = plan.pool.subnets(size).into_iter().flatten();
        let free = blocks.find(|block| !leased.contains_key(&format!("block/{block}")));
        let block = free.ok_or_else(|| exhausted(plan))?;
        // Another host may take it first; then look again.
        if store.compare_and_swap(&format!("block/{block}"), None, json!(plan.host)).await? {
            tracing::info!(%block, host = plan.host, "leased a block of container addresses");
            return Ok(block);
        }
    }
}

fn exhausted(plan: &AddressPlan) -> AddressError {
    AddressError::Exhausted { pool: plan.pool, rest: plan.rest }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::region::{embedded::Embedded, rest::REST};

    fn plan(pool: &str, host: u16) -> AddressPlan {
        AddressPlan { pool: pool.parse().unwrap(), region: 5, host, rest: REST }
    }

    #[tokio::test]
    async fn blocks_are_leased_on_demand_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let one = Addresses::open(store.clone(), plan("100.64.0.0/24", 1), &BTreeSet::new())
            .await
            .unwrap();
        let two = Addresses::open(store.clone(), plan("100.64.0.0/24", 2), &BTreeSet::new())
            .await
            .unwrap();
        assert_eq!(one.service(), Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(two.service(), Ipv4Addr::new(100, 64, 0, 65));
        // 61 of the first block, then one of a new block that two callers want at once.
        let many = futures::future::try_join_all((0..62).map(|_| one.take(7))).await.unwrap();
        let unique: HashSet<_> = many.iter().map(|addresses| addresses.ipv4).collect();
        assert_eq!(unique.len(), 62);
        assert_eq!(store.list("block/").await.unwrap().len(), 3);
        let again = Addresses::open(store.clone(), plan("100.64.0.0/24", 1), &BTreeSet::new())
            .await
            .unwrap();
        assert_eq!(again.service(), one.service());
        assert!(!unique.contains(&again.take(7).await.unwrap().ipv4), "what was in use rests");
    }

    #[tokio::test]
    async fn refuses_by_name_when_all_rest() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let addresses =
            Addresses::open(store, plan("100.64.0.0/29", 1), &BTreeSet::new()).await.unwrap();
        for _ in 0..5 {
            let lent = addresses.take(7).await.unwrap();
            addresses.give_back(lent.ipv4).await;
        }
        let error = addresses.take(7).await.unwrap_err().to_string();
        assert!(error.contains("100.64.0.0/29") && error.contains("600s"), "{error}");
    }

    #[tokio::test]
    async fn the_private_address_tells_workspace_region_and_host() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let addresses =
            Addresses::open(store, plan("100.64.0.0/10", 0x1234), &BTreeSet::new()).await.unwrap();
        let i6pn = addresses.take(0xabcd_ef01).await.unwrap().i6pn;
        assert_eq!(i6pn.segments()[..5], [0xfdaa, 0xabcd, 0xef01, 5, 0x1234]);
        assert_ne!(i6pn, addresses.take(0xabcd_ef01).await.unwrap().i6pn);
    }
}
