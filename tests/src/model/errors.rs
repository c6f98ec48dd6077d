//! ICMP errors (RFC 792; RFC 4443, section 2.1), which name a tunnel by the packet they quote.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, icmpv4, icmpv6};

use super::{
    read::{Body, Packet},
    rewrite::{End, Rewrite},
    sums::{Sum, bytes, covered},
};

const ICMP_HEADER: usize = 8;

/// The TCP packet that an error is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quote {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    network: usize,
    transport: usize,
}

/// Whether a packet is an error of its own family that quotes another.
pub(super) fn is_error(packet: &Packet) -> bool {
    match packet.body {
        Body::Icmp { kind } => {
            let kinds = [
                icmpv4::TYPE_DEST_UNREACH,
                icmpv4::TYPE_TIME_EXCEEDED,
                icmpv4::TYPE_PARAMETER_PROBLEM,
            ];
            packet.source.is_ipv4() && kinds.contains(&kind)
        }
        Body::Icmpv6 { kind } => {
            let kinds = [
                icmpv6::TYPE_DST_UNREACH,
                icmpv6::TYPE_PACKET_TOO_BIG,
                icmpv6::TYPE_TIME_EXCEEDED,
                icmpv6::TYPE_PARAMETER_PROBLEM,
            ];
            packet.source.is_ipv6() && kinds.contains(&kind)
        }
        _ => false,
    }
}

/// The quote, if the error is whole and plain, and if what it quotes is what a tunnel carries:
/// TCP, in one piece, right behind an IP header without options.
pub(super) fn quote(frame: &[u8], reach: usize, packet: &Packet) -> Option<Quote> {
    if !is_error(packet) || packet.has_options || packet.is_fragment {
        return None;
    }
    let seen = &frame[..frame.len().min(reach)];
    let network = packet.transport + ICMP_HEADER;
    let quoted = seen.get(network..)?;
    let (source, destination, length): (IpAddr, IpAddr, _) = if packet.source.is_ipv4() {
        let header = Ipv4HeaderSlice::from_slice(quoted).ok()?;
        let is_plain = header.ihl() == 5 && !header.is_fragmenting_payload();
        if !is_plain || header.protocol() != IpNumber::TCP {
            return None;
        }
        (header.source_addr().into(), header.destination_addr().into(), 20)
    } else {
        let header = Ipv6HeaderSlice::from_slice(quoted).ok()?;
        if header.next_header() != IpNumber::TCP {
            return None;
        }
        (header.source_addr().into(), header.destination_addr().into(), 40)
    };
    let [a, b, c, d] = *quoted[length..].first_chunk()?;
    Some(Quote {
        source: (source, u16::from_be_bytes([a, b])),
        destination: (destination, u16::from_be_bytes([c, d])),
        network,
        transport: network + length,
    })
}

/// The error with another end of what it quotes, and with the opposite end of its own.
pub(super) fn rewritten<'a>(
    frame: &'a [u8],
    packet: &Packet,
    quote: &Quote,
    quoted: End,
    address: IpAddr,
    port: u16,
) -> Rewrite<'a> {
    let mut rewrite = Rewrite::new(frame);
    let second = usize::from(quoted == End::Destination);
    rewrite.write(quote.transport + 2 * second, &port.to_be_bytes());
    let covers = covered(frame, packet.transport, quote.transport + 4);
    let mut sum = Sum { at: packet.transport + 2, covers, pseudo: None };
    if address.is_ipv4() {
        rewrite.write(quote.network + 12 + 4 * second, &bytes(address));
        let covers = quote.network..quote.transport;
        rewrite.carry(&Sum { at: quote.network + 10, covers, pseudo: None });
    } else {
        rewrite.write(quote.network + 8 + 16 * second, &bytes(address));
        sum.pseudo = Some(IpNumber::IPV6_ICMP.0);
    }
    let own = if quoted == End::Source { End::Destination } else { End::Source };
    rewrite.address(own, address);
    rewrite.carry(&sum);
    rewrite
}
