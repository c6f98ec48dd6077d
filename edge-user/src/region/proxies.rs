//! What the operator, and the gateways, do with proxies: each a transaction over the store.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tonic::Code;

use super::{
    addresses, names,
    proxy::{
        HOLDERS, Known, MOST, PROXIES, Pair, Proxy, ProxyAddress, ProxyRecord, Spread, key,
        record_key,
    },
    roster,
    store::{LeaseId, Store, StoreError, Write},
};

/// The proxies of a region, as its store has them.
#[derive(Clone)]
pub struct Proxies {
    store: Arc<dyn Store>,
}

/// Why something is not done with a proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its name is taken.
    #[error(
        "proxy {0:?}: workspace {1:?} has one of this name; choose another, or `edge proxy delete` that one"
    )]
    Exists(String, String),
    /// There is none of this name.
    #[error(
        "proxy {0:?}: workspace {1:?} has none of this name; `edge proxy list` names them, `edge proxy create` makes one"
    )]
    Unknown(String, String),
    /// Another proxy has the address.
    #[error(
        "address {0}: it is of the proxy {1} already; an address belongs to one proxy, remove it there first"
    )]
    Taken(IpAddr, String),
    /// It is no address of the proxy.
    #[error("address {0}: it is not of the proxy {1:?}; `edge proxy show` lists those that are")]
    NotIts(Ipv4Addr, String),
    /// Too many or too few.
    #[error("proxy {0:?}: it would have {1} addresses; give it 1 to {MOST}")]
    Count(String, usize),
    /// Nobody on the internet would answer to it.
    #[error("address {0}: nobody could answer to it; give an address that is routed to a gateway")]
    Unfit(IpAddr),
    /// The store's own.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProxyError {
    /// As calls are answered with it.
    pub fn code(&self) -> Code {
        match self {
            Self::Exists(..) | Self::Taken(..) => Code::AlreadyExists,
            Self::Unknown(..) | Self::NotIts(..) => Code::NotFound,
            Self::Count(..) | Self::Unfit(_) => Code::InvalidArgument,
            Self::Store(_) => Code::Unavailable,
        }
    }
}

impl Proxies {
    /// Those that this store keeps.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// All of them.
    ///
    /// # Errors
    /// The store's own.
    pub async fn known(&self) -> Result<Known, StoreError> {
        let mut known = Known::new();
        let mut holders = BTreeMap::new();
        for (key, entry) in self.store.list(HOLDERS).await? {
            if let Ok(ip) = key.trim_start_matches(HOLDERS).parse() {
                holders.insert(ip, entry.read(&key)?);
            }
        }
        for (key, entry) in self.store.list(PROXIES).await? {
            let record: ProxyRecord = entry.read(&key)?;
            let proxy = Proxy::of(record, &holders);
            known.insert(key.trim_start_matches(PROXIES).to_owned(), Arc::new(proxy));
        }
        Ok(known)
    }

    /// Makes one.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn create(
        &self,
        workspace: &str,
        name: &str,
        pairs: &[Pair],
        spread: Spread,
    ) -> Result<ProxyRecord, ProxyError> {
        let created = now();
        let record = ProxyRecord {
            id: names::id("pr"),
            name: name.to_owned(),
            workspace: workspace.to_owned(),
            created,
            addresses: Vec::new(),
            spread,
        };
        self.change(workspace, name, |found| {
            if found.is_some() {
                return Err(ProxyError::Exists(name.to_owned(), workspace.to_owned()));
            }
            let mut record = record.clone();
            for pair in pairs {
                add(&mut record, *pair, created)?;
            }
            Ok(Some(counted(record)?))
        })
        .await
    }

    /// Adds an address: what begins from now on may get it.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn add(
        &self,
        workspace: &str,
        name: &str,
        pair: Pair,
    ) -> Result<ProxyRecord, ProxyError> {
        self.change(workspace, name, |found| {
            let mut record = existing(found, workspace, name)?;
            add(&mut record, pair, now())?;
            Ok(Some(counted(record)?))
        })
        .await
    }

    /// Removes an address: nothing begins with it from now on, and after the drain it is no longer
    /// served.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn remove(
        &self,
        workspace: &str,
        name: &str,
        ip: Ipv4Addr,
        drain: Duration,
    ) -> Result<ProxyRecord, ProxyError> {
        let leaves = now() + u64::try_from(drain.as_millis()).unwrap_or(u64::MAX / 2);
        self.change(workspace, name, |found| {
            let mut record = existing(found, workspace, name)?;
            let not_its = || ProxyError::NotIts(ip, name.to_owned());
            let address = record.addresses.iter_mut().find(|one| one.ip == ip);
            let address = address.ok_or_else(not_its)?;
            address.leaves = Some(address.leaves.map_or(leaves, |before| before.min(leaves)));
            Ok(Some(counted(record)?))
        })
        .await
    }

    /// Deletes one: its containers have no way out from now on.
    ///
    /// # Errors
    /// [`ProxyError::Unknown`], and the store's own.
    pub async fn delete(&self, workspace: &str, name: &str) -> Result<(), ProxyError> {
        self.change(workspace, name, |found| {
            existing(found, workspace, name)?;
            Ok(None)
        })
        .await?;
        Ok(())
    }

    /// Forgets the addresses whose time to go has come.
    ///
    /// # Errors
    /// The store's own.
    pub async fn sweep(&self, known: &Known) -> Result<(), ProxyError> {
        let over = |address: &ProxyAddress| address.leaves.is_some_and(|leaves| leaves <= now());
        for proxy in known.values() {
            let ProxyRecord { workspace, name, addresses, .. } = &proxy.record;
            if !addresses.iter().any(over) {
                continue;
            }
            let swept = self.change(workspace, name, |found| {
                let mut record = existing(found, workspace, name)?;
                record.addresses.retain(|address| !over(address));
                Ok(Some(record))
            });
            match swept.await {
                Err(ProxyError::Unknown(..)) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Serves an address from now on, for as long as the lease lives. Answers whether it is this
    /// gateway's to serve.
    ///
    /// # Errors
    /// The store's own.
    pub async fn hold(
        &self,
        proxy: &ProxyRecord,
        ip: Ipv4Addr,
        gateway: u16,
        lease: Option<LeaseId>,
    ) -> Result<bool, ProxyError> {
        let holder = format!("{HOLDERS}{ip}");
        let before = match self.store.get(&holder).await? {
            Some(entry) if entry.read::<u16>(&holder)? != gateway => return Ok(false),
            entry => entry.map(|entry| entry.revision),
        };
        let write = Write::Put { key: holder.clone(), value: json!(gateway), lease };
        let held = self.store.transact(vec![(holder, before)], vec![write]).await?;
        let new = proxy.addresses.iter().any(|address| address.ip == ip && !address.served);
        if held && new {
            let (workspace, name) = (&proxy.workspace, &proxy.name);
            let served = self.change(workspace, name, |found| {
                let mut record = existing(found, workspace, name)?;
                for address in record.addresses.iter_mut().filter(|address| address.ip == ip) {
                    address.served = true;
                }
                Ok(Some(record))
            });
            match served.await {
                Err(ProxyError::Unknown(..)) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }

    /// Serves it no more.
    ///
    /// # Errors
    /// The store's own.
    pub async fn release(&self, ip: Ipv4Addr, gateway: u16) -> Result<(), StoreError> {
        let key = format!("{HOLDERS}{ip}");
        let Some(entry) = self.store.get(&key).await? else { return Ok(()) };
        if entry.read::<u16>(&key)? == gateway {
            let condition = (key.clone(), Some(entry.revision));
            self.store.transact(vec![condition], vec![Write::Delete { key }]).await?;
        }
        Ok(())
    }

    /// Under which condition a proxy that has claimed an address does not have it: a gateway that
    /// knows no IPv6 beside addresses writes records back without it, and leaves the claim.
    async fn has_let_go(
        &self,
        ip: IpAddr,
        claimant: String,
        own: &str,
    ) -> Result<Option<(String, Option<u64>)>, ProxyError> {
        if claimant == own {
            return Ok(None);
        }
        let at = format!("{PROXIES}{claimant}");
        let entry = self.store.get(&at).await?;
        let record: Option<ProxyRecord> =
            entry.as_ref().map(|entry| entry.read(&at)).transpose()?;
        if record.iter().flat_map(ProxyRecord::all).any(|its| its == ip) {
            return Err(ProxyError::Taken(ip, claimant));
        }
        Ok(Some((at, entry.map(|entry| entry.revision))))
    }

    /// The store's own.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Changes a record as long as somebody else does so meanwhile. The claims of its addresses
    /// come and go with it.
    async fn change(
        &self,
        workspace: &str,
        name: &str,
        change: impl Fn(Option<ProxyRecord>) -> Result<Option<ProxyRecord>, ProxyError>,
    ) -> Result<ProxyRecord, ProxyError> {
        let own = key(workspace, name);
        let at = record_key(workspace, name);
        loop {
            let entry = self.store.get(&at).await?;
            let found: Option<ProxyRecord> =
                entry.as_ref().map(|entry| entry.read(&at)).transpose()?;
            let next = change(found.clone())?;
            let ips = |record: &Option<ProxyRecord>| -> Vec<IpAddr> {
                record.iter().flat_map(ProxyRecord::all).collect()
            };
            let (before, after) = (ips(&found), ips(&next));
            let mut conditions = vec![(at.clone(), entry.map(|entry| entry.revision))];
            let mut writes = match &next {
                Some(record) => vec![roster::put(at.clone(), record, None)?],
                None => vec![Write::Delete { key: at.clone() }],
            };
            for ip in after.iter().filter(|ip| !before.contains(ip)) {
                let key = claim(*ip);
                let claimed = self.store.get(&key).await?;
                if let Some(claimed) = &claimed {
                    let other: String = claimed.read(&key)?;
                    conditions.extend(self.has_let_go(*ip, other, &own).await?);
                }
                conditions.push((key.clone(), claimed.map(|claimed| claimed.revision)));
                writes.push(Write::Put { key, value: json!(own), lease: None });
            }
            for ip in before.iter().filter(|ip| !after.contains(ip)) {
                writes.push(Write::Delete { key: claim(*ip) });
            }
            if self.store.transact(conditions, writes).await? {
                return next
                    .or(found)
                    .ok_or_else(|| ProxyError::Unknown(name.to_owned(), workspace.to_owned()));
            }
        }
    }
}

impl Proxy {
    /// With those of the holders who serve one of its addresses.
    pub fn of(record: ProxyRecord, holders: &BTreeMap<Ipv4Addr, u16>) -> Self {
        let of = |address: &ProxyAddress| Some((address.ip, *holders.get(&address.ip)?));
        let holders = record.addresses.iter().filter_map(of).collect();
        Self { record, holders }
    }
}

fn claim(ip: IpAddr) -> String {
    format!("region/proxy-ip/{ip}")
}

fn existing(
    found: Option<ProxyRecord>,
    workspace: &str,
    name: &str,
) -> Result<ProxyRecord, ProxyError> {
    found.ok_or_else(|| ProxyError::Unknown(name.to_owned(), workspace.to_owned()))
}

fn add(record: &mut ProxyRecord, pair: Pair, created: u64) -> Result<(), ProxyError> {
    if let Some(unfit) = pair.all().find(|ip| !is_fit(*ip)) {
        return Err(ProxyError::Unfit(unfit));
    }
    if let Some(ip) = record.all().find(|its| pair.all().any(|ip| ip == *its)) {
        return Err(ProxyError::Taken(ip, key(&record.workspace, &record.name)));
    }
    let Pair { ip, beside } = pair;
    record.addresses.push(ProxyAddress { ip, beside, created, served: false, leaves: None });
    Ok(())
}

/// Whether somebody elsewhere could answer to it.
fn is_fit(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            first != 0 && first < 224 && !ip.is_loopback() && !ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            let outside = !addresses::is_private(ip.into()) && ip.to_ipv4_mapped().is_none();
            !special && !ip.is_unicast_link_local() && outside
        }
    }
}

fn counted(record: ProxyRecord) -> Result<ProxyRecord, ProxyError> {
    let count = record.staying().count();
    if (1..=MOST).contains(&count) {
        Ok(record)
    } else {
        Err(ProxyError::Count(record.name, count))
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::region::embedded::Embedded;

    fn proxies() -> (tempfile::TempDir, Proxies) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path()).unwrap());
        (dir, Proxies::new(store))
    }

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    #[tokio::test]
    async fn an_address_belongs_to_one_proxy_until_it_is_swept() {
        let (_dir, proxies) = proxies();
        proxies.create("main", "one", &[A.into()], Spread::Container).await.unwrap();
        let taken =
            proxies.create("main", "two", &[A.into()], Spread::Container).await.unwrap_err();
        assert!(matches!(taken, ProxyError::Taken(ip, by) if ip == A && by == "main/one"));
        // The same name in another workspace is another proxy.
        proxies.create("other", "one", &[B.into()], Spread::Container).await.unwrap();
        let last = proxies.remove("main", "one", A, Duration::ZERO).await.unwrap_err();
        assert!(matches!(last, ProxyError::Count(_, 0)), "{last}");
        let third = Ipv4Addr::new(192, 0, 2, 3);
        proxies.add("main", "one", third.into()).await.unwrap();
        proxies.remove("main", "one", A, Duration::ZERO).await.unwrap();
        assert!(matches!(proxies.add("other", "one", A.into()).await, Err(ProxyError::Taken(..))));
        proxies.sweep(&proxies.known().await.unwrap()).await.unwrap();
        proxies.add("other", "one", A.into()).await.unwrap();
        let known = proxies.known().await.unwrap();
        assert_eq!(known["main/one"].record.staying().collect::<Vec<_>>(), [third]);
        proxies.delete("other", "one").await.unwrap();
        proxies.create("main", "two", &[A.into(), B.into()], Spread::Container).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_beside_another_is_claimed_like_it() {
        let (_dir, proxies) = proxies();
        let beside = Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        let create = |name: &'static str, ip| {
            let pairs = [Pair { ip, beside }];
            let proxies = proxies.clone();
            async move { proxies.create("main", name, &pairs, Spread::Container).await }
        };
        let record = create("one", A).await.unwrap();
        assert_eq!((record.beside(A), record.beside(B)), (beside, None));
        let taken = create("two", B).await.unwrap_err();
        assert!(matches!(taken, ProxyError::Taken(IpAddr::V6(_), _)), "{taken}");
        let twice = proxies.add("main", "one", Pair { ip: B, beside }).await.unwrap_err();
        assert!(matches!(twice, ProxyError::Taken(IpAddr::V6(_), _)), "{twice}");
        proxies.delete("main", "one").await.unwrap();
        create("two", B).await.unwrap();

        // A gateway of before has written the record back.
        let key = record_key("main", "two");
        let entry = proxies.store.get(&key).await.unwrap().unwrap();
        let mut record: ProxyRecord = entry.read(&key).unwrap();
        record.addresses[0].beside = None;
        let writes = vec![roster::put(key.clone(), &record, None).unwrap()];
        assert!(proxies.store.transact(vec![(key, Some(entry.revision))], writes).await.unwrap());
        create("three", A).await.unwrap();
        proxies.delete("main", "two").await.unwrap();
        let taken = create("four", B).await.unwrap_err();
        assert!(matches!(taken, ProxyError::Taken(_, by) if by == "main/three"));
    }

    #[tokio::test]
    async fn one_gateway_at_a_time_serves_an_address() {
        let (_dir, proxies) = proxies();
        let record = proxies.create("main", "one", &[A.into()], Spread::Container).await.unwrap();
        assert!(proxies.hold(&record, A, 3, None).await.unwrap());
        assert!(!proxies.hold(&record, A, 4, None).await.unwrap());
        let known = proxies.known().await.unwrap();
        assert_eq!(known["main/one"].holders, BTreeMap::from([(A, 3)]));
        assert!(known["main/one"].record.addresses[0].served);
        // Only its own.
        proxies.release(A, 4).await.unwrap();
        assert!(!proxies.hold(&record, A, 4, None).await.unwrap());
        proxies.release(A, 3).await.unwrap();
        assert!(proxies.hold(&record, A, 4, None).await.unwrap());
    }

    #[tokio::test]
    async fn what_nobody_can_answer_to_and_too_many_are_refused() {
        let (_dir, proxies) = proxies();
        let unfit = ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"];
        let beside = ["::", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.9", "fdaa::1"];
        let beside = beside.map(|beside| format!("192.0.2.1,{beside}"));
        for text in unfit.map(String::from).into_iter().chain(beside) {
            let made =
                proxies.create("main", "one", &[text.parse().unwrap()], Spread::Container).await;
            assert!(matches!(made, Err(ProxyError::Unfit(_))), "{text}");
        }
        let six: Vec<Pair> = (1..=6).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        assert!(matches!(
            proxies.create("main", "one", &six, Spread::Container).await,
            Err(ProxyError::Count(_, 6))
        ));
        assert!(matches!(
            proxies.create("main", "one", &[], Spread::Container).await,
            Err(ProxyError::Count(_, 0))
        ));
        proxies.create("main", "one", &six[..5], Spread::Container).await.unwrap();
        assert!(matches!(proxies.add("main", "one", six[5]).await, Err(ProxyError::Count(_, 6))));
    }
}
