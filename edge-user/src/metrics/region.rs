//! A machine's membership in its region, when it is scraped; on a gateway the other machines', too.

use std::sync::Arc;

use prometheus::{
    Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::region::{
    member::{Link, Member},
    session::Sessions,
    view::View,
};

/// How the membership fares.
pub struct Membership {
    member: Arc<Member>,
    hosts: IntGaugeVec,
    lag: Gauge,
    link: IntGauge,
    refused: IntGauge,
    expiry: Gauge,
    machines: Option<Machines>,
}

/// Each machine of the region, as a gateway sees it.
struct Machines {
    sessions: Sessions,
    up: IntGaugeVec,
    lag: GaugeVec,
}

impl Membership {
    /// Of this machine; a gateway names its sessions.
    ///
    /// # Errors
    /// If the names will not do, which they do.
    pub fn new(member: Arc<Member>, sessions: Option<Sessions>) -> prometheus::Result<Self> {
        let hosts = Opts::new("edge_hosts", "Machines of the region that this one knows.");
        Ok(Self {
            member,
            hosts: IntGaugeVec::new(hosts, &["alive"])?,
            lag: Gauge::new(
                "edge_region_lag_seconds",
                "Time since a gateway of the region was last heard of.",
            )?,
            link: IntGauge::new("edge_region_link_up", "Whether a gateway serves this machine.")?,
            refused: IntGauge::new(
                "edge_region_refused_containers",
                "Containers of this machine that the region does not take: their names were \
                 taken while no gateway could be reached.",
            )?,
            expiry: Gauge::new(
                "edge_region_certificate_expiry_timestamp_seconds",
                "When this machine's own certificate in the region expires, in seconds since \
                 1970; it renews itself when a third of its week is left.",
            )?,
            machines: sessions.map(Machines::new).transpose()?,
        })
    }
}

impl Collector for Membership {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = [self.hosts.desc(), self.lag.desc(), self.link.desc()].concat();
        all.extend([self.refused.desc(), self.expiry.desc()].concat());
        all.extend(self.machines.iter().flat_map(Machines::desc));
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let view = self.member.view().borrow().clone();
        let alive = view.hosts.values().filter(|host| host.alive).count();
        for (label, count) in [("true", alive), ("false", view.hosts.len() - alive)] {
            self.hosts.with_label_values(&[label]).set(whole(count));
        }
        let up = matches!(&*self.member.link().borrow(), Link::Connected { .. });
        self.link.set(up.into());
        self.refused.set(whole(self.member.refused().borrow().len()));
        let mut all = [self.hosts.collect(), self.link.collect(), self.refused.collect()].concat();
        if let Some(lag) = self.member.lag() {
            self.lag.set(lag.as_secs_f64());
            all.extend(self.lag.collect());
        }
        if let Some(expiry) = self.member.certificate_expiry() {
            // Seconds of any date fit.
            self.expiry.set(expiry.unix_timestamp() as f64);
            all.extend(self.expiry.collect());
        }
        all.extend(self.machines.iter().flat_map(|machines| machines.collect(&view)));
        all
    }
}

impl Machines {
    fn new(sessions: Sessions) -> prometheus::Result<Self> {
        let labels = &["region", "host", "role"];
        let up = Opts::new("edge_host_up", "Whether a machine of the region is there.");
        let lag = Opts::new(
            "edge_host_lag_seconds",
            "Age of the oldest message that a machine with a session at this gateway has not \
             taken in yet.",
        );
        Ok(Self { sessions, up: IntGaugeVec::new(up, labels)?, lag: GaugeVec::new(lag, labels)? })
    }

    fn desc(&self) -> Vec<&Desc> {
        [self.up.desc(), self.lag.desc()].concat()
    }

    /// Only machines that are of the region now.
    fn collect(&self, view: &View) -> Vec<MetricFamily> {
        self.up.reset();
        self.lag.reset();
        for host in view.hosts.values() {
            let id = host.record.id.to_string();
            let labels = &[view.settings.region.as_str(), &id, host.record.role.label()];
            self.up.with_label_values(labels).set(host.alive.into());
            if let Some(lag) = self.sessions.lag(host.record.id) {
                self.lag.with_label_values(labels).set(lag.as_secs_f64());
            }
        }
        [self.up.collect(), self.lag.collect()].concat()
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
