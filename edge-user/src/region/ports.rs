//! Raw TCP ports: which tunnel may have which.
//!
//! A container keeps the ports of tunnels that it has stopped, and when it has had as many as it
//! may have at a time, it gets its own again. So one that opens and closes tunnels in a loop
//! does not use up the range with ports that rest.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use rand::seq::SliceRandom;

use super::{
    rest::Rests,
    store::{Store, StoreError},
};

/// The range that raw TCP tunnels get their ports from, unless configured otherwise.
pub const RAW_PORTS: RangeInclusive<u16> = 20000..=29999;

/// So many ports are marked as in use before anybody asks, so that a tunnel's start does not
/// wait for the disk.
const AHEAD: usize = 32;
/// And not more than one of so many: those that nobody had rest after a restart, too.
const SHARE: usize = 256;
/// Ports that one container takes of the range, those that it keeps included.
const EACH: usize = 64;

/// The raw ports of a gateway.
pub struct Ports {
    range: RangeInclusive<u16>,
    rests: Rests,
    holders: Mutex<HashMap<String, Held>>,
}

/// What a container has of the range.
#[derive(Default)]
struct Held {
    in_use: usize,
    /// Of tunnels that were stopped, the oldest first.
    kept: VecDeque<u16>,
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// None is left.
    #[error(
        "no raw TCP port is left: each of {first}-{last} is taken or rests for {rest:?} after \
         use; stop tunnels that are not needed, or widen the range"
    )]
    Exhausted {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
        /// How long a port rests.
        rest: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ports {
    /// The ports of this range; each rests this long after use. Those in `lent` belong to tunnels
    /// that outlived the last daemon.
    ///
    /// # Errors
    /// The store's own.
    pub async fn open(
        store: Arc<dyn Store>,
        range: RangeInclusive<u16>,
        rest: Duration,
        lent: &BTreeSet<u16>,
    ) -> Result<Self, StoreError> {
        let lent = lent.iter().copied().map(u32::from).collect();
        let ahead = (range.len() / SHARE).min(AHEAD);
        let rests = Rests::load(store, "port/", rest, ahead, lent).await?;
        // In random order: a port must not tell how many tunnels there are.
        let mut ports: Vec<u32> = range.clone().map(u32::from).collect();
        ports.shuffle(&mut rand::rng());
        rests.add(ports);
        rests.forget_others().await;
        rests.mark_more();
        Ok(Self { range, rests, holders: Mutex::default() })
    }

    /// Lends a container a port that `in_use` does not claim for a program of the machine.
    ///
    /// # Errors
    /// [`PortError::Exhausted`] if none is left.
    pub async fn take(
        &self,
        container: &str,
        in_use: impl Fn(u16) -> bool,
    ) -> Result<u16, PortError> {
        if let Some(port) = self.take_kept(container, &in_use) {
            return Ok(port);
        }
        let refuse = |number| u16::try_from(number).map_or(true, &in_use);
        let number = self.rests.take(refuse).await?;
        let port = number.and_then(|number| u16::try_from(number).ok());
        let port = port.ok_or_else(|| PortError::Exhausted {
            first: *self.range.start(),
            last: *self.range.end(),
            rest: self.rests.rest(),
        })?;
        self.held(container, |held| held.in_use += 1);
        Ok(port)
    }

    /// Counts a port as a container's that it had under the last daemon already.
    pub fn resume(&self, container: &str) {
        self.held(container, |held| held.in_use += 1);
    }

    /// Lends a container this very port, which it has already. Answers whether it was not lent.
    pub async fn adopt(&self, container: &str, port: u16) -> bool {
        let new = self.range.contains(&port) && self.rests.claim(port.into()).await;
        if new {
            self.resume(container);
        }
        new
    }

    /// Takes a port back. It stays the container's until [`Ports::release`].
    pub fn give_back(&self, container: &str, port: u16) {
        self.held(container, |held| {
            held.in_use = held.in_use.saturating_sub(1);
            held.kept.push_back(port);
        });
    }

    /// A port that a container was lent is a tunnel's of another container: it stays lent.
    pub fn lose(&self, container: &str) {
        self.held(container, |held| held.in_use = held.in_use.saturating_sub(1));
    }

    /// Takes a port back that nobody keeps; its rest begins.
    pub async fn let_rest(&self, port: u16) {
        self.rests.give_back(port.into()).await;
    }

    /// Takes back all that a container kept, after its end; their rest begins.
    pub async fn release(&self, container: &str) {
        let held = self.holders().remove(container).unwrap_or_default();
        // Together: the store writes them in one go.
        join_all(held.kept.into_iter().map(|port| self.let_rest(port))).await;
    }

    /// One of the container's own, if it has had all that it may have.
    fn take_kept(&self, container: &str, in_use: impl Fn(u16) -> bool) -> Option<u16> {
        let mut refused = VecDeque::new();
        let port = loop {
            let port = self.held(container, |held| {
                let all = held.in_use + held.kept.len() + refused.len() >= EACH;
                all.then(|| held.kept.pop_front()).flatten()
            });
            match port {
                // Asked with nothing locked: it takes a system call.
                Some(port) if in_use(port) => refused.push_back(port),
                port => break port,
            }
        };
        self.held(container, |held| {
            held.in_use += usize::from(port.is_some());
            held.kept.append(&mut refused);
        });
        port
    }

    fn held<T>(&self, container: &str, with: impl FnOnce(&mut Held) -> T) -> T {
        with(self.holders().entry(container.to_owned()).or_default())
    }

    fn holders(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::embedded::Embedded;

    #[tokio::test]
    async fn each_port_once_then_a_refusal_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path()).unwrap());
        let ports = Ports::open(store, 20000..=20004, Duration::from_secs(600), &BTreeSet::new())
            .await
            .unwrap();
        let mut taken = BTreeSet::new();
        for _ in 0..4 {
            assert!(taken.insert(ports.take("co-1", |port| port == 20002).await.unwrap()));
        }
        assert!(!taken.contains(&20002));
        let error = ports.take("co-1", |port| port == 20002).await.unwrap_err().to_string();
        assert!(error.contains("20000-20004") && error.contains("600s"), "{error}");
        assert_eq!(ports.take("co-1", |_| false).await.unwrap(), 20002);
    }

    #[tokio::test]
    async fn who_has_had_its_share_gets_its_own_again_and_leaves_the_rest_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path()).unwrap());
        let ports = Ports::open(store, 20000..=20099, Duration::from_secs(600), &BTreeSet::new())
            .await
            .unwrap();
        let mut taken = Vec::new();
        for _ in 0..1000 {
            let port = ports.take("co-restless", |_| false).await.unwrap();
            taken.push(port);
            ports.give_back("co-restless", port);
        }
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), EACH);
        assert_eq!(taken[0], taken[EACH], "the oldest first");
        let others = 100 - EACH;
        for _ in 0..others {
            assert!(!taken.contains(&ports.take("co-other", |_| false).await.unwrap()));
        }
        assert!(ports.take("co-other", |_| false).await.is_err());
        // After its end they rest, and nobody has them at once.
        ports.release("co-restless").await;
        assert!(ports.take("co-other", |_| false).await.is_err());
    }
}
