//! The interfaces towards the region's other machines: whether they carry what it sends.

use std::net::IpAddr;

use super::{Finding, Subject, hardware::Interface};
use crate::host::{
    links::{Link, LinkError, Links},
    uplink,
};

/// What IP, UDP, Geneve and the region key put around a packet at most: IPv6 and 28 bytes.
const MOST: u32 = 40 + 16 + 12;

/// Those that were named, with what is found of them.
pub(super) async fn look(
    links: &Links,
    subject: &Subject,
) -> Result<(Vec<Interface>, Vec<Finding>), LinkError> {
    let (mut interfaces, mut findings) = (Vec::new(), Vec::new());
    let default = links.default_interface().await?;
    for name in &subject.underlays {
        let Some(link) = links.find(name).await? else {
            let meaning = "`edge gateway` and `edge host` refuse it";
            findings.push(Finding::broken(
                format_args!("underlay:{name}"),
                "no such interface",
                meaning,
                "`ip link` lists them",
            ));
            continue;
        };
        let addresses = links.addresses(link.index).await?;
        findings.push(judge(&link, &addresses, subject.container_mtu, default == Some(link.index)));
        let mut interface = Interface::new(link, true);
        findings.push(hook(&interface));
        interface.underlay = Some(addresses);
        interfaces.push(interface);
    }
    Ok((interfaces, findings))
}

fn hook(interface: &Interface) -> Finding {
    let Interface { link, driver, mode, why, .. } = interface;
    let hook = uplink::hook_label(*mode);
    let meaning = format!("edge takes it, because {why}");
    Finding::ok(format_args!("hook:{}", link.name), format_args!("{hook} on {driver}"), meaning)
}

fn judge(link: &Link, addresses: &[IpAddr], container_mtu: Option<u32>, exposed: bool) -> Finding {
    let Link { name, mtu, .. } = link;
    let thing = format!("underlay:{name}");
    let listed: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let found = format!("MTU {mtu}, {}", listed.join(" "));
    if addresses.is_empty() {
        let meaning = "the region's other machines cannot send to it";
        let remedy = "give it an address, as with `ip address add`";
        return Finding::broken(thing, format_args!("MTU {mtu}, no address"), meaning, remedy);
    }
    if let Some(needed) = container_mtu.filter(|needed| mtu < needed) {
        let meaning = format!("packets of {needed} bytes between containers do not fit");
        let remedy = format!("ip link set {name} mtu {}", needed + MOST);
        return Finding::broken(thing, found, meaning, remedy);
    }
    if exposed {
        let meaning = "it is also the way to the internet: strangers can send to it what looks like \
                       another machine's packets, unless the region has a key";
        return Finding::slower(thing, found, meaning, "start the gateways with --region-key");
    }
    let meaning = if addresses.iter().any(IpAddr::is_ipv6) {
        "it will do; with --carriage direct any machine on the link can take another's addresses, \
         unless the link itself keeps it from that"
    } else {
        "it will do, but not for --carriage direct, which needs an IPv6 address"
    };
    Finding::ok(thing, found, meaning)
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn what_the_daemon_would_refuse_is_broken() {
        let link = Link { name: "eth1".into(), mtu: 1400, ..Link::default() };
        let v4 = [IpAddr::from([192, 0, 2, 1])];
        assert_eq!(judge(&link, &[], None, false).state, State::Broken);
        let small = judge(&link, &v4, Some(1464), false);
        assert_eq!(
            (small.state, small.remedy.as_deref()),
            (State::Broken, Some("ip link set eth1 mtu 1532"))
        );
        assert_eq!(judge(&link, &v4, Some(1364), true).state, State::Slower);
        let good = judge(&link, &v4, Some(1364), false);
        assert!(good.state == State::Ok && good.meaning.contains("--carriage direct"), "{good:?}");
    }
}
