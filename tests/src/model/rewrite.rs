//! The frame afterwards: bytes written in place, then every checksum over them computed anew.

use std::net::IpAddr;

use etherparse::{
    Ethernet2Header, Ethernet2HeaderSlice, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, ether_type,
};

use super::{
    Host,
    read::{Body, Packet},
    sums::{Sum, bytes, covered},
};

/// Which end of a packet gets another address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A frame in the making, beside the one it is made from.
pub(super) struct Rewrite<'a> {
    before: &'a [u8],
    pub(super) after: Vec<u8>,
    pub(super) wrong_sums: Vec<usize>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(before: &'a [u8]) -> Self {
        Self { before, after: before.to_vec(), wrong_sums: Vec::new() }
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.after[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn carry(&mut self, sum: &Sum) {
        if !sum.carry(self.before, &mut self.after) {
            self.wrong_sums.push(sum.at);
        }
    }

    fn finish_tcp(&mut self, frame: &[u8], packet: &Packet) {
        let Body::Tcp { length, .. } = packet.body else { panic!("not TCP: {packet:?}") };
        let covers = covered(frame, packet.transport, packet.transport + length);
        let pseudo = Some(IpNumber::TCP.0);
        self.carry(&Sum { at: packet.transport + 16, covers, pseudo });
    }

    /// Mends the IPv4 header's own checksum.
    pub(super) fn header_sum(&mut self) {
        self.carry(&Sum { at: 24, covers: 14..34, pseudo: None });
    }

    /// Writes one end of the IP header; the IPv4 header's own checksum follows.
    pub(super) fn address(&mut self, end: End, new: IpAddr) {
        let second = usize::from(end == End::Destination);
        match new {
            IpAddr::V4(_) => {
                self.write(26 + 4 * second, &bytes(new));
                self.header_sum();
            }
            IpAddr::V6(_) => self.write(22 + 16 * second, &bytes(new)),
        }
    }
}

/// A TCP packet with another end, and a SYN with no larger segment than fits.
pub(super) fn tcp<'a>(
    frame: &'a [u8],
    packet: &Packet,
    host: &Host,
    end: End,
    address: IpAddr,
    port: u16,
) -> Rewrite<'a> {
    let at = packet.transport;
    let mut rewrite = clamped(frame, packet, limit(packet, host));
    rewrite.address(end, address);
    rewrite.write(at + 2 * usize::from(end == End::Destination), &port.to_be_bytes());
    rewrite.finish_tcp(frame, packet);
    rewrite
}

/// The same packet, if it is no SYN with too large a segment.
pub(super) fn clamp<'a>(frame: &'a [u8], packet: &Packet, host: &Host) -> Rewrite<'a> {
    clamp_to(frame, packet, limit(packet, host))
}

/// The same with a limit of its own.
pub(super) fn clamp_to<'a>(frame: &'a [u8], packet: &Packet, limit: u16) -> Rewrite<'a> {
    let mut rewrite = clamped(frame, packet, limit);
    if rewrite.after != frame {
        rewrite.finish_tcp(frame, packet);
    }
    rewrite
}

/// The largest segment that fits the way between uplink and container.
fn limit(packet: &Packet, host: &Host) -> u16 {
    if packet.source.is_ipv4() { host.largest_segment_v4 } else { host.largest_segment_v6 }
}

/// With its checksum still to be mended.
fn clamped<'a>(frame: &'a [u8], packet: &Packet, limit: u16) -> Rewrite<'a> {
    let Body::Tcp { syn, length, .. } = packet.body else { panic!("not TCP: {packet:?}") };
    let at = packet.transport;
    let mut rewrite = Rewrite::new(frame);
    if syn && let Some(option) = largest_segment(&frame[at + 20..at + length]) {
        let option = at + 20 + option;
        let size = u16::from_be_bytes([frame[option], frame[option + 1]]);
        rewrite.write(option, &size.min(limit).to_be_bytes());
    }
    rewrite
}

/// Where the number of the first MSS option stands, as Linux' `tcp_parse_options` walks: an
/// option that cannot be ends the walk. So does the eighth, which stays the limit of `edge`.
fn largest_segment(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    for _ in 0..8 {
        match options.get(at..)? {
            [1, ..] => at += 1,
            [0, ..] | [_] | [] => return None,
            [_, length, ..] if *length < 2 || at + usize::from(*length) > options.len() => {
                return None;
            }
            [2, 4, ..] => return Some(at + 2),
            [_, length, ..] => at += usize::from(*length),
        }
    }
    None
}

/// The RST that answers a SYN (RFC 9293, section 3.10.7.1), from a stack that keeps no state: it
/// acknowledges the SYN alone, and not what came with it.
pub(super) fn reset(frame: &[u8], packet: &Packet) -> Vec<u8> {
    let Body::Tcp { source, destination, sequence, .. } = packet.body else {
        panic!("not TCP: {packet:?}");
    };
    let link = Ethernet2HeaderSlice::from_slice(frame).expect("a frame that was read");
    let mut tcp = TcpHeader::new(destination, source, 0, 0);
    (tcp.rst, tcp.ack) = (true, true);
    tcp.acknowledgment_number = sequence.wrapping_add(1);
    let (ether_type, network) = match (packet.source, packet.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (source, destination) = (to.octets(), from.octets());
            let mut ip = Ipv4Header { source, destination, ..Ipv4Header::default() };
            (ip.time_to_live, ip.protocol, ip.dont_fragment) = (64, IpNumber::TCP, true);
            ip.set_payload_len(tcp.header_len()).expect("20 bytes");
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).expect("20 bytes");
            (ether_type::IPV4, ip.to_bytes().to_vec())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (to.octets(), from.octets());
            let mut ip = Ipv6Header { source, destination, ..Ipv6Header::default() };
            (ip.hop_limit, ip.next_header) = (64, IpNumber::TCP);
            ip.set_payload_length(tcp.header_len()).expect("20 bytes");
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).expect("20 bytes");
            (ether_type::IPV6, ip.to_bytes().to_vec())
        }
        _ => panic!("a packet of two families: {packet:?}"),
    };
    let (source, destination) = (link.destination(), link.source());
    let link = Ethernet2Header { source, destination, ether_type };
    [&link.to_bytes()[..], &network, &tcp.to_bytes()].concat()
}
