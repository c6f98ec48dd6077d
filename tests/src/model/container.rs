//! What a container, or the service namespace, sends.

use std::net::IpAddr;

use edge_common::verdict::Verdict;

use super::{
    Answer, Fate, Host, Passage, carry, complain, errors,
    host::{Owner, Reply},
    read::{Body, Packet},
    region::place,
    rewrite::{self, End, Rewrite},
    uplink::is_far_end,
};

/// What becomes of a frame that came out of the veth `ingress`, of which a program can see the
/// first `reach` bytes.
pub fn container(host: &Host, ingress: u32, frame: &[u8], reach: usize) -> Answer {
    let packet = match Packet::read(frame, reach) {
        Ok(packet) => packet,
        Err(verdict) => return Answer::refuse(frame, verdict),
    };
    if !host.is_configured {
        return Answer::refuse(frame, Verdict::Unconfigured);
    }
    complain::told(host, &packet, judged(host, ingress, frame, reach, &packet))
}

fn judged(host: &Host, ingress: u32, frame: &[u8], reach: usize, packet: &Packet) -> Answer {
    if is_many(packet.destination) || packet.is_mapped() {
        return Answer::refuse(frame, Verdict::Unroutable);
    }
    let Some(sender) = host.owners.get(&packet.source).filter(|one| one.veth == ingress) else {
        return Answer::refuse(frame, Verdict::ForgedSource);
    };
    let answer = beyond(host, frame, reach, packet, sender);
    Answer { account: whose(host, packet, sender), ..answer }
}

/// The container's that sends it; and what the daemon itself sends is whose it is for.
fn whose(host: &Host, packet: &Packet, sender: &Owner) -> u32 {
    if !sender.is_service {
        return sender.account;
    }
    if let Some(receiver) = host.owners.get(&packet.destination) {
        return receiver.account;
    }
    // The relay dials a container elsewhere.
    if host.is_inside(packet.destination) && elsewhere(host, packet, sender).is_ok() {
        return host.accounts[&(packet.destination, packet.ports().1)];
    }
    0
}

/// What becomes of what its sender may say that it is.
fn beyond(host: &Host, frame: &[u8], reach: usize, packet: &Packet, sender: &Owner) -> Answer {
    if let Some(receiver) = host.owners.get(&packet.destination) {
        return match neighbours(host, packet, sender, receiver) {
            Ok(verdict) => {
                let fate = Fate::Deliver { veth: receiver.veth, mac: receiver.mac };
                Answer::unchanged(frame, verdict, fate)
            }
            Err(verdict) => Answer::refuse(frame, verdict),
        };
    }
    if host.is_inside(packet.destination) {
        return match elsewhere(host, packet, sender) {
            Ok((number, verdict)) => {
                carry::to(host, number, frame, packet, verdict, Passage::None, || {
                    Rewrite::new(frame)
                })
            }
            Err(verdict) => Answer::refuse(frame, verdict),
        };
    }
    if sender.is_service {
        return Answer::refuse(frame, Verdict::NotForwarded);
    }
    let (from, to) = packet.ports();
    let is_udp = matches!(packet.body, Body::Udp { .. });
    if is_udp && to == carry::GENEVE && host.region.is_some() {
        return Answer::refuse(frame, Verdict::Encapsulated);
    }
    if !is_far_end(packet.destination) {
        return Answer::refuse(frame, Verdict::Unroutable);
    }
    if packet.is_tcp() && host.listeners.contains(&(packet.destination, to)) {
        return if sender.has_egress {
            Answer::unchanged(frame, Verdict::Listener, Fate::PassToListener)
        } else {
            Answer::refuse(frame, Verdict::NoEgress)
        };
    }
    if !sender.is_proxied
        && packet.is_tcp()
        && let Some(reply) = host.forwards.get(&(packet.source, from))
        && let Some(answer) = answer(host, frame, packet, *reply)
    {
        return answer;
    }
    if !sender.is_proxied
        && let Some(answer) = complaint(host, frame, reach, packet)
    {
        return answer;
    }
    if packet.source.is_ipv6() && !sender.is_proxied {
        return Answer::refuse(frame, Verdict::NoIpv6Egress);
    }
    if !sender.has_egress {
        return Answer::refuse(frame, Verdict::NoEgress);
    }
    if sender.is_proxied {
        return proxied(host, frame, packet);
    }
    Answer::pass(frame, Verdict::Egress)
}

/// To the gateway of the sender's proxy.
fn proxied(host: &Host, frame: &[u8], packet: &Packet) -> Answer {
    let (interface, largest) = match host.proxies.get(&packet.source) {
        None if packet.source.is_ipv6() => return Answer::refuse(frame, Verdict::NoIpv6Egress),
        None => return Answer::refuse(frame, Verdict::ProxyAway),
        Some(None) if packet.source.is_ipv4() => return Answer::pass(frame, Verdict::Proxied),
        Some(None) => return Answer::unchanged(frame, Verdict::Proxied, Fate::PassProxied),
        Some(Some(way)) => *way,
    };
    if frame.len() - 14 > largest {
        let largest = largest as u32;
        return Answer { largest, ..Answer::refuse(frame, Verdict::TooBig) };
    }
    // Without the headers of IP and TCP.
    let segment = (largest - if packet.source.is_ipv6() { 60 } else { 40 }) as u16;
    let rewrite = if packet.is_tcp() {
        rewrite::clamp_to(frame, packet, segment)
    } else {
        Rewrite::new(frame)
    };
    Answer::rewritten(rewrite, Verdict::Proxied, Fate::SendBare { interface })
}

/// Which host has an inner address that nobody here has, and as what the packet goes there.
fn elsewhere(host: &Host, packet: &Packet, sender: &Owner) -> Result<(u32, Verdict), Verdict> {
    let nobody = if sender.is_service { Verdict::NotForwarded } else { Verdict::NoSuchContainer };
    let region = host.region.as_ref().ok_or(nobody)?;
    if packet.destination.is_ipv6() {
        if sender.is_service {
            return Err(nobody);
        }
        let (from, to) = (place(packet.source), place(packet.destination));
        if to.region != region.number {
            return Err(Verdict::OtherRegion);
        }
        if to.workspace != from.workspace {
            return Err(Verdict::OtherWorkspace);
        }
        if !sender.has_i6pn {
            return Err(Verdict::NoI6pn);
        }
        if to.host == region.own { Err(nobody) } else { Ok((to.host, Verdict::I6pn)) }
    } else {
        let owner = region.owner(packet.destination).filter(|owner| *owner != region.own);
        let owner = owner.ok_or(nobody)?;
        let (from, to) = packet.ports();
        // A gateway's relay dials, and containers answer it.
        let is_relayed = if sender.is_service {
            packet.source == region.relay && host.forwards.contains_key(&(packet.destination, to))
        } else {
            let far = region.hosts.get(&owner);
            far.is_some_and(|far| far.is_gateway && far.relay == packet.destination)
                && !packet.opens()
                && host.forwards.contains_key(&(packet.source, from))
        };
        match (packet.is_tcp() && is_relayed, sender.is_service) {
            (true, _) => Ok((owner, Verdict::Relayed)),
            (false, true) => Err(Verdict::NotForwarded),
            (false, false) if host.are_fellows(packet.source, packet.destination) => {
                Ok((owner, Verdict::I6pn))
            }
            (false, false) => Err(Verdict::BetweenContainers),
        }
    }
}

/// Who on this host may send what to whom.
fn neighbours(
    host: &Host,
    packet: &Packet,
    sender: &Owner,
    receiver: &Owner,
) -> Result<Verdict, Verdict> {
    let (from, to) = packet.ports();
    let serves = |port| match packet.body {
        Body::Tcp { .. } => [53, 80].contains(&port),
        Body::Udp { .. } => port == 53,
        _ => false,
    };
    match (sender.is_service, receiver.is_service) {
        (true, true) => Err(Verdict::BetweenContainers),
        (false, false)
            if packet.source.is_ipv4() && !host.are_fellows(packet.source, packet.destination) =>
        {
            Err(Verdict::BetweenContainers)
        }
        (false, false) if sender.workspace != receiver.workspace => Err(Verdict::OtherWorkspace),
        (false, false) if sender.has_i6pn && receiver.has_i6pn => Ok(Verdict::I6pn),
        (false, false) => Err(Verdict::NoI6pn),
        (true, false) if packet.source == host.service => {
            let answers = serves(from) || errors::is_error(packet);
            if answers { Ok(Verdict::Service) } else { Err(Verdict::ServicePort) }
        }
        (false, true) if packet.destination == host.service => {
            if serves(to) {
                Ok(Verdict::Service)
            } else {
                Err(Verdict::ServicePort)
            }
        }
        (from_service, _) => {
            let inner = if from_service { (packet.destination, to) } else { (packet.source, from) };
            let Body::Tcp { syn, ack, .. } = packet.body else {
                return Err(Verdict::NotForwarded);
            };
            if !host.forwards.contains_key(&inner) {
                return Err(Verdict::NotForwarded);
            }
            // The relay dials containers; nobody dials the relay.
            if !from_service && syn && !ack {
                return Err(Verdict::ServicePort);
            }
            Ok(Verdict::Relayed)
        }
    }
}

/// What a raw tunnel's port sends outside; nothing of the kind if only userspace serves it.
fn answer(host: &Host, frame: &[u8], packet: &Packet, reply: Reply) -> Option<Answer> {
    if matches!(reply, Reply::Never) {
        return None;
    }
    if let Some(verdict) = unfit(packet) {
        return Some(Answer::refuse(frame, verdict));
    }
    if packet.opens() {
        let reset = rewrite::reset(frame, packet);
        let verdict = Verdict::ConnectFromForwardedPort;
        return Some(Answer { frame: reset, ..Answer::unchanged(frame, verdict, Fate::Bounce) });
    }
    Some(match reply {
        Reply::Never => panic!("it was just looked at"),
        Reply::Here { address, port, uplink, slot } => {
            let rewrite = rewrite::tcp(frame, packet, host, End::Source, address, port);
            let fate = Fate::Send { uplink, next_hop: None };
            let sent = Answer::rewritten(rewrite, Verdict::Reply, fate);
            Answer { passage: outward(packet, slot), ..sent }
        }
        Reply::By { gateway, slot } => {
            let clamp = || rewrite::clamp(frame, packet, host);
            let passage = outward(packet, slot);
            carry::to(host, gateway, frame, packet, Verdict::Reply, passage, clamp)
        }
    })
}

/// Which counters a reply moves.
pub(super) fn outward(packet: &Packet, slot: u32) -> Passage {
    match packet.body {
        Body::Tcp { syn: true, .. } => Passage::Accept(slot),
        _ => Passage::Out(slot),
    }
}

/// Why a tunnel does not carry a packet.
pub(super) fn unfit(packet: &Packet) -> Option<Verdict> {
    if packet.is_fragment {
        return Some(Verdict::Fragment);
    }
    packet.has_options.then_some(Verdict::IpOptions)
}

/// What a container tells a client about that client's own packet.
fn complaint(host: &Host, frame: &[u8], reach: usize, packet: &Packet) -> Option<Answer> {
    let quote = errors::quote(frame, reach, packet)?;
    if (quote.source.0, quote.destination.0) != (packet.destination, packet.source) {
        return None;
    }
    match *host.forwards.get(&quote.destination)? {
        Reply::Never => None,
        Reply::Here { address, port, uplink, .. } => {
            let rewrite = errors::rewritten(frame, packet, &quote, End::Destination, address, port);
            let fate = Fate::Send { uplink, next_hop: None };
            Some(Answer::rewritten(rewrite, Verdict::IcmpError, fate))
        }
        Reply::By { gateway, .. } => {
            let (verdict, passage) = (Verdict::IcmpError, Passage::None);
            let same = || Rewrite::new(frame);
            Some(carry::to(host, gateway, frame, packet, verdict, passage, same))
        }
    }
}

/// Whether an address is one of many receivers, or of none (RFC 1112, section 4).
fn is_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] >= 224,
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
