//! What another host brings.

use std::net::IpAddr;

use edge_common::verdict::Verdict;
use etherparse::{IpNumber, ether_type};

use super::{
    Answer, Fate, Host, Passage, carry,
    container::{outward, unfit},
    errors,
    host::Reply,
    read::{Body, Packet},
    region::{Peer, Region, place},
    rewrite::{self, End, Rewrite},
    uplink::{Hook, is_far_end},
};

const ETHERNET: usize = 14;
const UDP_HEADER: usize = 8;
const CONGESTED: u8 = 3;

/// What becomes of a frame that another host has sent, or pretends to have; `None` if it is
/// nothing of the kind.
pub(super) fn uplink(host: &Host, frame: &[u8], packet: &Packet, hook: Hook) -> Option<Answer> {
    let region = host.region.as_ref()?;
    if packet.is_mapped() {
        return None;
    }
    if region.is_direct {
        return bare(host, region, frame, packet, hook);
    }
    let is_geneve = matches!(packet.body, Body::Udp { destination: carry::GENEVE, .. });
    let is_here = region.peers.get(&packet.destination).is_some_and(|peer| peer.is_self);
    (is_geneve && is_here).then(|| match opened(region, frame, packet, hook) {
        Ok((inner, peer)) => judged(host, region, frame, &inner, peer, hook),
        Err(verdict) => Answer::refuse(frame, verdict),
    })
}

/// A packet that came as it is.
fn bare(host: &Host, region: &Region, frame: &[u8], packet: &Packet, hook: Hook) -> Option<Answer> {
    let [from_inside, to_inside] =
        [packet.source, packet.destination].map(|end| host.is_inside(end));
    if !region.underlays.contains(&hook.ingress) || !(from_inside || to_inside) {
        return None;
    }
    let peer = if from_inside {
        let owner = match packet.source {
            IpAddr::V4(_) => region.owner(packet.source),
            IpAddr::V6(_) => Some(place(packet.source).host),
        };
        let known = owner.and_then(|owner| Some((owner, region.hosts.get(&owner)?)));
        let Some((host, far)) = known else {
            let forged = Answer::refuse(frame, Verdict::ForgedSource);
            return Some(Answer { lane: region.lane(), ..forged });
        };
        Peer { host, is_self: false, is_gateway: far.is_gateway }
    } else {
        // Nothing names the gateway that it came by.
        Peer { host: 0, is_self: false, is_gateway: true }
    };
    let inner = Inner { frame: frame.to_vec(), around: 0, is_congested: false };
    Some(judged(host, region, frame, &inner, peer, hook))
}

/// What was in a frame: as a frame of its own.
struct Inner {
    frame: Vec<u8>,
    /// How many bytes were around it.
    around: usize,
    is_congested: bool,
}

/// Takes a packet out of what is around it, if that is what a host of the region makes.
fn opened(
    region: &Region,
    frame: &[u8],
    packet: &Packet,
    hook: Hook,
) -> Result<(Inner, Peer), Verdict> {
    if !region.underlays.contains(&hook.ingress) {
        return Err(Verdict::NotUnderlay);
    }
    let peer = region.peers.get(&packet.source).filter(|peer| !peer.is_self);
    let peer = *peer.ok_or(Verdict::NotPeer)?;
    let bad = Verdict::BadEncapsulation;
    let network = if packet.source.is_ipv4() { 20 } else { 40 };
    if packet.is_fragment || packet.transport != ETHERNET + network {
        return Err(bad);
    }
    let at = packet.transport + UDP_HEADER;
    let header = frame.get(at..at + 8).ok_or(bad)?;
    let options = match header[..2] {
        [0, 0] => 0,
        [3, 0x40] => 12,
        _ => return Err(bad),
    };
    let kind = [header[2], header[3]];
    let is_ip = [ether_type::IPV4, ether_type::IPV6].iter().any(|ip| ip.0.to_be_bytes() == kind);
    let option = &frame[at + 8..];
    if !is_ip || options != 0 && option.get(..4) != Some(&carry::KEY_OPTION) || header[7] != 0 {
        return Err(bad);
    }
    if header[4..7] != region.number.to_be_bytes()[1..] {
        return Err(Verdict::OtherRegion);
    }
    let key = (options != 0).then(|| option.get(4..12)).flatten();
    let is_known = |key: &[u8]| region.keys.iter().any(|known| known[..] == *key);
    if !region.keys.is_empty() && !key.is_some_and(is_known) {
        return Err(Verdict::WrongKey);
    }
    let inner = frame.get(at + 8 + options..).unwrap_or_default();
    let traffic_class =
        if packet.source.is_ipv4() { frame[15] } else { frame[14] << 4 | frame[15] >> 4 };
    let inner = Inner {
        frame: [&frame[..12], &kind, inner].concat(),
        around: at + 8 + options - ETHERNET,
        is_congested: traffic_class & CONGESTED == CONGESTED,
    };
    Ok((inner, peer))
}

/// What becomes of the packet inside.
fn judged(
    host: &Host,
    region: &Region,
    outer: &[u8],
    inner: &Inner,
    peer: Peer,
    hook: Hook,
) -> Answer {
    let mut account = 0;
    let answer = looked_at(host, region, outer, inner, peer, hook, &mut account);
    Answer { account, lane: region.lane(), ..answer }
}

/// The same; `account` is told whose it is, as soon as that is known.
fn looked_at(
    host: &Host,
    region: &Region,
    outer: &[u8],
    inner: &Inner,
    peer: Peer,
    hook: Hook,
    account: &mut u32,
) -> Answer {
    let reach = hook.reach - inner.around;
    let packet = match Packet::read(&inner.frame, reach) {
        Ok(packet) => packet,
        Err(verdict) => return Answer::refuse(outer, verdict),
    };
    if packet.is_mapped() {
        return Answer::refuse(outer, Verdict::ForgedSource);
    }
    let mut frame = inner.frame.clone();
    if inner.is_congested && !congest(&mut frame, &packet) {
        return Answer::refuse(outer, Verdict::BadEncapsulation);
    }
    let [from_inside, to_inside] =
        [packet.source, packet.destination].map(|end| host.is_inside(end));
    let is_its_own = region.owner(packet.source) == Some(peer.host) && peer.host != region.own;
    let is_forged = if from_inside { !is_its_own } else { !to_inside };
    if is_forged {
        return Answer::refuse(outer, Verdict::ForgedSource);
    }
    if to_inside {
        return match inward(host, region, &frame, &packet, peer, reach, account) {
            Ok((verdict, passage)) => {
                let owner = host.owners[&packet.destination];
                let fate = Fate::Deliver { veth: owner.veth, mac: owner.mac };
                Answer { passage, ..Answer::unchanged(&frame, verdict, fate) }
            }
            Err(verdict) => Answer::refuse(outer, verdict),
        };
    }
    match to_client(host, &frame, &packet, reach, account) {
        Ok(_) if !hook.sends => Answer::deferred(outer),
        Ok(answer) => answer,
        Err(verdict) => Answer::refuse(outer, verdict),
    }
}

/// Whether a packet may come to a container here, or to the relay.
fn inward(
    host: &Host,
    region: &Region,
    frame: &[u8],
    packet: &Packet,
    peer: Peer,
    reach: usize,
    account: &mut u32,
) -> Result<(Verdict, Passage), Verdict> {
    let receiver = host.owners.get(&packet.destination);
    let (from, to) = packet.ports();
    match packet.source {
        source if !host.is_inside(source) => {
            if !peer.is_gateway || !is_far_end(source) {
                return Err(Verdict::ForgedSource);
            }
            *account = receiver.ok_or(Verdict::NoSuchContainer)?.account;
            if packet.protocol == IpNumber::TCP {
                if let Some(verdict) = unfit(packet) {
                    return Err(verdict);
                }
                let slot = slot(host, (packet.destination, to)).ok_or(Verdict::NotForwarded)?;
                return Ok((Verdict::Tunnel, Passage::In(slot)));
            }
            let quote = errors::quote(frame, reach, packet).ok_or(Verdict::NotForwarded)?;
            let is_about = quote.source.0 == packet.destination;
            let is_raw = slot(host, quote.source).is_some();
            if is_about && is_raw {
                Ok((Verdict::IcmpError, Passage::None))
            } else {
                Err(Verdict::NotForwarded)
            }
        }
        IpAddr::V6(_) => {
            let (from, to) = (place(packet.source), place(packet.destination));
            if to.region != region.number {
                return Err(Verdict::OtherRegion);
            }
            let receiver = receiver.ok_or(Verdict::NoSuchContainer)?;
            *account = receiver.account;
            if from.workspace != to.workspace || to.workspace != receiver.workspace {
                return Err(Verdict::OtherWorkspace);
            }
            if receiver.has_i6pn {
                Ok((Verdict::I6pn, Passage::None))
            } else {
                Err(Verdict::NoI6pn)
            }
        }
        IpAddr::V4(_) => {
            let to_relay = packet.destination == region.relay;
            let far = region.hosts.get(&peer.host);
            let from_relay = peer.is_gateway && far.is_some_and(|far| far.relay == packet.source);
            if !to_relay && !from_relay {
                if host.are_fellows(packet.source, packet.destination) {
                    *account = receiver.ok_or(Verdict::NoSuchContainer)?.account;
                    return Ok((Verdict::I6pn, Passage::None));
                }
                return Err(Verdict::BetweenContainers);
            }
            let inner = if to_relay { (packet.source, from) } else { (packet.destination, to) };
            if !packet.is_tcp() || !host.forwards.contains_key(&inner) {
                return Err(Verdict::NotForwarded);
            }
            *account = host.accounts[&inner];
            if to_relay && packet.opens() {
                return Err(Verdict::ServicePort);
            }
            match receiver {
                Some(receiver) if receiver.is_service == to_relay => {
                    Ok((Verdict::Relayed, Passage::None))
                }
                _ => Err(Verdict::NoSuchContainer),
            }
        }
    }
}

/// The counters of a port that clients reach through the kernel.
fn slot(host: &Host, inner: (IpAddr, u16)) -> Option<u32> {
    match *host.forwards.get(&inner)? {
        Reply::Never => None,
        Reply::Here { slot, .. } | Reply::By { slot, .. } => Some(slot),
    }
}

/// A reply of a container elsewhere, which leaves here under the public address.
fn to_client(
    host: &Host,
    frame: &[u8],
    packet: &Packet,
    reach: usize,
    account: &mut u32,
) -> Result<Answer, Verdict> {
    if !is_far_end(packet.destination) {
        return Err(Verdict::Unroutable);
    }
    let mut here = |inner| match host.forwards.get(&inner) {
        Some(Reply::Here { address, port, uplink, slot }) => {
            *account = host.accounts[&inner];
            Ok((*address, *port, Fate::Send { uplink: *uplink, next_hop: None }, *slot))
        }
        _ => Err(Verdict::NotForwarded),
    };
    // Also a later fragment, which has no ports.
    if packet.protocol == IpNumber::TCP {
        if let Some(verdict) = unfit(packet) {
            return Err(verdict);
        }
        let (address, port, fate, slot) = here((packet.source, packet.ports().0))?;
        if packet.opens() {
            return Err(Verdict::ConnectFromForwardedPort);
        }
        let rewrite = rewrite::tcp(frame, packet, host, End::Source, address, port);
        let sent = Answer::rewritten(rewrite, Verdict::Reply, fate);
        return Ok(Answer { passage: outward(packet, slot), ..sent });
    }
    let quote = errors::quote(frame, reach, packet).ok_or(Verdict::NotForwarded)?;
    if (quote.source.0, quote.destination.0) != (packet.destination, packet.source) {
        return Err(Verdict::NotForwarded);
    }
    let (address, port, fate, _) = here(quote.destination)?;
    let rewrite = errors::rewritten(frame, packet, &quote, End::Destination, address, port);
    Ok(Answer::rewritten(rewrite, Verdict::IcmpError, fate))
}

/// Marks a packet as the underlay did the one around it (RFC 6040, section 4.2); not one whose
/// sender does not know that mark.
fn congest(frame: &mut Vec<u8>, packet: &Packet) -> bool {
    let (at, shift) = if packet.source.is_ipv4() { (15, 0) } else { (15, 4) };
    if frame[at] >> shift & CONGESTED == 0 {
        return false;
    }
    let before = frame.clone();
    let mut rewrite = Rewrite::new(&before);
    rewrite.write(at, &[frame[at] | CONGESTED << shift]);
    if packet.source.is_ipv4() {
        rewrite.header_sum();
    }
    *frame = rewrite.after;
    true
}
