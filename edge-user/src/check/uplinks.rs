//! The interfaces: which hook edge would take on each, and why.

use edge_common::packet::LEAST_MTU_V6;

use super::{Finding, Subject, hardware::Interface};
use crate::{
    cli::{up::Datapath, values::Uplink as Wanted},
    host::{
        links::{Link, LinkError, Links},
        uplink::{self, UplinkError},
    },
};

/// The uplinks that were named, or every interface that could be one, with what is found of them.
pub(super) async fn look(
    links: &Links,
    subject: &Subject,
) -> Result<(Vec<Interface>, Vec<Finding>), LinkError> {
    let all = links.list().await?;
    let (mut interfaces, mut findings) = (Vec::new(), Vec::new());
    let mut take = |link: &Link, told| interfaces.push(Interface::new(link.clone(), told));
    for wanted in &subject.uplinks {
        match uplink::find(links, wanted, Datapath::Auto, subject.pool).await {
            Ok(found) => {
                all.iter()
                    .filter(|link| link.index == found.index)
                    .for_each(|link| take(link, true));
            }
            Err(UplinkError::Link(error)) => return Err(error),
            Err(error) => findings.push(unusable(wanted, &error)),
        }
    }
    if subject.uplinks.is_empty() {
        for link in &all {
            let is_own = link.name == "lo" || link.name.starts_with(&subject.veth_prefix);
            let has_a_role = is_own || subject.underlays.contains(&link.name);
            if !has_a_role && !links.addresses(link.index).await?.is_empty() {
                take(link, false);
            }
        }
    }
    findings.extend(interfaces.iter().map(hook));
    Ok((interfaces, findings))
}

fn unusable(wanted: &Wanted, error: &UplinkError) -> Finding {
    // The error's own sentence ends with its remedy.
    let text = error.to_string();
    let (cause, remedy) = text.split_once("; ").unwrap_or((&text, "name another with --uplink"));
    let meaning = "`edge up` refuses it";
    Finding::broken(format_args!("uplink:{wanted}"), cause, meaning, remedy)
}

fn hook(interface: &Interface) -> Finding {
    let Interface { link, driver, mode, why, .. } = interface;
    let Link { name, mtu, queues: (receive, transmit), .. } = link;
    let name = format!("uplink:{name}");
    let found = format!("{driver}, MTU {mtu}, {receive} rx and {transmit} tx queues");
    if *mtu < LEAST_MTU_V6 {
        return Finding::broken(
            name,
            found,
            "containers take its MTU, and no IPv6 fits one so small: they cannot be attached",
            format_args!("ip link set {} mtu {LEAST_MTU_V6}, or more", link.name),
        );
    }
    let hook = uplink::hook_label(*mode);
    Finding::ok(name, found, format_args!("edge takes {hook}, because {why}"))
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};
    use crate::datapath::UplinkMode;

    #[test]
    fn a_hook_is_named_with_its_reason() {
        let mut interface = Interface::named("up0", "ena");
        (interface.link.mtu, interface.link.queues) = (1500, (4, 2));
        (interface.mode, interface.why) = (Some(UplinkMode::Xdp), "ena has native XDP".into());
        let finding = hook(&interface);
        assert_eq!((finding.name.as_str(), finding.state), ("uplink:up0", State::Ok));
        assert_eq!(finding.found, "ena, MTU 1500, 4 rx and 2 tx queues");
        assert_eq!(finding.meaning, "edge takes xdp+tcx, because ena has native XDP");
        interface.link.mtu = 1200;
        assert_eq!(hook(&interface).state, State::Broken);
    }

    #[test]
    fn what_edge_up_would_refuse_is_broken_with_the_same_words() {
        let wanted = Wanted::Interface("up9".into());
        let finding = unusable(&wanted, &UplinkError::Missing("up9".into()));
        assert_eq!(finding.name, "uplink:up9");
        assert_eq!(finding.found, "uplink up9: no such interface");
        assert_eq!(finding.remedy.as_deref(), Some("`ip link` lists them"));
    }
}
