//! Whether what arrives is spread over the processors: queues, the hash that chooses one, their
//! interrupts, and for a device with one queue the kernel's own spreading (RPS,
//! `Documentation/networking/scaling.rst`).
//!
//! RPS and not a cpumap: it hashes the outer header, whose source port edge makes of the flow
//! inside, before `tc_uplink` opens the packet and after GRO has merged it, so a stream costs a
//! processor one wakeup for many frames. A cpumap is XDP's: on devices with one queue edge takes
//! TCX, and the others have RSS.

use std::process::Output;

use tokio::process::Command;

use super::{
    Finding,
    cpus::Cpus,
    cure::Step,
    device::{Channels, Device, Switch},
    hardware::Interface,
};
use crate::datapath::UplinkMode;

/// As many queues as processors, or what spreads the packets of one.
pub(super) fn judge(interface: &Interface, device: &Device, cpus: &Cpus) -> Finding {
    let name = &interface.link.name;
    let thing = format!("queues:{name}");
    let queues = device.queues(interface);
    let found = format!("{queues} for {} processors", cpus.count());
    if cpus.count() == 1 {
        return Finding::ok(thing, found, "there is nothing to spread to");
    }
    if let Some(step) = device.channels.and_then(|channels| more(interface, channels, cpus)) {
        let meaning = "fewer queues than processors, some of which never receive; changing it \
                       may stop the interface for a moment";
        return Finding::curable(thing, found, meaning, vec![step]);
    }
    if queues > 1 {
        return Finding::ok(thing, found, "the device spreads flows over them");
    }
    match interface.link.kind.as_deref() {
        None | Some("tun") => {}
        Some("veth") => {
            return Finding::ok(thing, found, "a packet is received by the processor that sent it");
        }
        Some(kind) => {
            let meaning = format!("a {kind} has none of its own: see the interfaces beneath it");
            return Finding::ok(thing, found, meaning);
        }
    }
    let Some(spread) = device.spread.first() else {
        return Finding::ok(thing, found, "whether RPS spreads its packets only root can see");
    };
    let found = format!("{found}, RPS to {spread}");
    if spread.count() > 1 {
        return Finding::ok(thing, found, "the kernel spreads flows over processors (RPS)");
    }
    let step = Step::Write {
        file: format!("/sys/class/net/{name}/queues/rx-0/rps_cpus").into(),
        value: cpus.mask(),
    };
    let meaning = "one processor receives everything: RPS spreads flows, after GRO, by the source \
                   port that edge gives each";
    Finding::curable(thing, found, meaning, vec![step])
}

/// How to have more channels, if there may be more that are of use. Those of virtual interfaces
/// are other things.
fn more(interface: &Interface, channels: Channels, cpus: &Cpus) -> Option<Step> {
    if interface.link.kind.is_some() {
        return None;
    }
    let Channels { combined, receive } = channels;
    let is_combined = combined.1 > 0;
    let (word, (count, most)) = if is_combined { ("combined", combined) } else { ("rx", receive) };
    // Its XDP sends by queues of its own, so the driver gives half to the others.
    let halved = interface.driver == "ena" && interface.mode == Some(UplinkMode::Xdp);
    let most = if halved { most / 2 } else { most };
    let wanted = most.min(u32::try_from(cpus.count()).unwrap_or(u32::MAX));
    let step = || Step::ethtool(["-L", &interface.link.name, word, &wanted.to_string()]);
    (count < wanted).then(step)
}

/// Whether the device's hash sees the ports: all that one host sends another in Geneve differs in
/// the source port only.
pub(super) async fn judge_hash(interface: &Interface, device: &Device) -> Option<Finding> {
    if device.queues(interface) < 2 || interface.link.kind.is_some() {
        return None;
    }
    let name = &interface.link.name;
    let mut steps = Vec::new();
    let mut words = Vec::new();
    match device.switch("rx-hashing") {
        Some(Switch::Off) => {
            steps.push(Step::ethtool(["-K", name, "rxhash", "on"]));
            words.push("rx-hashing off".to_owned());
        }
        Some(Switch::On) => words.push("rx-hashing on".to_owned()),
        Some(Switch::Kept) | None => {}
    }
    if interface.is_underlay() {
        for flows in interface.flows() {
            let question = ["-n", name, "rx-flow-hash", flows];
            let asked = Command::new("ethtool").args(question).output().await;
            match asked.ok().as_ref().and_then(by_ports) {
                Some(true) => words.push(format!("{flows} by ports")),
                Some(false) => {
                    words.push(format!("{flows} by addresses only"));
                    steps.push(Step::ethtool(["-N", name, "rx-flow-hash", flows, "sdfn"]));
                }
                None => words.push(format!("{flows} unknown")),
            }
        }
    }
    if words.is_empty() {
        return None;
    }
    let (thing, found) = (format!("flow-hash:{name}"), words.join(", "));
    if steps.is_empty() {
        return Some(Finding::ok(thing, found, "each flow has a queue of its own"));
    }
    let meaning = "without ports in the hash all flows between two hosts arrive in one queue, and \
                   at one processor";
    Some(Finding::curable(thing, found, meaning, steps))
}

/// What `ethtool -n IFACE rx-flow-hash udp4` says; none if the driver does not tell.
fn by_ports(output: &Output) -> Option<bool> {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = output.status.success() && text.contains("Hash flow key");
    told.then(|| text.contains("L4 bytes 0 & 1"))
}

/// Whether the queues' interrupts go to several processors.
pub(super) fn judge_interrupts(
    interface: &Interface,
    device: &Device,
    cpus: &Cpus,
    balanced: bool,
) -> Option<Finding> {
    let queues = device.queues(interface);
    if queues < 2 || cpus.count() < 2 || device.interrupts.len() < 2 {
        return None;
    }
    let mut hit: Vec<_> = device.interrupts.values().flat_map(|cpus| &cpus.0).collect();
    hit.sort_unstable();
    hit.dedup();
    let name = format!("interrupts:{}", interface.link.name);
    let found = format!("{} on {} processors", device.interrupts.len(), hit.len());
    if hit.len() > 1 {
        return Some(Finding::ok(name, found, "several processors receive"));
    }
    let turns = device.interrupts.keys().zip(cpus.0.iter().cycle());
    let steps = turns.map(|(number, cpu)| Step::Write {
        file: format!("/proc/irq/{number}/smp_affinity_list").into(),
        value: cpu.to_string(),
    });
    let meaning = "all queues interrupt one processor, which then receives everything";
    let finding = Finding::curable(name, found, meaning, steps.collect());
    let why = "irqbalance runs, and would undo it: it is to be asked why it does not spread them";
    Some(if balanced { finding.left(why) } else { finding })
}

impl Device {
    /// How many receive queues are in use.
    fn queues(&self, interface: &Interface) -> usize {
        if self.spread.is_empty() { interface.link.queues.0 as usize } else { self.spread.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::{
        super::{State, cure::Cure},
        *,
    };

    fn cpus(list: &str) -> Cpus {
        Cpus::from_list(list).unwrap()
    }

    fn queues(count: usize) -> Device {
        Device { spread: vec![Cpus::default(); count], ..Device::default() }
    }

    #[test]
    fn one_queue_is_spread_by_the_kernel() {
        let eth0 = Interface::named("eth0", "virtio_net");
        let finding = judge(&eth0, &queues(1), &cpus("0-7"));
        assert_eq!(finding.found, "1 for 8 processors, RPS to no processor");
        let remedy = "echo ff > /sys/class/net/eth0/queues/rx-0/rps_cpus";
        assert_eq!(finding.remedy.as_deref(), Some(remedy));
        let spread = Device { spread: vec![cpus("0-7")], ..Device::default() };
        assert_eq!(judge(&eth0, &spread, &cpus("0-7")).state, State::Ok);
        assert_eq!(judge(&eth0, &queues(1), &cpus("0")).state, State::Ok);
        assert_eq!(judge(&eth0, &queues(4), &cpus("0-7")).state, State::Ok);
        let mut virtual_one = Interface::named("bond0", "bond");
        virtual_one.link.kind = Some("bond".into());
        assert_eq!(judge(&virtual_one, &queues(1), &cpus("0-7")).state, State::Ok);
    }

    #[test]
    fn a_device_has_as_many_queues_as_there_are_processors() {
        let device = |combined| {
            let channels = Channels { combined, ..Channels::default() };
            Device { channels: Some(channels), ..queues(2) }
        };
        let remedy = |interface: &Interface, combined| {
            judge(interface, &device(combined), &cpus("0-7")).remedy
        };
        let eth0 = Interface::named("eth0", "ice");
        assert_eq!(remedy(&eth0, (2, 64)).as_deref(), Some("ethtool -L eth0 combined 8"));
        assert_eq!(remedy(&eth0, (2, 4)).as_deref(), Some("ethtool -L eth0 combined 4"));
        assert_eq!(remedy(&eth0, (8, 64)), None);
        let mut ena = Interface::named("eth0", "ena");
        ena.mode = Some(UplinkMode::Xdp);
        assert_eq!(remedy(&ena, (2, 8)).as_deref(), Some("ethtool -L eth0 combined 4"));
    }

    #[test]
    fn the_hash_is_asked_for_ports() {
        let output = |text: &str, code| Output {
            status: std::process::ExitStatus::from_raw(code),
            stdout: text.into(),
            stderr: Vec::new(),
        };
        let head = "UDP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\n";
        let ports = "IP DA\nL4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3 [TCP/UDP dst port]\n";
        assert_eq!(by_ports(&output(&format!("{head}{ports}"), 0)), Some(true));
        assert_eq!(by_ports(&output(&format!("{head}IP DA\n"), 0)), Some(false));
        assert_eq!(by_ports(&output("", 256)), None);
    }

    #[test]
    fn interrupts_take_turns() {
        let eth0 = Interface::named("eth0", "ice");
        let device = |second| Device {
            interrupts: [(40, cpus("0")), (41, cpus(second))].into(),
            ..queues(2)
        };
        let all = cpus("0-1");
        let finding = judge_interrupts(&eth0, &device("0"), &all, false).unwrap();
        let remedy =
            "echo 0 > /proc/irq/40/smp_affinity_list; echo 1 > /proc/irq/41/smp_affinity_list";
        assert_eq!(finding.remedy.as_deref(), Some(remedy));
        let left = judge_interrupts(&eth0, &device("0"), &all, true).unwrap();
        assert!(matches!(left.cure, Cure::Left(_)));
        let spread = judge_interrupts(&eth0, &device("1"), &all, false).unwrap();
        assert_eq!(spread.state, State::Ok);
    }
}
