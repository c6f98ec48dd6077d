//! A machine's membership in its region, when it is scraped.

use std::sync::Arc;

use prometheus::{
    Gauge, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::region::member::{Link, Member};

/// How the membership fares.
pub struct Membership {
    member: Arc<Member>,
    hosts: IntGaugeVec,
    lag: Gauge,
    link: IntGauge,
}

impl Membership {
    /// Of this machine.
    ///
    /// # Errors
    /// If the names will not do, which they do.
    pub fn new(member: Arc<Member>) -> prometheus::Result<Self> {
        let hosts = Opts::new("edge_hosts", "Machines of the region that this one knows.");
        Ok(Self {
            member,
            hosts: IntGaugeVec::new(hosts, &["alive"])?,
            lag: Gauge::new(
                "edge_region_lag_seconds",
                "Time since a gateway of the region was last heard of.",
            )?,
            link: IntGauge::new("edge_region_link_up", "Whether a gateway serves this machine.")?,
        })
    }
}

impl Collector for Membership {
    fn desc(&self) -> Vec<&Desc> {
        [self.hosts.desc(), self.lag.desc(), self.link.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let view = self.member.view().borrow().clone();
        let alive = view.hosts.values().filter(|host| host.alive).count();
        for (label, count) in [("true", alive), ("false", view.hosts.len() - alive)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.hosts.with_label_values(&[label]).set(count);
        }
        if let Some(lag) = self.member.lag() {
            self.lag.set(lag.as_secs_f64());
        }
        let up = matches!(&*self.member.link().borrow(), Link::Connected { .. });
        self.link.set(up.into());
        [self.hosts.collect(), self.lag.collect(), self.link.collect()].concat()
    }
}
