//! What a container, or the service namespace, sends.

use std::net::IpAddr;

use edge_common::verdict::Verdict;

use super::{
    Answer, Fate, Host, Passage, errors,
    host::{Owner, Reply},
    read::{Body, Packet},
    rewrite::{self, End},
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
    if is_many(packet.destination) || packet.is_mapped() {
        return Answer::refuse(frame, Verdict::Unroutable);
    }
    let Some(sender) = host.owners.get(&packet.source).filter(|one| one.veth == ingress) else {
        return Answer::refuse(frame, Verdict::ForgedSource);
    };
    if let Some(receiver) = host.owners.get(&packet.destination) {
        return match neighbours(host, &packet, sender, receiver) {
            Ok(verdict) => {
                let fate = Fate::Deliver { veth: receiver.veth, mac: receiver.mac };
                Answer::unchanged(frame, verdict, fate)
            }
            Err(verdict) => Answer::refuse(frame, verdict),
        };
    }
    if sender.is_service {
        return Answer::refuse(frame, Verdict::NotForwarded);
    }
    if host.is_inside(packet.destination) {
        return Answer::refuse(frame, Verdict::NoSuchContainer);
    }
    if !is_far_end(packet.destination) {
        return Answer::refuse(frame, Verdict::Unroutable);
    }
    let (from, to) = packet.ports();
    if packet.is_tcp() && host.listeners.contains(&(packet.destination, to)) {
        return if sender.has_egress {
            Answer::unchanged(frame, Verdict::Listener, Fate::PassToListener)
        } else {
            Answer::refuse(frame, Verdict::NoEgress)
        };
    }
    if packet.is_tcp()
        && let Some(Some(reply)) = host.forwards.get(&(packet.source, from))
    {
        return answer(host, frame, &packet, reply);
    }
    if let Some(answer) = complaint(host, frame, reach, &packet) {
        return answer;
    }
    if packet.source.is_ipv6() {
        return Answer::refuse(frame, Verdict::NoIpv6Egress);
    }
    if !sender.has_egress {
        return Answer::refuse(frame, Verdict::NoEgress);
    }
    Answer::pass(frame, Verdict::Egress)
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
        (false, false) | (true, true) => Err(Verdict::BetweenContainers),
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

/// What a raw tunnel's port sends outside.
fn answer(host: &Host, frame: &[u8], packet: &Packet, reply: &Reply) -> Answer {
    if packet.is_fragment {
        return Answer::refuse(frame, Verdict::Fragment);
    }
    if packet.has_options {
        return Answer::refuse(frame, Verdict::IpOptions);
    }
    let Body::Tcp { syn, ack, .. } = packet.body else { panic!("not TCP: {packet:?}") };
    if syn && !ack {
        let reset = rewrite::reset(frame, packet);
        let verdict = Verdict::ConnectFromForwardedPort;
        return Answer { frame: reset, ..Answer::unchanged(frame, verdict, Fate::Bounce) };
    }
    let (address, port) = (reply.address, reply.port);
    let rewrite = rewrite::tcp(frame, packet, host, End::Source, address, port);
    Answer {
        verdict: Verdict::Reply,
        fate: Fate::Send { uplink: reply.uplink },
        passage: if syn { Passage::Accept(reply.slot) } else { Passage::Out(reply.slot) },
        frame: rewrite.after,
        wrong_sums: rewrite.wrong_sums,
        is_in_turn: false,
    }
}

/// What a container tells a client about that client's own packet.
fn complaint(host: &Host, frame: &[u8], reach: usize, packet: &Packet) -> Option<Answer> {
    let quote = errors::quote(frame, reach, packet)?;
    if (quote.source.0, quote.destination.0) != (packet.destination, packet.source) {
        return None;
    }
    let reply = host.forwards.get(&quote.destination).copied().flatten()?;
    let (address, port) = (reply.address, reply.port);
    let rewrite = errors::rewritten(frame, packet, &quote, End::Destination, address, port);
    Some(Answer {
        verdict: Verdict::IcmpError,
        fate: Fate::Send { uplink: reply.uplink },
        passage: Passage::None,
        frame: rewrite.after,
        wrong_sums: rewrite.wrong_sums,
        is_in_turn: false,
    })
}

/// Whether an address is one of many receivers, or of none (RFC 1112, section 4).
fn is_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] >= 224,
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
