//! Which work an interface takes off the processor (`ethtool -k`).

use super::{
    Finding,
    cure::Step,
    device::{Device, Switch},
    hardware::Interface,
};

/// What edge wants of a device: the word for people, what `ethtool -K` is told, and how it is.
struct Wish {
    word: &'static str,
    told: &'static [&'static str],
    is: Option<Switch>,
}

/// Merging received segments, cutting sent ones, and checksums of what is sent.
pub(super) fn judge(interface: &Interface, device: &Device) -> Finding {
    let checksum = match device.switch("tx-checksum-ip-generic") {
        Some(Switch::On) => Some(Switch::On),
        generic => all(device, &["tx-checksum-ipv4", "tx-checksum-ipv6"])
            .filter(|is| *is != Switch::Kept)
            .or(generic),
    };
    // What comes out of a veth was never cut: there is nothing to merge.
    let gro = device.switch("rx-gro").filter(|_| interface.driver != "veth");
    let tso = all(device, &["tx-tcp-segmentation", "tx-tcp6-segmentation"]);
    let mut wishes = vec![
        Wish { word: "gro", told: &["gro", "on"], is: gro },
        Wish { word: "tso", told: &["sg", "on", "tso", "on"], is: tso },
        Wish { word: "tx-checksum", told: &["tx", "on"], is: checksum },
    ];
    // What these merge cannot be opened, rewritten and sent on as one packet.
    for (word, told) in [
        ("rx-gro-list", &["rx-gro-list", "off"]),
        ("rx-udp-gro-forwarding", &["rx-udp-gro-forwarding", "off"]),
        ("rx-lro", &["lro", "off"]),
    ] {
        if device.switch(word) == Some(Switch::On) {
            wishes.push(Wish { word, told, is: Some(Switch::Off) });
        }
    }
    let meaning = "frames of a stream are handled, or finished, one by one by the processor, or \
                   merged into what cannot be sent on";
    let good = "one decision and one copy serve many frames of a stream";
    finding(format!("offloads:{}", interface.link.name), interface, &wishes, meaning, good)
}

/// Cutting segments that are in Geneve: without it the processor cuts each packet before the
/// device sees it.
pub(super) fn judge_tunnel(interface: &Interface, device: &Device) -> Finding {
    let mut wishes = vec![Wish {
        word: "tx-udp_tnl-segmentation",
        told: &["tx-udp_tnl-segmentation", "on"],
        is: device.switch("tx-udp_tnl-segmentation"),
    }];
    // Many devices cut what is in tunnels only with the outer headers prepared for them.
    if matches!(device.switch("tx-gso-partial"), Some(Switch::On | Switch::Off)) {
        wishes.push(Wish {
            word: "tx-gso-partial",
            told: &["tx-gso-partial", "on"],
            is: device.switch("tx-gso-partial"),
        });
    }
    let meaning = "what goes to other hosts in Geneve is cut into frames by the processor; with \
                   --carriage direct it would not be";
    let good = "what goes to other hosts in Geneve is cut into frames by the device";
    finding(format!("tunnel-offloads:{}", interface.link.name), interface, &wishes, meaning, good)
}

fn finding(
    name: String,
    interface: &Interface,
    wishes: &[Wish],
    meaning: &str,
    good: &str,
) -> Finding {
    let words = wishes.iter().map(|wish| {
        // What was not wished for is told by what would be: `off`.
        let is_on = match wish.is {
            None => return format!("{} unknown", wish.word),
            Some(Switch::Kept) => return format!("{} off for good", wish.word),
            Some(is) => (is == Switch::On) == (wish.told.last() == Some(&"on")),
        };
        format!("{} {}", wish.word, if is_on { "on" } else { "off" })
    });
    let found = words.collect::<Vec<_>>().join(", ");
    let told = |is| wishes.iter().filter(move |wish| wish.is == Some(is)).map(|wish| wish.told);
    let missing: Vec<_> = told(Switch::Off).flatten().copied().collect();
    if !missing.is_empty() {
        let step = ["-K", &interface.link.name].into_iter().chain(missing);
        return Finding::curable(name, found, meaning, vec![Step::ethtool(step)]);
    }
    if told(Switch::Kept).next().is_some() {
        let why =
            format!("{} cannot do it, or something that it needs is missing", interface.driver);
        return Finding::slower(name, found, meaning, "another device, if it matters").left(why);
    }
    Finding::ok(name, found, good)
}

/// How several switches stand that are told as one.
fn all(device: &Device, names: &[&str]) -> Option<Switch> {
    let stand: Option<Vec<_>> = names.iter().map(|name| device.switch(name)).collect();
    let stand = stand?;
    let any = |wanted| stand.contains(&wanted).then_some(wanted);
    any(Switch::Off).or_else(|| any(Switch::Kept)).or(Some(Switch::On))
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn device(switches: &[(&str, Switch)]) -> Device {
        let switches = switches.iter().map(|(name, is)| ((*name).to_owned(), *is)).collect();
        Device { switches, ..Device::default() }
    }

    const TSO: [(&str, Switch); 2] =
        [("tx-tcp-segmentation", Switch::On), ("tx-tcp6-segmentation", Switch::On)];

    #[test]
    fn what_is_off_and_matters_is_slower_and_the_remedy_turns_it_on() {
        let [one, two] = TSO;
        let off = device(&[("rx-gro", Switch::Off), one, two]);
        let finding = judge(&Interface::named("eth0", "ena"), &off);
        assert_eq!(finding.state, State::Slower);
        assert_eq!(finding.found, "gro off, tso on, tx-checksum unknown");
        assert_eq!(finding.remedy.as_deref(), Some("ethtool -K eth0 gro on"));
        assert_eq!(judge(&Interface::named("eth0", "veth"), &off).state, State::Ok);
        let [one, _] = TSO;
        let half = device(&[one, ("tx-tcp6-segmentation", Switch::Off)]);
        let remedy = judge(&Interface::named("eth0", "ena"), &half).remedy;
        assert_eq!(remedy.as_deref(), Some("ethtool -K eth0 sg on tso on"));
    }

    #[test]
    fn what_the_driver_keeps_off_is_said_and_left() {
        let kept = device(&[("tx-udp_tnl-segmentation", Switch::Kept)]);
        let finding = judge_tunnel(&Interface::named("eth0", "virtio_net"), &kept);
        assert_eq!(finding.found, "tx-udp_tnl-segmentation off for good");
        assert_eq!(finding.state, State::Slower);
        assert!(matches!(finding.cure, super::super::cure::Cure::Left(_)), "{finding:?}");
    }

    #[test]
    fn what_cannot_be_sent_on_is_turned_off() {
        let finding =
            judge(&Interface::named("eth0", "igb"), &device(&[("rx-gro-list", Switch::On)]));
        assert_eq!(finding.remedy.as_deref(), Some("ethtool -K eth0 rx-gro-list off"));
        assert!(finding.found.ends_with("rx-gro-list on"), "{finding:?}");
    }

    #[test]
    fn one_way_of_checksums_is_enough() {
        for (generic, both, expected) in [
            (Switch::Kept, Switch::On, State::Ok),
            (Switch::On, Switch::Kept, State::Ok),
            (Switch::Off, Switch::Kept, State::Slower),
            (Switch::Kept, Switch::Off, State::Slower),
        ] {
            let device = device(&[
                ("tx-checksum-ip-generic", generic),
                ("tx-checksum-ipv4", both),
                ("tx-checksum-ipv6", both),
            ]);
            let finding = judge(&Interface::named("eth0", "ena"), &device);
            assert_eq!(finding.state, expected, "{finding:?}");
        }
    }
}
