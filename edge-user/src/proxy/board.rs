//! What is known of proxies at the moment, for all who only look.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    plan::Standing,
    snat::{Carried, Snat},
};
use crate::region::proxy::{Known, Proxy, key};

/// Proxies, and how this machine's containers stand to them.
#[derive(Debug, Default)]
pub struct Board {
    posted: RwLock<Posted>,
    counted: RwLock<Counted>,
}

/// What source NAT counts.
#[derive(Debug, Default)]
struct Counted {
    /// Where, once it is there.
    snat: Option<Snat>,
    /// Whose counters are whose, by container.
    addresses: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Of containers that have another address by now, or have ended, by address.
    past: BTreeMap<Ipv4Addr, Carried>,
}

#[derive(Debug, Default)]
struct Posted {
    known: Known,
    standings: BTreeMap<String, Standing>,
    /// Whether those of all workspaces are known.
    is_complete: bool,
}

impl Board {
    /// A proxy of a workspace.
    pub fn proxy(&self, workspace: &str, name: &str) -> Option<Arc<Proxy>> {
        self.read(|posted| posted.known.get(&key(workspace, name)).cloned())
    }

    /// All proxies of a workspace, by name.
    pub fn of_workspace(&self, workspace: &str) -> Vec<Arc<Proxy>> {
        let is_its = |proxy: &&Arc<Proxy>| proxy.record.workspace == workspace;
        self.read(|posted| posted.known.values().filter(is_its).cloned().collect())
    }

    /// Whether there is none that is not known here; a host knows those of the workspaces that it
    /// runs.
    pub fn is_complete(&self) -> bool {
        self.read(|posted| posted.is_complete)
    }

    /// What this machine carried under each address; nothing of the last daemon's time.
    pub fn carried(&self) -> BTreeMap<Ipv4Addr, Carried> {
        let counted = self.counted.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = counted.past.clone();
        let Some(snat) = counted.snat.as_ref().filter(|_| !counted.addresses.is_empty()) else {
            return all;
        };
        match snat.carried() {
            Ok(now) => {
                for (container, row) in now {
                    if let Some(ip) = counted.addresses.get(&container) {
                        *all.entry(*ip).or_default() += row;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "what went by proxies cannot be read"),
        }
        all
    }

    /// Containers of this machine, by address.
    pub fn users(&self) -> BTreeMap<Ipv4Addr, usize> {
        let mut users = BTreeMap::new();
        self.read(|posted| {
            for ip in posted.standings.values().filter_map(|standing| standing.address()) {
                *users.entry(ip).or_insert(0) += 1;
            }
        });
        users
    }

    /// Source NAT is about to have these addresses: what it will have forgotten is kept.
    pub(super) fn count(&self, snat: &Snat, next: &BTreeMap<Ipv4Addr, Ipv4Addr>) {
        let mut counted = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut counted.addresses, next.clone());
        counted.snat = Some(snat.clone());
        let leaves = |(container, ip): &(&Ipv4Addr, &Ipv4Addr)| next.get(*container) != Some(*ip);
        if !before.iter().any(|pair| leaves(&pair)) {
            return;
        }
        let Ok(now) = snat.carried() else { return };
        for (container, ip) in before.iter().filter(leaves) {
            if let Some(row) = now.get(container) {
                *counted.past.entry(*ip).or_default() += *row;
            }
        }
    }

    /// All that are known.
    pub fn known(&self) -> Known {
        self.read(|posted| posted.known.clone())
    }

    /// How a container of this machine stands to its proxy.
    pub fn standing(&self, container: &str) -> Option<Standing> {
        self.read(|posted| posted.standings.get(container).copied())
    }

    pub(super) fn post(
        &self,
        known: Known,
        standings: BTreeMap<String, Standing>,
        is_complete: bool,
    ) {
        let posted = Posted { known, standings, is_complete };
        *self.posted.write().unwrap_or_else(PoisonError::into_inner) = posted;
    }

    fn read<T>(&self, look: impl FnOnce(&Posted) -> T) -> T {
        look(&self.posted.read().unwrap_or_else(PoisonError::into_inner))
    }
}
