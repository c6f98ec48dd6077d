//! Building frames with `etherparse`, whose checksums are computed whole and by other code than
//! the one under test.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset,
    IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
};

/// The MAC address that frames come from.
pub const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the interface that they reach.
pub const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// TCP flags.
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// A frame to be built; everything but the ends may be changed.
#[derive(Debug, Clone)]
pub struct Plan {
    source: SocketAddr,
    destination: SocketAddr,
    body: Body,
    payload: Vec<u8>,
    ip_options: Vec<u8>,
    fragment: Option<(u16, bool)>,
    extensions: Vec<(u8, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Body {
    Tcp { flags: u8, sequence: u32, acknowledged: u32, window: u16, options: Vec<u8> },
    Udp,
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
}

fn end(text: &str) -> SocketAddr {
    // ICMP has no ports: an address alone will do.
    text.parse().unwrap_or_else(|_| {
        let address: IpAddr = text.parse().expect("an end of a frame in a table");
        SocketAddr::new(address, 0)
    })
}

/// A TCP segment with a little payload, in the middle of a connection.
pub fn tcp(source: &str, destination: &str) -> Plan {
    let (flags, sequence, acknowledged) = (ACK, 0x8000_0001, 77);
    let body = Body::Tcp { flags, sequence, acknowledged, window: 512, options: Vec::new() };
    Plan::new(source, destination, body, b"payload")
}

/// A SYN without payload that carries these TCP options; padded to whole words.
pub fn syn(source: &str, destination: &str, options: &[u8]) -> Plan {
    tcp(source, destination).flags(SYN).acknowledged(0).options(options).payload(&[])
}

/// A SYN-ACK that carries these TCP options.
pub fn syn_ack(source: &str, destination: &str, options: &[u8]) -> Plan {
    tcp(source, destination).flags(SYN | ACK).options(options).payload(&[])
}

/// The TCP option that names a largest segment.
pub const fn mss(size: u16) -> [u8; 4] {
    let [high, low] = size.to_be_bytes();
    [2, 4, high, low]
}

/// A datagram.
pub fn udp(source: &str, destination: &str) -> Plan {
    Plan::new(source, destination, Body::Udp, b"datagram")
}

/// An ICMP or ICMPv6 message, by the family of its ends.
pub fn icmp(source: &str, destination: &str, kind: u8, code: u8, payload: &[u8]) -> Plan {
    let source_is_v4 = source.parse::<std::net::Ipv4Addr>().is_ok();
    // Fragmentation needed and packet too big carry the next hop's MTU, all others nothing.
    let mtu: u32 = match (source_is_v4, kind, code) {
        (true, 3, 4) | (false, 2, 0) => 1400,
        _ => 0,
    };
    let rest = mtu.to_be_bytes();
    Plan::new(source, destination, Body::Icmp { kind, code, rest }, payload)
}

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
    fn new(source: &str, destination: &str, body: Body, payload: &[u8]) -> Self {
        Self {
            source: end(source),
            destination: end(destination),
            body,
            payload: payload.to_vec(),
            ip_options: Vec::new(),
            fragment: None,
            extensions: Vec::new(),
        }
    }

    /// From somewhere else.
    #[must_use]
    pub fn from(self, source: &str) -> Self {
        Self { source: end(source), ..self }
    }

    /// To somewhere else.
    #[must_use]
    pub fn to(self, destination: &str) -> Self {
        Self { destination: end(destination), ..self }
    }

    /// With other TCP flags.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Body::Tcp { flags, .. } = &mut self.body {
            *flags = new;
        }
        self
    }

    /// With another sequence number.
    #[must_use]
    pub fn sequence(mut self, new: u32) -> Self {
        if let Body::Tcp { sequence, .. } = &mut self.body {
            *sequence = new;
        }
        self
    }

    /// With another acknowledgement number.
    #[must_use]
    pub fn acknowledged(mut self, new: u32) -> Self {
        if let Body::Tcp { acknowledged, .. } = &mut self.body {
            *acknowledged = new;
        }
        self
    }

    /// With another window.
    #[must_use]
    pub fn window(mut self, new: u16) -> Self {
        if let Body::Tcp { window, .. } = &mut self.body {
            *window = new;
        }
        self
    }

    /// With TCP options.
    #[must_use]
    pub fn options(mut self, new: &[u8]) -> Self {
        if let Body::Tcp { options, .. } = &mut self.body {
            *options = new.to_vec();
        }
        self
    }

    /// With another payload.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// With IPv4 options, in whole words.
    #[must_use]
    pub fn ip_options(self, options: &[u8]) -> Self {
        Self { ip_options: options.to_vec(), ..self }
    }

    /// As a fragment: where it begins, in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    /// With another IPv6 extension header of eight bytes, behind those it has.
    #[must_use]
    pub fn extension(mut self, kind: u8) -> Self {
        // A PadN option over all six bytes; a routing header reads it as an unknown type.
        self.extensions.push((kind, vec![1, 4, 0, 0, 0, 0]));
        self
    }

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
        Ipv4Header {
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
        let mut extensions: Vec<(u8, Vec<u8>)> = self
            .extensions
            .iter()
            .map(|(kind, bytes)| (*kind, [&[0], bytes.as_slice()].concat()))
            .collect();
        if let Some((offset, more)) = self.fragment {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            extensions
                .push((IpNumber::IPV6_FRAGMENTATION_HEADER.0, vec![0, high, low, 0, 0, 0, 9]));
        }
        let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([protocol.0]).collect();
        let header = Ipv6Header {
            payload_length: (extensions.len() * 8 + transport.len()) as u16,
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
