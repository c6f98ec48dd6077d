//! Telling a sender here why its packet is refused (RFC 792; RFC 4443, section 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_common::verdict::Verdict;
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, icmpv4,
    icmpv6,
};

use super::{
    Answer, Fate, Host,
    read::{Body, Packet},
};

const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Most bytes that are quoted, in whole words.
const QUOTED: usize = 120;
/// An ICMPv6 message that is no error and still not to be answered by one (RFC 4443).
const REDIRECT: u8 = 137;

/// The same refusal, told to the sender if it is one that can be told.
pub(super) fn told(host: &Host, packet: &Packet, answer: Answer) -> Answer {
    let is_refused = answer.fate == Fate::Drop && host.complains;
    if !is_refused || packet.is_later || !may_be_answered(packet.body) {
        return answer;
    }
    let v6 = packet.source.is_ipv6();
    let Some((kind, code)) = message(answer.verdict, v6) else { return answer };
    let frame = &answer.frame;
    let quoted = (frame.len() - 14).min(QUOTED) / 4 * 4;
    let quote = &frame[14..14 + quoted];
    let [a, b, c, d] = answer.largest.to_be_bytes();
    let [mac, own] = [&frame[6..12], &frame[..6]];
    let packet = match packet.source {
        IpAddr::V4(to) => {
            let kind =
                Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: [a, b, c, d] };
            let icmp = Icmpv4Header::with_checksum(kind, quote);
            let length = (icmp.header_len() + quoted) as u16;
            let mut ip = Ipv4Header::new(length, 64, IpNumber::ICMP, ROUTER.octets(), to.octets())
                .expect("a short payload");
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            [&ip.to_bytes()[..], &icmp.to_bytes(), quote].concat()
        }
        IpAddr::V6(to) => {
            let (source, destination) = (ROUTER_V6.octets(), to.octets());
            let kind =
                Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: [a, b, c, d] };
            let icmp = Icmpv6Header::with_checksum(kind, source, destination, quote)
                .expect("a short payload");
            let ip = Ipv6Header {
                payload_length: (icmp.header_len() + quoted) as u16,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source,
                destination,
                ..Ipv6Header::default()
            };
            [&ip.to_bytes()[..], &icmp.to_bytes(), quote].concat()
        }
    };
    let frame = [mac, own, &frame[12..14], &packet].concat();
    Answer { fate: Fate::Bounce, frame, ..answer }
}

/// Type and code.
fn message(verdict: Verdict, v6: bool) -> Option<(u8, u8)> {
    let prohibited = icmpv4::CODE_DST_UNREACH_FILTER_PROHIB;
    Some(match (verdict, v6) {
        (Verdict::TooBig, false) => (icmpv4::TYPE_DEST_UNREACH, icmpv4::CODE_DST_UNREACH_NEED_FRAG),
        (
            Verdict::NoEgress
            | Verdict::BetweenContainers
            | Verdict::NoSuchContainer
            | Verdict::NoSuchHost
            | Verdict::ProxyAway,
            false,
        ) => (icmpv4::TYPE_DEST_UNREACH, prohibited),
        (Verdict::TooBig, true) => (icmpv6::TYPE_PACKET_TOO_BIG, 0),
        (Verdict::NoSuchHost, true) => (icmpv6::TYPE_DST_UNREACH, 0),
        (Verdict::NoSuchContainer, true) => (icmpv6::TYPE_DST_UNREACH, 3),
        (
            Verdict::OtherWorkspace
            | Verdict::NoI6pn
            | Verdict::OtherRegion
            | Verdict::NoIpv6Egress
            | Verdict::NoEgress,
            true,
        ) => (icmpv6::TYPE_DST_UNREACH, 1),
        _ => return None,
    })
}

/// No error is answered by another (RFC 1122, section 3.2.2).
fn may_be_answered(body: Body) -> bool {
    match body {
        Body::Icmp { kind } => ![
            icmpv4::TYPE_DEST_UNREACH,
            icmpv4::TYPE_SOURCE_QUENCH,
            icmpv4::TYPE_REDIRECT,
            icmpv4::TYPE_TIME_EXCEEDED,
            icmpv4::TYPE_PARAMETER_PROBLEM,
        ]
        .contains(&kind),
        Body::Icmpv6 { kind } => kind >= icmpv6::TYPE_ECHO_REQUEST && kind != REDIRECT,
        _ => true,
    }
}
