//! The interfaces: which hook edge would take on each, and why.

use super::{Finding, Subject, offloads};
use crate::{
    cli::{up::Datapath, values::Uplink as Wanted},
    host::{
        links::{Link, LinkError, Links},
        uplink::{self, UplinkError},
    },
};

/// Links with smaller packets carry no IPv6, by its own rules.
const SMALLEST_MTU: u32 = 1280;

/// The uplinks that were named, or every interface that could be one.
pub(super) async fn look(links: &Links, subject: &Subject) -> Result<Vec<Finding>, LinkError> {
    let all = links.list().await?;
    let mut findings = Vec::new();
    let mut candidates = Vec::new();
    for wanted in &subject.uplinks {
        match uplink::find(links, wanted, Datapath::Auto, subject.pool).await {
            Ok(found) => candidates.extend(all.iter().filter(|link| link.index == found.index)),
            Err(UplinkError::Link(error)) => return Err(error),
            Err(error) => findings.push(unusable(wanted, &error)),
        }
    }
    if subject.uplinks.is_empty() {
        for link in &all {
            let is_own = link.name == "lo" || link.name.starts_with(&subject.veth_prefix);
            if !is_own && !links.addresses(link.index).await?.is_empty() {
                candidates.push(link);
            }
        }
    }
    for link in candidates {
        let (driver, mode, why) = uplink::hook(link, Datapath::Auto);
        findings.push(hook(link, &driver, uplink::hook_label(mode), &why));
        findings.push(offloads::judge(&link.name, &driver, offloads::read(&link.name)));
    }
    Ok(findings)
}

fn unusable(wanted: &Wanted, error: &UplinkError) -> Finding {
    // The error's own sentence ends with its remedy.
    let text = error.to_string();
    let (cause, remedy) = text.split_once("; ").unwrap_or((&text, "name another with --uplink"));
    let meaning = "`edge up` refuses it";
    Finding::broken(format_args!("uplink:{wanted}"), cause, meaning, remedy)
}

fn hook(link: &Link, driver: &str, hook: &str, why: &str) -> Finding {
    let Link { name, mtu, queues: (receive, transmit), .. } = link;
    let name = format!("uplink:{name}");
    let found = format!("{driver}, MTU {mtu}, {receive} rx and {transmit} tx queues");
    if *mtu < SMALLEST_MTU {
        return Finding::broken(
            name,
            found,
            "containers take its MTU, and no IPv6 fits one so small: they cannot be attached",
            format_args!("ip link set {} mtu {SMALLEST_MTU}, or more", link.name),
        );
    }
    Finding::ok(name, found, format_args!("edge takes {hook}, because {why}"))
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn link(mtu: u32) -> Link {
        Link { index: 2, name: "up0".into(), mtu, queues: (4, 2), ..Link::default() }
    }

    #[test]
    fn a_hook_is_named_with_its_reason() {
        let finding = hook(&link(1500), "ena", "xdp+tcx", "ena has native XDP");
        assert_eq!((finding.name.as_str(), finding.state), ("uplink:up0", State::Ok));
        assert_eq!(finding.found, "ena, MTU 1500, 4 rx and 2 tx queues");
        assert_eq!(finding.meaning, "edge takes xdp+tcx, because ena has native XDP");
        assert_eq!(hook(&link(1200), "ena", "tcx", "").state, State::Broken);
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
