//! What makes the interfaces fast: all findings about those that are uplinks or underlays.

use std::{fs, net::IpAddr};

use super::{
    Finding, cpus::Cpus, cure::Cure, device::Asking, offloads, queues, sizes, sysfs::Sysfs,
};
use crate::{
    cli::up::Datapath,
    datapath::UplinkMode,
    host::{links::Link, uplink},
};

/// An interface that edge would use.
#[derive(Debug)]
pub(super) struct Interface {
    /// What netlink says of it.
    pub(super) link: Link,
    /// Its driver, or the kind of a virtual one.
    pub(super) driver: String,
    /// What edge would attach to it.
    pub(super) mode: Option<UplinkMode>,
    /// Why that.
    pub(super) why: String,
    /// Its addresses, if it leads to the region's other machines.
    pub(super) underlay: Option<Vec<IpAddr>>,
    /// Whether it was named: of others nothing is changed.
    pub(super) told: bool,
}

impl Interface {
    pub(super) fn new(link: Link, told: bool) -> Self {
        let (driver, mode, why) = uplink::hook(&link, Datapath::Auto);
        Self { link, driver, mode, why, underlay: None, told }
    }

    pub(super) const fn is_underlay(&self) -> bool {
        self.underlay.is_some()
    }

    /// What `ethtool` calls the flows that Geneve makes on it.
    pub(super) fn flows(&self) -> Vec<&'static str> {
        let addresses = self.underlay.as_deref().unwrap_or_default();
        let mut flows: Vec<_> =
            addresses.iter().map(|one| if one.is_ipv4() { "udp4" } else { "udp6" }).collect();
        flows.sort_unstable();
        flows.dedup();
        flows
    }

    #[cfg(test)]
    pub(super) fn named(name: &str, driver: &str) -> Self {
        let link = Link { name: name.into(), queues: (1, 1), ..Link::default() };
        let (driver, why) = (driver.into(), String::new());
        Self { link, driver, mode: None, why, underlay: None, told: true }
    }
}

/// Looks at each.
pub(super) async fn look(interfaces: &[Interface], sysfs: Option<&Sysfs>) -> Vec<Finding> {
    let mut asking = Asking::here(sysfs);
    let cpus = Cpus::online();
    let balanced = is_running("irqbalance");
    let mut findings = Vec::new();
    let mut underlays = Vec::new();
    for interface in interfaces {
        let device = asking.about(&interface.link.name).await;
        let first = findings.len();
        findings.push(offloads::judge(interface, &device));
        findings.push(queues::judge(interface, &device, &cpus));
        findings.extend(queues::judge_hash(interface, &device).await);
        findings.extend(queues::judge_interrupts(interface, &device, &cpus, balanced));
        findings.push(sizes::judge_big(&interface.link));
        if interface.is_underlay() {
            findings.push(offloads::judge_tunnel(interface, &device));
            findings.push(sizes::judge_mtu(&interface.link));
            underlays.push((&interface.link, device.speed));
        }
        if !interface.told {
            findings.iter_mut().skip(first).for_each(|finding| finding.cure = Cure::None);
        }
    }
    findings.extend(sizes::judge_several(&underlays));
    findings
}

/// Whether a program of this name runs.
fn is_running(name: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names = processes.filter_map(|one| fs::read_to_string(one.path().join("comm")).ok());
    names.any(|comm| comm.trim_end() == name)
}
