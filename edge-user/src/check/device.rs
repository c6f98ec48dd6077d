//! What an interface's driver and the kernel say of it: switches, channels, queues, interrupts.

use std::collections::{BTreeMap, BTreeSet};

use ethtool::{
    EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolFeatureAttr, EthtoolFeatureBit,
    EthtoolHandle,
};
use futures::TryStreamExt as _;

use super::{cpus::Cpus, sysfs::Sysfs};

/// How one switch of an interface stands (`ethtool -k`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// It is on.
    On,
    /// It is off, and can be turned on.
    Off,
    /// It is off, and the driver or something that is missing keeps it so.
    Kept,
}

/// How many channels an interface has, and may have (`ethtool -l`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Channels {
    /// Of its receive queues, those that have a transmit queue with them.
    pub(super) combined: (u32, u32),
    /// Those that have not.
    pub(super) receive: (u32, u32),
}

/// What is known of an interface. What a driver does not tell is not there.
#[derive(Debug, Clone, Default)]
pub(super) struct Device {
    /// Switches by the kernel's names.
    pub(super) switches: BTreeMap<String, Switch>,
    /// Channels.
    pub(super) channels: Option<Channels>,
    /// For each receive queue, to which processors the kernel spreads its packets (RPS).
    pub(super) spread: Vec<Cpus>,
    /// Interrupts by number, and which processors they go to.
    pub(super) interrupts: BTreeMap<u32, Cpus>,
    /// Megabits per second.
    pub(super) speed: Option<u32>,
}

/// Asks about interfaces.
pub(super) struct Asking<'s> {
    /// None if the kernel has no such netlink family.
    ethtool: Option<EthtoolHandle>,
    sysfs: Option<&'s Sysfs>,
}

impl<'s> Asking<'s> {
    /// In this process's network namespace.
    pub(super) fn here(sysfs: Option<&'s Sysfs>) -> Self {
        let ethtool = ethtool::new_connection().ok().map(|(connection, handle, _messages)| {
            tokio::spawn(connection);
            handle
        });
        Self { ethtool, sysfs }
    }

    /// All that can be known of one.
    pub(super) async fn about(&mut self, interface: &str) -> Device {
        let mut device = Device::default();
        if let Some(ethtool) = &mut self.ethtool {
            device.switches = switches(ethtool, interface).await.unwrap_or_default();
            device.channels = channels(ethtool, interface).await.ok().flatten();
        }
        let Some(sysfs) = self.sysfs else { return device };
        let folder = format!("class/net/{interface}");
        let queues = sysfs.list(format!("{folder}/queues"));
        let mut queues: Vec<_> = queues.iter().filter(|name| name.starts_with("rx-")).collect();
        queues.sort();
        let spread = queues.into_iter().map(|queue| {
            let mask = sysfs.read(format!("{folder}/queues/{queue}/rps_cpus"));
            mask.and_then(|mask| Cpus::from_mask(&mask)).unwrap_or_default()
        });
        device.spread = spread.collect();
        device.speed = sysfs.read(format!("{folder}/speed")).and_then(|speed| speed.parse().ok());
        // Behind virtio the interrupts are the bus's device's.
        for place in ["device", "device/.."] {
            for number in sysfs.list(format!("{folder}/{place}/msi_irqs")) {
                let list = format!("/proc/irq/{number}/effective_affinity_list");
                let cpus = std::fs::read_to_string(list).ok();
                let cpus = cpus.and_then(|list| Cpus::from_list(list.trim()));
                if let (Ok(number), Some(cpus)) = (number.parse(), cpus) {
                    device.interrupts.insert(number, cpus);
                }
            }
        }
        device
    }
}

impl Device {
    /// How a switch stands; none if the driver does not tell.
    pub(super) fn switch(&self, name: &str) -> Option<Switch> {
        self.switches.get(name).copied()
    }
}

async fn switches(
    ethtool: &mut EthtoolHandle,
    interface: &str,
) -> Result<BTreeMap<String, Switch>, EthtoolError> {
    let mut answers = std::pin::pin!(ethtool.feature().get(Some(interface)).execute().await?);
    let (mut known, mut changeable) = (BTreeSet::new(), BTreeSet::new());
    let (mut active, mut wanted) = (BTreeSet::new(), BTreeSet::new());
    let names = |bits: Vec<EthtoolFeatureBit>| bits.into_iter().map(|bit| bit.name);
    while let Some(answer) = answers.try_next().await? {
        for attribute in answer.payload.nlas {
            let EthtoolAttr::Feature(attribute) = attribute else { continue };
            match attribute {
                EthtoolFeatureAttr::Hw(bits) => {
                    let can = bits.iter().filter(|bit| bit.value).map(|bit| bit.name.clone());
                    changeable.extend(can);
                    known.extend(names(bits));
                }
                EthtoolFeatureAttr::Active(bits) => active.extend(names(bits)),
                EthtoolFeatureAttr::Wanted(bits) => wanted.extend(names(bits)),
                _ => {}
            }
        }
    }
    let stands = |name: &String| {
        if active.contains(name) {
            Switch::On
        } else if changeable.contains(name) && !wanted.contains(name) {
            Switch::Off
        } else {
            Switch::Kept
        }
    };
    Ok(known.into_iter().map(|name| (name.clone(), stands(&name))).collect())
}

async fn channels(
    ethtool: &mut EthtoolHandle,
    interface: &str,
) -> Result<Option<Channels>, EthtoolError> {
    let mut answers = std::pin::pin!(ethtool.channel().get(Some(interface)).execute().await?);
    let mut found = None;
    while let Some(answer) = answers.try_next().await? {
        let channels: &mut Channels = found.get_or_insert_default();
        for attribute in answer.payload.nlas {
            let EthtoolAttr::Channel(attribute) = attribute else { continue };
            match attribute {
                EthtoolChannelAttr::CombinedCount(count) => channels.combined.0 = count,
                EthtoolChannelAttr::CombinedMax(count) => channels.combined.1 = count,
                EthtoolChannelAttr::RxCount(count) => channels.receive.0 = count,
                EthtoolChannelAttr::RxMax(count) => channels.receive.1 = count,
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_machine_has_a_loopback_that_answers() {
        let mut asking = Asking::here(None);
        let loopback = asking.about("lo").await;
        assert_eq!(loopback.switch("tx-tcp-segmentation"), Some(Switch::On));
        assert_eq!(loopback.switch("rx-hashing"), Some(Switch::Kept));
        assert_eq!(asking.about("no-such-if").await.switch("rx-gro"), None);
    }
}
