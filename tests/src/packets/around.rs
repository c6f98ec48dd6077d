//! What hosts put around a packet: outer IP, UDP and Geneve (RFC 8926), by `etherparse`.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};

use super::{
    build::ethernet,
    scene::{REGION, Region, UNDERLAY, UNDERLAY_V6},
};

/// UDP port of Geneve (IANA).
pub const GENEVE: u16 = 6081;

/// What is around a packet; everything may be another than a host would make it.
#[derive(Debug, Clone)]
pub struct Around {
    /// The outer sender.
    pub from: IpAddr,
    /// The outer receiver.
    pub to: IpAddr,
    /// The UDP port that tells flows apart.
    pub port: u16,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Version, length of the options in words.
    pub first: u8,
    /// Flags.
    pub flags: u8,
    /// The VNI.
    pub region: u32,
    /// The byte behind it.
    pub reserved: u8,
    /// The protocol that is inside, if it is not the packet's own.
    pub kind: Option<[u8; 2]>,
    /// The options.
    pub options: Vec<u8>,
}

impl Around {
    /// What a host of the region makes; `host` counts from 0, as addresses of the underlay do.
    pub fn new(from: usize, to: usize, v6: bool, port: u16, region: Region) -> Self {
        let ends = if v6 { UNDERLAY_V6 } else { UNDERLAY };
        let end = |index: usize| ends[index].parse().expect("an address");
        let plain = Self {
            from: end(from),
            to: end(to),
            port,
            traffic_class: 0,
            first: 0,
            flags: 0,
            region: REGION,
            reserved: 0,
            kind: None,
            options: Vec::new(),
        };
        if region == Region::Keyed { plain.keyed(Region::KEYS[0]) } else { plain }
    }

    /// With a key, as an option of the region's.
    #[must_use]
    pub fn keyed(self, key: [u8; 8]) -> Self {
        let options = [&[0xff, 0xed, 0x81, 2][..], &key].concat();
        Self { first: 3, flags: 0x40, options, ..self }
    }

    /// Bytes that it adds.
    pub fn size(&self) -> usize {
        let network = if self.from.is_ipv4() { 20 } else { 40 };
        network + UdpHeader::LEN + 8 + self.options.len()
    }

    /// A frame with this around its packet.
    pub fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        let [kind, inner] = [&frame[12..14], &frame[14..]];
        let kind = self.kind.map_or(kind.to_vec(), |kind| kind.to_vec());
        let [_, a, b, c] = self.region.to_be_bytes();
        let head = [self.first, self.flags, kind[0], kind[1], a, b, c, self.reserved];
        let geneve = [&head[..], &self.options].concat();
        let length = (UdpHeader::LEN + geneve.len() + inner.len()) as u16;
        let ports = (self.port, GENEVE);
        let udp =
            UdpHeader { source_port: ports.0, destination_port: ports.1, length, checksum: 0 };
        let datagram = [&udp.to_bytes()[..], &geneve, inner].concat();
        let mut wrapped = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut ip =
                    Ipv4Header::new(length, 64, IpNumber::UDP, from, to).expect("a short payload");
                ip.dont_fragment = true;
                let mut bytes = ip.to_bytes();
                bytes[1] = self.traffic_class;
                bytes[10..12].fill(0);
                let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes);
                let sum = sum.ones_complement().to_be().to_be_bytes();
                bytes[10..12].copy_from_slice(&sum);
                ethernet(0x0800, &[&bytes[..], &datagram].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: self.traffic_class,
                    payload_length: length,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                ethernet(0x86dd, &[&ip.to_bytes()[..], &datagram].concat())
            }
            _ => panic!("ends of two families"),
        };
        // Its own link header, whoever wrote that.
        wrapped[..12].copy_from_slice(&frame[..12]);
        wrapped
    }
}
