//! IP packets byte by byte, as no honest socket would make them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{UdpHeader, ip_number};

/// Where packets between hosts go.
pub const GENEVE_PORT: u16 = 6081;
/// Numbers of protocols and of extension headers.
pub const HOP_BY_HOP: u8 = ip_number::IPV6_HEADER_HOP_BY_HOP.0;
/// See [`HOP_BY_HOP`].
pub const ROUTING: u8 = ip_number::IPV6_ROUTE_HEADER.0;
/// See [`HOP_BY_HOP`].
pub const FRAGMENT: u8 = ip_number::IPV6_FRAGMENTATION_HEADER.0;
/// See [`HOP_BY_HOP`].
pub const DESTINATION_OPTIONS: u8 = ip_number::IPV6_DESTINATION_OPTIONS.0;
/// IPv6 inside of something.
pub const IPV6: u8 = ip_number::IPV6.0;
/// IPv4 inside of something.
pub const IPV4: u8 = ip_number::IPV4.0;
/// UDP.
pub const UDP: u8 = ip_number::UDP.0;
/// TCP.
pub const TCP: u8 = ip_number::TCP.0;

/// A UDP packet with these ends.
#[track_caller]
pub fn udp(from: SocketAddr, to: SocketAddr, text: &[u8]) -> Vec<u8> {
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            ipv4(source, target, UDP, &datagram(from, to, text))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            ipv6(source, target, UDP, &datagram(from, to, text))
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// UDP's header and what it carries.
#[track_caller]
pub fn datagram(from: SocketAddr, to: SocketAddr, text: &[u8]) -> Vec<u8> {
    let (source, target) = (from.port(), to.port());
    let header = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            UdpHeader::with_ipv4_checksum(source, target, &header4(a, b, UDP, 8 + text.len()), text)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (a, b) = (a.octets(), b.octets());
            let header = etherparse::Ipv6Header { source: a, destination: b, ..Default::default() };
            UdpHeader::with_ipv6_checksum(source, target, &header, text)
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    [&header.expect("a short text").to_bytes()[..], text].concat()
}

/// An IPv6 header before this.
pub fn ipv6(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short packet").to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    packet
}

/// An IPv4 header before this.
pub fn ipv4(source: Ipv4Addr, target: Ipv4Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = header4(source, target, next, payload.len());
    header.write(&mut packet).expect("writing to memory");
    packet.extend(payload);
    packet
}

/// The same as a piece that begins after so many units of eight bytes.
pub fn ipv4_piece(ends: [Ipv4Addr; 2], next: u8, units: u16, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut header = header4(ends[0], ends[1], next, piece.len());
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = units.try_into().expect("a place in a packet");
    header.identification = 0xed9e;
    header.header_checksum = header.calc_header_checksum();
    header.write(&mut packet).expect("writing to memory");
    packet.extend(piece);
    packet
}

/// An extension header of eight bytes that asks for nothing, before what is of this kind: hop by
/// hop or destination options with padding, a routing header without segments left.
pub fn extension(kind: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let body = if kind == ROUTING { [0, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0] };
    let mut header = vec![next, 0];
    header.extend(body);
    header.extend(rest);
    header
}

/// A fragment header before a piece that begins after so many units of eight bytes.
pub fn fragment(next: u8, units: u16, more: bool, piece: &[u8]) -> Vec<u8> {
    let place = (units << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, place[0], place[1], 0xed, 0x9e, 0, 1], piece].concat()
}

/// What travels in UDP between hosts (RFC 8926): a header, options, and a packet.
pub fn geneve(region: u16, options: &[u8], inner: &[u8]) -> Vec<u8> {
    let protocol: u16 = if inner[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let [protocol_high, protocol_low] = protocol.to_be_bytes();
    let [high, low] = region.to_be_bytes();
    let words = u8::try_from(options.len() / 4).expect("few options");
    // Said in the header if an option says that it must be understood.
    let critical = options.get(2).map_or(0, |kind| (kind & 0x80) >> 1);
    let mut packet = vec![words, critical, protocol_high, protocol_low, 0, high, low, 0];
    packet.extend(options);
    packet.extend(inner);
    packet
}

/// The region that an address of the private network is of.
pub fn region_of(address: Ipv6Addr) -> u16 {
    address.segments()[3]
}

fn header4(a: Ipv4Addr, b: Ipv4Addr, next: u8, length: usize) -> etherparse::Ipv4Header {
    let length = u16::try_from(length).expect("a short packet");
    let mut header = etherparse::Ipv4Header::new(length, 64, next.into(), a.octets(), b.octets())
        .expect("a short packet");
    header.header_checksum = header.calc_header_checksum();
    header
}
