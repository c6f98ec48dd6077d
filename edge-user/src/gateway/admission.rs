//! Who is let in to a tunnel, and how many at a time.
//!
//! The token buckets are those of the kernel's half. What is remembered is bounded by what is
//! open, and by [`BUCKETS`] for the rates.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use edge_common::admit::{Bucket, Pace};
use lru::LruCache;

use super::{denial::Denial, metrics::Way};
use crate::{
    places::{Place, Places},
    region::{
        bounds::{Rate, Source},
        tunnel::Tunnel,
    },
};

/// Sources and tunnels whose rates are remembered, 7 MiB of them. The least recently seen is
/// forgotten first; it may then begin with a whole burst again.
const BUCKETS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// Keeps each tunnel to its bounds.
pub(super) struct Admission {
    tunnels: Places<String>,
    sources: Places<(String, Source)>,
    rates: Mutex<LruCache<(String, Option<Source>), Bucket>>,
    /// Where the buckets' clock begins.
    begin: Instant,
}

/// A client's places in its tunnel, until it is dropped.
pub(super) struct Admitted {
    _tunnel: Place<String>,
    _source: Place<(String, Source)>,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            tunnels: Places::new(usize::MAX),
            sources: Places::new(usize::MAX),
            rates: Mutex::new(LruCache::new(BUCKETS)),
            begin: Instant::now(),
        }
    }

    /// Lets a client in, if the tunnel's list and bounds do.
    pub(super) fn admit(
        &self,
        tunnel: &Tunnel,
        client: IpAddr,
        way: Way,
    ) -> Result<Admitted, Denial> {
        let (options, bounds) = (&tunnel.options, &tunnel.options.bounds);
        if !options.permits(client) {
            return Err(Denial::NotAllowed(client.to_canonical()));
        }
        let source = Source::of(client);
        let source_rate = match way {
            Way::Tls => bounds.source_rate,
            Way::Userspace => bounds.source_rate_raw,
        };
        // The source first: what one sends too much takes nothing from the others.
        if let Some(rate) = source_rate
            && !self.in_time(tunnel, Some(source), rate)
        {
            return Err(Denial::SourceRate(source, rate));
        }
        if let Some(rate) = bounds.tunnel_rate
            && !self.in_time(tunnel, None, rate)
        {
            return Err(Denial::TunnelRate(rate));
        }
        let key = (tunnel.id.clone(), source);
        let Some(of_source) = self.sources.take(key, most(bounds.source_connections)) else {
            let bound = bounds.source_connections.unwrap_or_default();
            return Err(Denial::SourceConnections(source, bound));
        };
        let Some(of_tunnel) = self.tunnels.take(tunnel.id.clone(), most(bounds.connections)) else {
            return Err(Denial::Connections(bounds.connections.unwrap_or_default()));
        };
        Ok(Admitted { _tunnel: of_tunnel, _source: of_source })
    }

    fn in_time(&self, tunnel: &Tunnel, source: Option<Source>, rate: Rate) -> bool {
        let pace = Pace::new(rate.per_second(), rate.burst());
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = rates.get_or_insert((tunnel.id.clone(), source), Bucket::default);
        // Enough for centuries.
        bucket.take(&pace, self.begin.elapsed().as_nanos() as u64)
    }
}

fn most(bound: Option<u32>) -> usize {
    bound.and_then(|bound| bound.try_into().ok()).unwrap_or(usize::MAX)
}
