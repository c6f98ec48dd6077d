//! How much one packet carries, and whether several underlays are alike.

use super::Finding;
use crate::host::links::Link;

/// What the field calls jumbo frames, and every NIC for fast networks has.
const LARGE: u32 = 9000;

/// Whether packets between machines are large.
pub(super) fn judge_mtu(link: &Link) -> Finding {
    let Link { name, mtu, .. } = link;
    let thing = format!("mtu:{name}");
    let found = format!("{mtu} bytes");
    if *mtu >= LARGE {
        return Finding::ok(
            thing,
            found,
            "containers' packets are as large, less what is put around",
        );
    }
    let meaning = format!(
        "the NICs, and whatever between them is not merged, handle {} times the packets that they \
         would with {LARGE}",
        LARGE / mtu.max(&1)
    );
    let remedy = format!("ip link set {name} mtu {LARGE}, on every machine of the region");
    let why = "every machine and switch of the underlay must carry such packets, which cannot be \
               seen from here, and containers that run keep their MTU";
    Finding::slower(thing, found, meaning, remedy).left(why)
}

/// How large a packet the kernel makes of a stream before it is cut, or after it was merged. Above
/// 64 KiB (BIG TCP) streams between containers were no faster beyond the noise: neither is raised.
pub(super) fn judge_big(link: &Link) -> Finding {
    let found = format!("GSO {}, GRO {} bytes", link.gso_max, link.gro_max);
    let meaning = "more than 65536 (BIG TCP) is taken, and was no faster when it was measured";
    Finding::ok(format_args!("big-tcp:{}", link.name), found, meaning)
}

/// Whether several underlays, which a hash gives as many flows each, can carry as much each.
pub(super) fn judge_several(underlays: &[(&Link, Option<u32>)]) -> Option<Finding> {
    let (first, others) = underlays.split_first()?;
    if others.is_empty() {
        return None;
    }
    let words = underlays.iter().map(|(link, speed)| match speed {
        Some(speed) => format!("{} {speed} Mbit/s, MTU {}", link.name, link.mtu),
        None => format!("{} MTU {}", link.name, link.mtu),
    });
    let found = words.collect::<Vec<_>>().join("; ");
    let alike = others.iter().all(|(link, speed)| link.mtu == first.0.mtu && *speed == first.1);
    if alike {
        let meaning = "alike: a hash gives each as many flows";
        return Some(Finding::ok("underlays", found, meaning));
    }
    let meaning = "a hash gives each as many flows, so the slowest bounds all, and packets must \
                   fit the smallest MTU";
    let remedy = "name only --underlay that are alike, or make their MTUs the same";
    Some(Finding::slower("underlays", found, meaning, remedy).left("which to use is yours to say"))
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn link(name: &str, mtu: u32) -> Link {
        Link { name: name.into(), mtu, ..Link::default() }
    }

    #[test]
    fn a_larger_mtu_is_advised_only() {
        let finding = judge_mtu(&link("eth1", 1500));
        assert_eq!(finding.state, State::Slower);
        assert!(finding.meaning.contains("6 times"), "{finding:?}");
        assert!(matches!(finding.cure, super::super::cure::Cure::Left(_)));
        assert_eq!(judge_mtu(&link("eth1", 9000)).state, State::Ok);
    }

    #[test]
    fn underlays_are_alike_or_bound_by_the_slowest() {
        let (one, two, small) = (link("a", 9000), link("b", 9000), link("c", 1500));
        let fast = Some(100_000);
        let state = |all: &[_]| judge_several(all).map(|finding| finding.state);
        assert_eq!(state(&[(&one, fast)]), None);
        assert_eq!(state(&[(&one, fast), (&two, fast)]), Some(State::Ok));
        assert_eq!(state(&[(&one, fast), (&two, Some(1000))]), Some(State::Slower));
        assert_eq!(state(&[(&one, None), (&small, None)]), Some(State::Slower));
    }
}
