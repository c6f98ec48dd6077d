//! Which addresses a gateway serves: those that its machine has, and those that its operator lets
//! it put on the uplink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    host::{links::Links, sys, sysctl},
    region::{
        proxies::{Proxies, ProxyError},
        proxy::{Known, Pair},
        store::{LeaseId, StoreError},
    },
    whole_files,
};

/// An address of a gateway that is not heard of for so long is another's to serve.
const TERM: Duration = Duration::from_secs(6);

/// A gateway's part in the region's proxies.
pub struct Serving {
    /// The region's.
    pub proxies: Proxies,
    /// This machine's number.
    pub host: u16,
    /// Netlink.
    pub links: Links,
    /// Where addresses may be put, and which.
    pub lent: Lent,
    /// Where other gateways share the store: they serve this one's addresses when it is not heard
    /// of for so long.
    term: Option<Duration>,
    lease: Option<LeaseId>,
    /// When the lease was last kept.
    kept: Instant,
    /// Those that are served, and what is beside them.
    held: BTreeMap<Ipv4Addr, Pair>,
}

/// What the operator lets edge put on an uplink (`--proxy-addresses`).
#[derive(Debug, Clone, Default)]
pub struct Lent {
    /// These.
    pub networks: Vec<IpNet>,
    /// The uplink's name and index.
    pub uplink: Option<(String, u32)>,
    /// What is on it, for whoever undoes it.
    pub record: Record,
}

/// The addresses that edge has put on interfaces, in the run directory: also for a daemon that comes
/// after, or that only cleans up.
#[derive(Debug, Clone, Default)]
pub struct Record {
    path: PathBuf,
    added: BTreeSet<(String, IpAddr)>,
}

#[derive(Serialize, Deserialize)]
struct Written(Vec<(String, IpAddr)>);

impl Serving {
    /// Those that an earlier daemon of this machine served are served on.
    ///
    /// # Errors
    /// The store's own.
    pub async fn open(
        proxies: Proxies,
        host: u16,
        links: Links,
        lent: Lent,
        several: bool,
    ) -> Result<Self, ProxyError> {
        let known = proxies.known().await?;
        let mut held = BTreeMap::new();
        for proxy in known.values() {
            let all = proxy.record.addresses.iter();
            let own = all.filter(|one| proxy.holders.get(&one.ip) == Some(&host));
            held.extend(own.map(|one| (one.ip, one.pair())));
        }
        let (term, kept) = (several.then_some(TERM), Instant::now());
        Ok(Self { proxies, host, links, lent, term, lease: None, kept, held })
    }

    /// The addresses that edge itself has put on the uplink.
    pub fn own(&self) -> BTreeSet<IpAddr> {
        self.lent.record.added.iter().map(|(_, ip)| *ip).collect()
    }

    /// Takes what nobody serves and this gateway can, gives back what it cannot any more; what is
    /// known after.
    pub async fn round(&mut self, known: Known) -> Known {
        match self.try_round(&known).await {
            Ok(false) => known,
            Ok(true) => self.proxies.known().await.unwrap_or(known),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a proxy's address is not served");
                known
            }
        }
    }

    /// Keeps the lease of what is held, or begins another; answers whether it is another.
    async fn keep(&mut self) -> anyhow::Result<bool> {
        let Some(term) = self.term else { return Ok(false) };
        let store = self.proxies.store();
        let kept = match self.lease {
            Some(lease) => store.keep_alive(lease).await,
            None => Err(StoreError::LeaseEnded(0)),
        };
        match kept {
            Ok(()) => {
                self.kept = Instant::now();
                Ok(false)
            }
            Err(StoreError::LeaseEnded(_)) => {
                self.lease = Some(store.grant(term).await?);
                self.kept = Instant::now();
                Ok(true)
            }
            Err(error) => {
                if self.kept.elapsed() > term {
                    // Another gateway has them by now.
                    self.held.clear();
                    self.remove_others().await?;
                }
                Err(error.into())
            }
        }
    }

    /// Answers whether something is other than it was known.
    async fn try_round(&mut self, known: &Known) -> anyhow::Result<bool> {
        if known.is_empty() && self.held.is_empty() && self.lent.record.added.is_empty() {
            // Most machines have no proxies: there is no lease to keep, and nothing to look at.
            return Ok(false);
        }
        let anew = self.keep().await?;
        let present = self.present().await?;
        let mut wanted = Vec::new();
        let mut changed = false;
        for proxy in known.values() {
            for address in &proxy.record.addresses {
                let ip = address.ip;
                // Both or neither: what IPv4 has, IPv6 has.
                if !address.pair().all().all(|ip| present.contains(&ip) || self.may_add(ip)) {
                    continue;
                }
                match proxy.holders.get(&ip) {
                    Some(holder) if *holder != self.host => continue,
                    Some(_) if self.held.contains_key(&ip) && !anew => {}
                    // One that goes is begun with nowhere.
                    None if address.leaves.is_some() => continue,
                    _ if self.proxies.hold(&proxy.record, ip, self.host, self.lease).await? => {
                        tracing::info!(%ip, proxy = proxy.record.name, "a proxy's address is served");
                        changed = true;
                    }
                    _ => continue,
                }
                wanted.push(address.pair());
            }
        }
        let mut held = BTreeMap::new();
        for pair in wanted {
            match self.put(pair, &present).await {
                Ok(()) => drop(held.insert(pair.ip, pair)),
                // The others are served all the same.
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, %pair, "a proxy's address cannot be put on the uplink");
                    // It may have been claimed just now, and is given back.
                    self.held.insert(pair.ip, pair);
                }
            }
        }
        for ip in self.held.keys().filter(|ip| !held.contains_key(*ip)) {
            tracing::info!(%ip, "a proxy's address is no longer served");
            self.proxies.release(*ip, self.host).await?;
            changed = true;
        }
        self.held = held;
        self.remove_others().await?;
        self.proxies.sweep(known).await?;
        Ok(changed)
    }

    /// The machine's own addresses.
    async fn present(&self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let all = self.links.all_addresses().await?;
        let all = all.into_iter().map(|(_, net)| net.addr());
        Ok(all.filter(|ip| !ip.is_loopback()).collect())
    }

    fn may_add(&self, ip: IpAddr) -> bool {
        let Some((uplink, _)) = &self.lent.uplink else { return false };
        let disabled = format!("net/ipv6/conf/{uplink}/disable_ipv6");
        let takes = ip.is_ipv4() || sysctl::read(&disabled).is_ok_and(|disabled| disabled == "0");
        takes && self.lent.networks.iter().any(|net| net.contains(&ip))
    }

    /// Puts both of a pair on the uplink, as far as the machine does not have them itself.
    async fn put(&mut self, pair: Pair, present: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        for ip in pair.all() {
            let own = self.lent.record.added.iter().any(|(_, own)| *own == ip);
            if !present.contains(&ip) || own && self.term.is_some() {
                self.add(ip, !present.contains(&ip)).await?;
            }
        }
        Ok(())
    }

    /// Puts an address on the uplink, or lets it stay: where another gateway may take it over it is
    /// there for a time only, so that a machine without its daemon lets go of it.
    async fn add(&mut self, ip: IpAddr, new: bool) -> anyhow::Result<()> {
        let Some((name, index)) = &self.lent.uplink else { return Ok(()) };
        // Its record comes first: a daemon killed between the two leaves nothing unknown.
        self.lent.record.change(|added| {
            added.insert((name.clone(), ip));
        })?;
        self.links.lend_address(*index, ip, self.term).await?;
        if new {
            tracing::info!(%ip, uplink = name, "a proxy's address was put on the uplink");
            if let Err(error) = announce(&self.links, name, ip).await {
                tracing::warn!(%error, %ip, "neighbours are not told; they find out by themselves");
            }
        }
        Ok(())
    }

    /// Takes away what edge has put on the uplink and does not serve.
    async fn remove_others(&mut self) -> anyhow::Result<()> {
        let served: BTreeSet<_> = self.held.values().flat_map(|pair| pair.all()).collect();
        let added = self.lent.record.added.iter().cloned().collect::<Vec<_>>();
        for (name, ip) in added.into_iter().filter(|(_, ip)| !served.contains(ip)) {
            remove(&self.links, &name, ip).await?;
            self.lent.record.change(|added| {
                added.remove(&(name.clone(), ip));
            })?;
        }
        Ok(())
    }
}

impl Record {
    /// What is recorded in a run directory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join("proxy-addresses.json");
        let added = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(|Written(added)| added)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, added: added.into_iter().collect() })
    }

    /// Takes all of it from the interfaces, and forgets it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn undo(mut self, links: &Links) -> anyhow::Result<()> {
        for (name, ip) in std::mem::take(&mut self.added) {
            remove(links, &name, ip).await?;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeSet<(String, IpAddr)>)) -> io::Result<()> {
        change(&mut self.added);
        let text = serde_json::to_vec(&Written(self.added.iter().cloned().collect()))?;
        whole_files::write(&self.path, &text, whole_files::PUBLIC)
    }
}

/// Tells the neighbours that an address is here now (RFC 5227, section 3; RFC 4861, section 7.2.6).
async fn announce(links: &Links, interface: &str, ip: IpAddr) -> anyhow::Result<()> {
    if let Some(link) = links.find(interface).await?
        && let Some(mac) = link.mac
    {
        match ip {
            IpAddr::V4(ip) => sys::announce(link.index, mac, ip)?,
            IpAddr::V6(ip) => sys::advertise(link.index, mac, ip)?,
        }
    }
    Ok(())
}

async fn remove(links: &Links, interface: &str, ip: IpAddr) -> anyhow::Result<()> {
    if let Some(link) = links.find(interface).await? {
        links.remove_address(link.index, ip).await?;
    }
    Ok(())
}
