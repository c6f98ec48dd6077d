//! What comes in by an uplink.

use std::net::IpAddr;

use edge_common::verdict::Verdict;

use super::{
    Answer, Fate, Host, Ledger, Passage,
    bounds::Bounds,
    errors,
    read::Packet,
    rewrite::{self, End},
};

/// What becomes of a frame at an uplink, of which a program can see the first `reach` bytes, after
/// those that the ledger knows of.
pub fn uplink(host: &Host, ledger: &mut Ledger, frame: &[u8], reach: usize) -> Answer {
    let packet = match Packet::read(frame, reach) {
        Ok(packet) => packet,
        Err(Verdict::NotIp) => return Answer::pass(frame, Verdict::NotOurs),
        Err(verdict) => return Answer::refuse(frame, verdict),
    };
    if !host.is_configured {
        return Answer::pass(frame, Verdict::NotOurs);
    }
    if host.is_inside(packet.destination) {
        return Answer::refuse(frame, Verdict::BareInner);
    }
    if host.is_inside(packet.source) {
        return Answer::refuse(frame, Verdict::ForgedSource);
    }
    if packet.is_mapped() {
        return Answer::pass(frame, Verdict::NotOurs);
    }
    let to = (packet.destination, packet.ports().1);
    if packet.is_tcp() && host.tunnels.contains_key(&to) {
        return into_tunnel(host, ledger, frame, &packet);
    }
    let quote = errors::quote(frame, reach, &packet);
    if let Some(quote) = quote.filter(|quote| quote.source.0 == packet.destination)
        && let Some(tunnel) = host.tunnels.get(&quote.source)
    {
        let (address, port) = (tunnel.address, tunnel.port);
        let rewrite = errors::rewritten(frame, &packet, &quote, End::Source, address, port);
        return Answer {
            verdict: Verdict::IcmpError,
            fate: Fate::Deliver { veth: tunnel.veth, mac: tunnel.mac },
            passage: Passage::None,
            frame: rewrite.after,
            wrong_sums: rewrite.wrong_sums,
            is_in_turn: false,
        };
    }
    Answer::pass(frame, Verdict::NotOurs)
}

fn into_tunnel(host: &Host, ledger: &mut Ledger, frame: &[u8], packet: &Packet) -> Answer {
    if packet.is_fragment {
        return Answer::refuse(frame, Verdict::Fragment);
    }
    if packet.has_options {
        return Answer::refuse(frame, Verdict::IpOptions);
    }
    if !is_far_end(packet.source) || packet.source == packet.destination {
        return Answer::refuse(frame, Verdict::ForgedSource);
    }
    let tunnel = host.tunnels[&(packet.destination, packet.ports().1)];
    let nothing = Bounds::default();
    let bounds = host.bounds.get(&tunnel.slot).unwrap_or(&nothing);
    let (refusal, is_in_turn) = ledger.refusal(&tunnel, bounds, packet);
    if let Some(verdict) = refusal {
        return Answer { is_in_turn, ..Answer::refuse(frame, verdict) };
    }
    let (address, port) = (tunnel.address, tunnel.port);
    let rewrite = rewrite::tcp(frame, packet, host, End::Destination, address, port);
    Answer {
        verdict: Verdict::Tunnel,
        fate: Fate::Deliver { veth: tunnel.veth, mac: tunnel.mac },
        passage: Passage::In(tunnel.slot),
        frame: rewrite.after,
        wrong_sums: rewrite.wrong_sums,
        is_in_turn,
    }
}

/// Whether somebody on another machine can have an address (RFC 6890).
pub(super) fn is_far_end(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_this_network = v4.octets()[0] == 0;
            let is_many = v4.is_multicast() || v4.octets()[0] >= 240;
            !(is_this_network || v4.is_loopback() || v4.is_link_local() || is_many)
        }
        IpAddr::V6(v6) => {
            // There lie the unspecified address, the loopback and all of IPv4's disguises.
            let is_zero_network = v6.segments()[..4] == [0; 4];
            !(is_zero_network || v6.is_unicast_link_local() || v6.is_multicast())
        }
    }
}
