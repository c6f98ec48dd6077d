//! Who is let in to a tunnel, and how many at a time.
//!
//! What is remembered is bounded by what is open, and by [`BUCKETS`] for the rates.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

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
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let bucket = rates.get_or_insert_mut((tunnel.id.clone(), source), || Bucket::full(now));
        bucket.take(rate, now)
    }
}

fn most(bound: Option<u32>) -> usize {
    bound.and_then(|bound| bound.try_into().ok()).unwrap_or(usize::MAX)
}

/// A token bucket, kept as the time at which it will be full again (the generic cell rate
/// algorithm): one number, and nothing to refill.
#[derive(Debug)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token; false if there is none.
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let token = Duration::from_secs(1) / rate.per_second();
        let full_at = self.full_at.max(now) + token;
        let in_time = full_at - now <= token * rate.burst();
        if in_time {
            self.full_at = full_at;
        }
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_a_rate() {
        let (rate, begin) = (Rate::new(10, 3).unwrap(), Instant::now());
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut bucket = Bucket::full(begin);
        let taken = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(&mut bucket, at(0)), 3);
        assert_eq!(taken(&mut bucket, at(99)), 0);
        assert_eq!(taken(&mut bucket, at(100)), 1);
        assert_eq!(taken(&mut bucket, at(300)), 2);
        assert_eq!(taken(&mut bucket, at(60_000)), 3, "no more than a burst is saved up");
    }
}
