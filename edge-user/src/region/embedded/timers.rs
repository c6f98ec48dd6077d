//! When each lease ends, unless it is kept alive.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::region::store::LeaseId;

/// A stall longer than this was the store's own: what kept leases alive may be waiting.
const STALL: Duration = Duration::from_secs(1);

/// The leases' times. They are not written down: a store that was away starts them anew.
#[derive(Debug, Default)]
pub(super) struct Timers {
    leases: HashMap<LeaseId, Timer>,
}

#[derive(Debug)]
struct Timer {
    ttl: Duration,
    ends: Instant,
}

impl Timers {
    /// A new lease's time begins.
    pub(super) fn start(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        self.leases.insert(lease, Timer { ttl, ends: now + ttl });
    }

    /// A lease's time begins anew.
    pub(super) fn restart(&mut self, lease: LeaseId, now: Instant) {
        if let Some(timer) = self.leases.get_mut(&lease) {
            timer.ends = now + timer.ttl;
        }
    }

    /// Whether no lease runs.
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// When the next lease ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.leases.values().map(|timer| timer.ends).min()
    }

    /// The leases whose time is over. After a stall of the store itself, such as a machine that
    /// slept, their time begins anew instead.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut due = Vec::new();
        for (lease, timer) in &mut self.leases {
            if timer.ends + STALL < now {
                timer.ends = now + timer.ttl;
            } else if timer.ends <= now {
                due.push(*lease);
            }
        }
        due
    }

    /// These have ended.
    pub(super) fn forget(&mut self, leases: &[LeaseId]) {
        for lease in leases {
            self.leases.remove(lease);
        }
    }

    /// These could not be ended: again in a while.
    pub(super) fn postpone(&mut self, leases: &[LeaseId], now: Instant) {
        for lease in leases {
            if let Some(timer) = self.leases.get_mut(lease) {
                timer.ends = now + STALL;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_on_time_and_not_after_a_stall() {
        let (mut timers, now, ttl) = (Timers::default(), Instant::now(), Duration::from_secs(15));
        timers.start(1, ttl, now);
        assert!(timers.due(now + ttl / 2).is_empty());
        timers.restart(1, now + ttl / 2);
        assert!(timers.due(now + ttl).is_empty());
        let slept = now + ttl * 10;
        assert!(timers.due(slept).is_empty(), "who kept it alive could not be heard");
        assert_eq!(timers.next(), Some(slept + ttl));
        assert_eq!(timers.due(slept + ttl), [1]);
    }
}
