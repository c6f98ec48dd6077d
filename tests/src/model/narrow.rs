//! What the underlay says of ways that are narrower than was thought.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, icmpv4, icmpv6};

use super::{
    Host, carry,
    read::{Body, Packet},
    uplink::Hook,
};

const ICMP_HEADER: usize = 8;

/// Whether a packet says that of what this machine carried to another. Nothing in the tables is
/// so wide that it would make a difference to what follows.
pub(super) fn is_news(host: &Host, frame: &[u8], packet: &Packet, hook: Hook) -> bool {
    let Some(region) = &host.region else { return false };
    if region.is_direct || packet.is_fragment || packet.has_options {
        return false;
    }
    let at = packet.transport;
    // A program reads a whole ICMP header wherever it can read its first bytes.
    let Some(code) = frame.get(at..at + ICMP_HEADER).map(|header| header[1]) else {
        return false;
    };
    let is_too_big = match (packet.source, packet.body) {
        (IpAddr::V4(_), Body::Icmp { kind }) => {
            kind == icmpv4::TYPE_DEST_UNREACH && code == icmpv4::CODE_DST_UNREACH_NEED_FRAG
        }
        (IpAddr::V6(_), Body::Icmpv6 { kind }) => kind == icmpv6::TYPE_PACKET_TOO_BIG,
        _ => false,
    };
    let seen = &frame[..frame.len().min(hook.reach)];
    let ends = seen.get(at + ICMP_HEADER..).and_then(|quote| carried(quote, packet.source));
    let (Some((from, to)), true) = (ends, is_too_big) else { return false };
    let is_own = |address| region.peers.get(&address).map(|peer| peer.is_self);
    from == packet.destination
        && is_own(from) == Some(true)
        && is_own(to) == Some(false)
        && region.underlays.contains(&hook.ingress)
}

/// Between whom a quoted packet in Geneve went.
fn carried(quote: &[u8], family: IpAddr) -> Option<(IpAddr, IpAddr)> {
    let (from, to, length): (IpAddr, IpAddr, _) = if family.is_ipv4() {
        let header = Ipv4HeaderSlice::from_slice(quote).ok()?;
        if header.ihl() != 5 || header.protocol() != IpNumber::UDP {
            return None;
        }
        (header.source_addr().into(), header.destination_addr().into(), 20)
    } else {
        let header = Ipv6HeaderSlice::from_slice(quote).ok()?;
        if header.next_header() != IpNumber::UDP {
            return None;
        }
        (header.source_addr().into(), header.destination_addr().into(), 40)
    };
    let [_, _, high, low] = *quote.get(length..)?.first_chunk::<4>()?;
    (u16::from_be_bytes([high, low]) == carry::GENEVE).then_some((from, to))
}
