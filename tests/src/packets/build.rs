//! Building frames with `etherparse`, whose checksums are computed whole and by other code than
//! the one under test.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset,
    IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
};

use super::plan::{ACK, Body, FIN, Plan, RST, SYN};

/// The MAC address that frames come from.
pub const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the interface that they reach.
pub const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame of another kind than IP.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: FROM, destination: TO, ether_type: EtherType(kind) };
    [&header.to_bytes()[..], payload].concat()
}

/// A frame with an 802.1Q tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &vlan.to_be_bytes(), &frame[12..]].concat()
}

impl Plan {
    /// The whole frame, all checksums right.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (protocol, transport) =
                    self.transport_v4(source.octets(), destination.octets());
                frame.extend(ethernet(0x0800, &[]));
                let header = self.ipv4(protocol, source.octets(), destination.octets());
                let mut header = Ipv4Header { total_len: 0, ..header };
                header.set_payload_len(transport.len()).expect("a short payload");
                header.header_checksum = header.calc_header_checksum();
                frame.extend(&header.to_bytes()[..]);
                frame.extend(transport);
            }
            (source, destination) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                self.build_v6(&mut frame, octets(source), octets(destination));
            }
        }
        frame
    }

    /// The whole frame as `edge` itself makes it: back to its sender, with a header of its own.
    pub fn answer(&self) -> Vec<u8> {
        let mut frame = self.build();
        frame[..6].copy_from_slice(&FROM);
        frame[6..12].copy_from_slice(&TO);
        if self.source.is_ipv4() {
            let (header, _) = Ipv4Header::from_slice(&frame[14..]).expect("a header just built");
            let mut header = Ipv4Header { identification: 0, time_to_live: 64, ..header };
            header.header_checksum = header.calc_header_checksum();
            frame[14..34].copy_from_slice(&header.to_bytes());
        } else {
            frame[21] = 64;
        }
        frame
    }

    /// Its first bytes from the IP header on, as an ICMP error quotes them: a TCP header's first
    /// `transport` bytes are part of them.
    pub fn quote(&self, transport: usize) -> Vec<u8> {
        let frame = self.build();
        let network = if self.source.is_ipv4() { 20 } else { 40 };
        frame[14..14 + network + transport].to_vec()
    }

    fn ipv4(&self, protocol: IpNumber, source: [u8; 4], destination: [u8; 4]) -> Ipv4Header {
        let (offset, more) = self.fragment.unwrap_or_default();
        let (dscp, ecn) = (self.traffic_class >> 2, self.traffic_class & 3);
        Ipv4Header {
            dscp: dscp.try_into().expect("six bits"),
            ecn: ecn.try_into().expect("two bits"),
            identification: 0x1234,
            dont_fragment: self.fragment.is_none(),
            more_fragments: more,
            fragment_offset: IpFragOffset::try_new(offset).expect("an offset of 13 bits"),
            time_to_live: 61,
            protocol,
            source,
            destination,
            options: self.ip_options.as_slice().try_into().expect("options in whole words"),
            ..Ipv4Header::default()
        }
    }

    fn transport_v4(&self, source: [u8; 4], destination: [u8; 4]) -> (IpNumber, Vec<u8>) {
        match &self.body {
            Body::Tcp { .. } => {
                let mut header = self.tcp_header();
                header.checksum = header
                    .calc_checksum_ipv4_raw(source, destination, &self.payload)
                    .expect("a short payload");
                (IpNumber::TCP, [&header.to_bytes()[..], &self.payload].concat())
            }
            Body::Udp => {
                let ip = self.ipv4(IpNumber::UDP, source, destination);
                let (from, to) = (self.source.port(), self.destination.port());
                let header = UdpHeader::with_ipv4_checksum(from, to, &ip, &self.payload)
                    .expect("a short payload");
                (IpNumber::UDP, [&header.to_bytes()[..], &self.payload].concat())
            }
            Body::Icmp { kind, code, rest } => {
                let kind = Icmpv4Type::Unknown { type_u8: *kind, code_u8: *code, bytes5to8: *rest };
                let header = Icmpv4Header::with_checksum(kind, &self.payload);
                (IpNumber::ICMP, [&header.to_bytes()[..], &self.payload].concat())
            }
        }
    }

    fn build_v6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let (protocol, transport) = self.transport_v6(source, destination);
        let mut extensions = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            extensions
                .push((IpNumber::IPV6_FRAGMENTATION_HEADER.0, vec![0, high, low, 0, 0, 0, 9]));
        }
        let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([protocol.0]).collect();
        let extended: usize = extensions.iter().map(|(_, bytes)| bytes.len() + 1).sum();
        let header = Ipv6Header {
            traffic_class: self.traffic_class,
            payload_length: (extended + transport.len()) as u16,
            next_header: IpNumber(kinds[0]),
            hop_limit: 61,
            source,
            destination,
            ..Ipv6Header::default()
        };
        frame.extend(ethernet(0x86dd, &header.to_bytes()));
        for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
            frame.push(*next);
            frame.extend(bytes);
        }
        frame.extend(transport);
    }

    fn transport_v6(&self, source: [u8; 16], destination: [u8; 16]) -> (IpNumber, Vec<u8>) {
        match &self.body {
            Body::Tcp { .. } => {
                let mut header = self.tcp_header();
                header.checksum = header
                    .calc_checksum_ipv6_raw(source, destination, &self.payload)
                    .expect("a short payload");
                (IpNumber::TCP, [&header.to_bytes()[..], &self.payload].concat())
            }
            Body::Udp => {
                let ip = Ipv6Header { source, destination, ..Ipv6Header::default() };
                let (from, to) = (self.source.port(), self.destination.port());
                let header = UdpHeader::with_ipv6_checksum(from, to, &ip, &self.payload)
                    .expect("a short payload");
                (IpNumber::UDP, [&header.to_bytes()[..], &self.payload].concat())
            }
            Body::Icmp { kind, code, rest } => {
                let kind = Icmpv6Type::Unknown { type_u8: *kind, code_u8: *code, bytes5to8: *rest };
                let header = Icmpv6Header::with_checksum(kind, source, destination, &self.payload)
                    .expect("a short payload");
                (IpNumber::IPV6_ICMP, [&header.to_bytes()[..], &self.payload].concat())
            }
        }
    }

    fn tcp_header(&self) -> TcpHeader {
        let Body::Tcp { flags, sequence, acknowledged, window, options } = &self.body else {
            panic!("not a TCP segment");
        };
        let (from, to) = (self.source.port(), self.destination.port());
        let mut header = TcpHeader::new(from, to, *sequence, *window);
        header.acknowledgment_number = *acknowledged;
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.ack = flags & ACK != 0;
        header.set_options_raw(options).expect("at most 40 bytes of options");
        header
    }
}
