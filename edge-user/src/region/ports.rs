//! Raw TCP ports: which tunnel may have which.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};

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

/// The raw ports of a gateway.
pub struct Ports {
    range: RangeInclusive<u16>,
    rests: Rests,
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
        Ok(Self { range, rests })
    }

    /// Lends a port that `in_use` does not claim for a program of the machine.
    ///
    /// # Errors
    /// [`PortError::Exhausted`] if none is left.
    pub async fn take(&self, in_use: impl Fn(u16) -> bool) -> Result<u16, PortError> {
        let refuse = |number| u16::try_from(number).map_or(true, &in_use);
        let number = self.rests.take(refuse).await?;
        number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| PortError::Exhausted {
            first: *self.range.start(),
            last: *self.range.end(),
            rest: self.rests.rest(),
        })
    }

    /// Takes a port back; its rest begins.
    pub async fn give_back(&self, port: u16) {
        self.rests.give_back(port.into()).await;
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
            assert!(taken.insert(ports.take(|port| port == 20002).await.unwrap()));
        }
        assert!(!taken.contains(&20002));
        let error = ports.take(|port| port == 20002).await.unwrap_err().to_string();
        assert!(error.contains("20000-20004") && error.contains("600s"), "{error}");
        assert_eq!(ports.take(|_| false).await.unwrap(), 20002);
    }
}
