//! What comes in by an uplink.

use std::net::IpAddr;

use edge_common::{account::Lane, verdict::Verdict};

use super::{
    Answer, Fate, Host, Ledger, Passage,
    bounds::Bounds,
    carry,
    container::unfit,
    errors, from_host,
    host::Tunnel,
    narrow,
    read::Packet,
    region::Region,
    rewrite::{self, End},
};

/// Where a frame is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    /// The interface that it came in by.
    pub ingress: u32,
    /// How much of it a program can see.
    pub reach: usize,
    /// Whether it can be sent on from there, or only into a container here.
    pub sends: bool,
}

/// What becomes of a frame at an uplink, after those that the ledger knows of.
pub fn uplink(host: &Host, ledger: &mut Ledger, frame: &[u8], hook: Hook) -> Answer {
    let packet = match Packet::read(frame, hook.reach) {
        Ok(packet) => packet,
        Err(Verdict::NotIp) => return Answer::pass(frame, Verdict::NotOurs),
        Err(verdict) => return Answer::refuse(frame, verdict),
    };
    if !host.is_configured {
        return Answer::pass(frame, Verdict::NotOurs);
    }
    if let Some(answer) = from_host::uplink(host, frame, &packet, hook) {
        return answer;
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
    if packet.is_tcp()
        && let Some(tunnel) = host.tunnels.get(&to)
    {
        return of(tunnel, host, into_tunnel(host, ledger, frame, &packet, tunnel, hook));
    }
    let quote = errors::quote(frame, hook.reach, &packet);
    if let Some(quote) = quote.filter(|quote| quote.source.0 == packet.destination)
        && let Some(tunnel) = host.tunnels.get(&quote.source)
    {
        let (address, port) = (tunnel.address, tunnel.port);
        let rewrite = || errors::rewritten(frame, &packet, &quote, End::Source, address, port);
        let verdict = Verdict::IcmpError;
        let answer = match tunnel.host {
            Some(_) if !hook.sends => Answer::deferred(frame),
            Some(number) => {
                carry::to(host, number, frame, &packet, verdict, Passage::None, rewrite)
            }
            None => {
                let fate = Fate::Deliver { veth: tunnel.veth, mac: tunnel.mac };
                Answer::rewritten(rewrite(), verdict, fate)
            }
        };
        return of(tunnel, host, answer);
    }
    if narrow::is_news(host, frame, &packet, hook) {
        return Answer::pass(frame, Verdict::IcmpError);
    }
    Answer::pass(frame, Verdict::NotOurs)
}

/// Whatever becomes of a packet to a tunnel counts for that.
fn of(tunnel: &Tunnel, host: &Host, answer: Answer) -> Answer {
    let region = host.region.as_ref().filter(|_| tunnel.host.is_some());
    let lane = region.map_or(Lane::Local, Region::lane);
    Answer { account: tunnel.account, lane, ..answer }
}

fn into_tunnel(
    host: &Host,
    ledger: &mut Ledger,
    frame: &[u8],
    packet: &Packet,
    tunnel: &Tunnel,
    hook: Hook,
) -> Answer {
    if let Some(verdict) = unfit(packet) {
        return Answer::refuse(frame, verdict);
    }
    if !is_far_end(packet.source) || packet.source == packet.destination {
        return Answer::refuse(frame, Verdict::ForgedSource);
    }
    if tunnel.host.is_some() && !hook.sends {
        return Answer::deferred(frame);
    }
    let nothing = Bounds::default();
    let bounds = host.bounds.get(&tunnel.slot).unwrap_or(&nothing);
    let (refusal, is_in_turn) = ledger.refusal(tunnel, bounds, packet);
    if let Some(verdict) = refusal {
        return Answer { is_in_turn, ..Answer::refuse(frame, verdict) };
    }
    let (address, port) = (tunnel.address, tunnel.port);
    let rewrite = || rewrite::tcp(frame, packet, host, End::Destination, address, port);
    let (verdict, passage) = (Verdict::Tunnel, Passage::In(tunnel.slot));
    let answer = match tunnel.host {
        Some(number) => carry::to(host, number, frame, packet, verdict, passage, rewrite),
        None => {
            let fate = Fate::Deliver { veth: tunnel.veth, mac: tunnel.mac };
            Answer { passage, ..Answer::rewritten(rewrite(), verdict, fate) }
        }
    };
    Answer { is_in_turn, ..answer }
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
