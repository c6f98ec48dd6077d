//! What goes to another host: the same packet, or one in Geneve (RFC 8926) around it.

use std::net::IpAddr;

use edge_common::verdict::Verdict;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader, ether_type};

use super::{
    Answer, Fate, Host, Passage,
    read::{Body, Packet},
    region::{Region, Way, v6},
    rewrite::Rewrite,
};

const ETHERNET: usize = 14;
/// UDP port of Geneve (IANA).
pub(super) const GENEVE: u16 = 6081;
/// A class for experiments, a critical type, two words.
pub(super) const KEY_OPTION: [u8; 4] = [0xff, 0xed, 0x81, 2];

/// Sends a frame to a host, changed as `change` says, if it fits the way.
pub(super) fn to<'a>(
    host: &Host,
    number: u32,
    frame: &'a [u8],
    packet: &Packet,
    verdict: Verdict,
    passage: Passage,
    change: impl FnOnce() -> Rewrite<'a>,
) -> Answer {
    let region = host.region.as_ref().expect("a region of several hosts");
    let answer = carried(region, number, frame, packet, verdict, passage, change);
    Answer { lane: region.lane(), ..answer }
}

fn carried<'a>(
    region: &Region,
    number: u32,
    frame: &'a [u8],
    packet: &Packet,
    verdict: Verdict,
    passage: Passage,
    change: impl FnOnce() -> Rewrite<'a>,
) -> Answer {
    let Some(far) = region.hosts.get(&number) else {
        return Answer::refuse(frame, Verdict::NoSuchHost);
    };
    if frame.len() - ETHERNET > far.largest {
        let largest = far.largest as u32;
        return Answer { largest, ..Answer::refuse(frame, Verdict::TooBig) };
    }
    let flow = flow(packet);
    let way = far.ways[(flow >> 16) as usize % far.ways.len()];
    let Rewrite { after, wrong_sums, .. } = change();
    let next_hop = region.is_direct.then(|| v6(way.to));
    let fate = Fate::Send { uplink: way.interface, next_hop };
    let unchanged = Answer::unchanged(frame, verdict, fate);
    if region.is_direct {
        return Answer { passage, frame: after, wrong_sums, ..unchanged };
    }
    let port = 0xc000 | flow as u16;
    let wrapped = wrap(region, &after, way, port);
    let around = wrapped.len() - after.len();
    let wrong_sums = wrong_sums.into_iter().map(|at| at + around).collect();
    Answer { passage, frame: wrapped, wrong_sums, ..unchanged }
}

/// The UDP port that tells the flow of a frame's packet apart.
pub fn source_port(frame: &[u8]) -> u16 {
    let packet = Packet::read(frame, usize::MAX).expect("a packet");
    0xc000 | flow(&packet) as u16
}

/// Which of so many ways it takes.
pub fn way(frame: &[u8], ways: usize) -> usize {
    let packet = Packet::read(frame, usize::MAX).expect("a packet");
    (flow(&packet) >> 16) as usize % ways
}

/// A number that all packets of a flow have in common.
fn flow(packet: &Packet) -> u32 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let ends = [octets(packet.source), octets(packet.destination)].concat();
    let mut words: Vec<u32> = ends
        .chunks(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    words.push(packet.protocol.0.into());
    let has_ports = matches!(packet.body, Body::Tcp { .. } | Body::Udp { .. });
    if has_ports && !packet.is_fragment {
        let (from, to) = packet.ports();
        words.push(u32::from(from) * 0x1_0000 + u32::from(to));
    }
    words.iter().fold(0_u32, |sum, word| {
        let product = u64::from(sum ^ word) * 0x9e37_79b1;
        let low = product as u32;
        low ^ (low >> 15)
    })
}

/// The frame with IP, UDP and Geneve around its packet.
pub(super) fn wrap(region: &Region, frame: &[u8], way: Way, port: u16) -> Vec<u8> {
    let (kind, inner) = (&frame[12..14], &frame[ETHERNET..]);
    let is_v4 = kind == ether_type::IPV4.0.to_be_bytes();
    let traffic_class = if is_v4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
    let key = region.keys.first();
    let mut geneve = match key {
        Some(_) => vec![3, 0x40],
        None => vec![0, 0],
    };
    geneve.extend(kind);
    geneve.extend(&(region.number << 8).to_be_bytes());
    if let Some(key) = key {
        geneve.extend(KEY_OPTION);
        geneve.extend(key);
    }
    let length = (UdpHeader::LEN + geneve.len() + inner.len()) as u16;
    let udp = UdpHeader { source_port: port, destination_port: GENEVE, length, checksum: 0 };
    let (kind, network) = match (way.from, way.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(length, 64, IpNumber::UDP, from.octets(), to.octets())
                .expect("a short payload");
            (ip.dscp, ip.ecn) = (
                (traffic_class >> 2).try_into().expect("six bits"),
                (traffic_class & 3).try_into().expect("two bits"),
            );
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            (ether_type::IPV4, ip.to_bytes().to_vec())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                traffic_class,
                payload_length: length,
                next_header: IpNumber::UDP,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            (ether_type::IPV6, ip.to_bytes().to_vec())
        }
        _ => panic!("a way between two families"),
    };
    [&frame[..12], &kind.0.to_be_bytes(), &network, &udp.to_bytes(), &geneve, inner].concat()
}
