//! A frame's headers, one after the other, by `etherparse`.

use std::net::IpAddr;

use edge_common::verdict::Verdict;
use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

const ETHERNET: usize = 14;
/// IPv6 extension headers that are read.
const EXTENSIONS: usize = 4;
/// The longest header of any kind: an IPv6 extension header of 256 words.
const LONGEST: usize = 8 * 256;

/// What the headers of an IP packet say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) is_fragment: bool,
    /// And not the first.
    pub(super) is_later: bool,
    /// What the last header that was read says follows it.
    pub(super) protocol: IpNumber,
    /// IPv4 options, or IPv6 extension headers other than hop-by-hop and fragment.
    pub(super) has_options: bool,
    pub(super) transport: usize,
    pub(super) body: Body,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    Tcp {
        source: u16,
        destination: u16,
        sequence: u32,
        syn: bool,
        ack: bool,
        length: usize,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Icmp {
        kind: u8,
    },
    Icmpv6 {
        kind: u8,
    },
    /// Another protocol, or a later fragment, whose ports nobody knows.
    Other,
}

impl Packet {
    /// Reads a frame of which the first `reach` bytes can be seen. `NotIp` if it holds something
    /// else; `Truncated` if it ends before what it says it is can be told.
    pub(super) fn read(frame: &[u8], reach: usize) -> Result<Self, Verdict> {
        let cursor = Cursor::new(frame, reach);
        let link = cursor.at(0, ETHERNET)?;
        let link = Ethernet2HeaderSlice::from_slice(link).or(Err(Verdict::Truncated))?;
        match link.ether_type() {
            EtherType::IPV4 => Self::read_v4(&cursor),
            EtherType::IPV6 => Self::read_v6(&cursor),
            _ => Err(Verdict::NotIp),
        }
    }

    fn read_v4(cursor: &Cursor) -> Result<Self, Verdict> {
        let header =
            Ipv4HeaderSlice::from_slice(cursor.at(ETHERNET, 20)?).or(Err(Verdict::Truncated))?;
        let packet = Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            is_fragment: header.is_fragmenting_payload(),
            is_later: header.fragments_offset().value() != 0,
            protocol: header.protocol(),
            has_options: !header.options().is_empty(),
            transport: ETHERNET + header.slice().len(),
            body: Body::Other,
        };
        if header.fragments_offset().value() != 0 {
            return Ok(packet);
        }
        packet.with_body(cursor, header.protocol())
    }

    fn read_v6(cursor: &Cursor) -> Result<Self, Verdict> {
        let header =
            Ipv6HeaderSlice::from_slice(cursor.at(ETHERNET, 40)?).or(Err(Verdict::Truncated))?;
        let mut packet = Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            is_fragment: false,
            is_later: false,
            protocol: header.next_header(),
            has_options: false,
            transport: ETHERNET + 40,
            body: Body::Other,
        };
        let mut next = header.next_header();
        for _ in 0..EXTENSIONS {
            match next {
                IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_ROUTE_HEADER
                | IpNumber::IPV6_DESTINATION_OPTIONS => {
                    packet.has_options |= next != IpNumber::IPV6_HEADER_HOP_BY_HOP;
                    // Its first two bytes say where it ends.
                    let bytes = cursor.at(packet.transport, 2)?;
                    let extension =
                        Ipv6RawExtHeaderSlice::from_slice(bytes).or(Err(Verdict::Truncated))?;
                    next = extension.next_header();
                    packet.transport += extension.slice().len();
                }
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    // Its first four say which part of the packet this is.
                    let bytes = cursor.at(packet.transport, 4)?;
                    let fragment =
                        Ipv6FragmentHeaderSlice::from_slice(bytes).or(Err(Verdict::Truncated))?;
                    packet.is_fragment = true;
                    next = fragment.next_header();
                    packet.transport += fragment.slice().len();
                    packet.protocol = next;
                    if fragment.fragment_offset().value() != 0 {
                        packet.is_later = true;
                        return Ok(packet);
                    }
                }
                _ => break,
            }
        }
        packet.with_body(cursor, next)
    }

    fn with_body(mut self, cursor: &Cursor, protocol: IpNumber) -> Result<Self, Verdict> {
        self.protocol = protocol;
        self.body = match protocol {
            IpNumber::TCP => {
                let bytes = cursor.at(self.transport, 20)?;
                let header = TcpHeaderSlice::from_slice(bytes).or(Err(Verdict::Truncated))?;
                let length = header.slice().len();
                cursor.at(self.transport, length)?;
                Body::Tcp {
                    source: header.source_port(),
                    destination: header.destination_port(),
                    sequence: header.sequence_number(),
                    syn: header.syn(),
                    ack: header.ack(),
                    length,
                }
            }
            IpNumber::UDP => {
                // Its ports; the rest of the header is the receiver's to look at.
                let bytes = cursor.at(self.transport, 4)?;
                let header = UdpHeaderSlice::from_slice(bytes).or(Err(Verdict::Truncated))?;
                Body::Udp { source: header.source_port(), destination: header.destination_port() }
            }
            // Its type and code.
            IpNumber::ICMP => Body::Icmp { kind: cursor.at(self.transport, 2)?[0] },
            IpNumber::IPV6_ICMP => Body::Icmpv6 { kind: cursor.at(self.transport, 2)?[0] },
            _ => Body::Other,
        };
        Ok(self)
    }

    /// The port that it goes to and the one that it comes from; 0 if it has none.
    pub(super) fn ports(&self) -> (u16, u16) {
        match self.body {
            Body::Tcp { source, destination, .. } | Body::Udp { source, destination } => {
                (source, destination)
            }
            _ => (0, 0),
        }
    }

    /// A SYN that asks for a connection.
    pub(super) fn opens(&self) -> bool {
        matches!(self.body, Body::Tcp { syn: true, ack: false, .. })
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.body, Body::Tcp { .. })
    }

    /// IPv4 in IPv6's clothes at either end: no wire carries it.
    pub(super) fn is_mapped(&self) -> bool {
        [self.source, self.destination].iter().any(|end| *end != end.to_canonical())
    }
}

/// A frame that goes on with zeros, so that `etherparse` reads headers whose tail nobody needs:
/// whether the bytes that are needed are there is asked here.
struct Cursor {
    bytes: Vec<u8>,
    end: usize,
}

impl Cursor {
    fn new(frame: &[u8], reach: usize) -> Self {
        let end = frame.len().min(reach);
        let mut bytes = Vec::with_capacity(end + LONGEST);
        bytes.extend_from_slice(&frame[..end]);
        bytes.extend_from_slice(&[0; LONGEST]);
        Self { bytes, end }
    }

    /// The bytes from an offset on, of which so many are real.
    fn at(&self, at: usize, needed: usize) -> Result<&[u8], Verdict> {
        if at + needed > self.end { Err(Verdict::Truncated) } else { Ok(&self.bytes[at..]) }
    }
}
