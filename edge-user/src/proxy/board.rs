//! What is known of proxies at the moment, for all who only look.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    counts::Counts,
    plan::{Problem, Standing, Way, way_to},
    snat::Snat,
    wireguard::Paths,
};
use crate::region::proxy::{Known, Proxy, ProxyAddress, Status, key};

/// Proxies, and how this machine's containers stand to them.
#[derive(Debug, Default)]
pub struct Board {
    posted: RwLock<Posted>,
    /// Source NAT, while it is there.
    snat: RwLock<Option<Snat>>,
    /// What WireGuard tells, on a machine of a region.
    paths: RwLock<Paths>,
}

/// What the keeper knew when it last looked.
#[derive(Debug, Default)]
pub(super) struct Posted {
    /// The proxies.
    pub(super) known: Known,
    /// This machine's number.
    pub(super) own: u16,
    /// Its ways to gateways.
    pub(super) ways: BTreeMap<u16, Way>,
    /// How its containers stand, by id.
    pub(super) standings: BTreeMap<String, Standing>,
    /// How many of them begin with an address.
    pub(super) users: BTreeMap<Ipv4Addr, usize>,
    /// Whether the proxies of all workspaces are known.
    pub(super) is_complete: bool,
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

    /// What source NAT has counted on this machine.
    pub fn counts(&self) -> Counts {
        let snat = self.snat.read().unwrap_or_else(PoisonError::into_inner).clone();
        let counts = snat.map(|snat| snat.counts()).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "what went by proxies cannot be read");
            None
        });
        counts.unwrap_or_default()
    }

    /// How many containers of this machine begin their connections with an address.
    pub fn users(&self) -> BTreeMap<Ipv4Addr, usize> {
        self.read(|posted| posted.users.clone())
    }

    /// Source NAT is there, or is not.
    pub(super) fn count(&self, snat: Option<Snat>) {
        *self.snat.write().unwrap_or_else(PoisonError::into_inner) = snat;
    }

    /// All that are known.
    pub fn known(&self) -> Known {
        self.read(|posted| posted.known.clone())
    }

    /// How a container of this machine stands to its proxy.
    pub fn standing(&self, container: &str) -> Option<Standing> {
        self.read(|posted| posted.standings.get(container).copied())
    }

    /// What an address is, seen from this machine, and why nothing leaves under it from here.
    pub fn status(&self, proxy: &Proxy, address: &ProxyAddress) -> (Status, Option<Problem>) {
        let gateway = proxy.holders.get(&address.ip).copied();
        let problem = self.read(|posted| way_to(posted.own, gateway, &posted.ways).err());
        match proxy.status(address) {
            Status::Online if problem.is_some() => (Status::Unhealthy, problem),
            status => (status, problem),
        }
    }

    /// What WireGuard tells of the ways to other machines, and from them.
    pub fn paths(&self) -> Paths {
        self.paths.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn post_paths(&self, paths: Paths) {
        *self.paths.write().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    pub(super) fn post(&self, posted: Posted) {
        *self.posted.write().unwrap_or_else(PoisonError::into_inner) = posted;
    }

    fn read<T>(&self, look: impl FnOnce(&Posted) -> T) -> T {
        look(&self.posted.read().unwrap_or_else(PoisonError::into_inner))
    }
}
