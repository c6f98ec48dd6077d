//! What a frame in a table is made of; `build` turns it into bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) body: Body,
    pub(super) payload: Vec<u8>,
    pub(super) ip_options: Vec<u8>,
    pub(super) fragment: Option<(u16, bool)>,
    pub(super) traffic_class: u8,
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
}

/// What an IP packet carries.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the headers' own")]
pub enum Body {
    /// A segment; options are padded to whole words.
    Tcp { flags: u8, sequence: u32, acknowledged: u32, window: u16, options: Vec<u8> },
    /// A datagram.
    Udp,
    /// A message of the family of its ends, with the second word of its header.
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
    let source_is_v4 = source.parse::<Ipv4Addr>().is_ok();
    // Fragmentation needed and packet too big carry the next hop's MTU, all others nothing.
    let mtu: u32 = match (source_is_v4, kind, code) {
        (true, 3, 4) | (false, 2, 0) => 1400,
        _ => 0,
    };
    let rest = mtu.to_be_bytes();
    Plan::new(source, destination, Body::Icmp { kind, code, rest }, payload)
}

impl Plan {
    fn new(source: &str, destination: &str, body: Body, payload: &[u8]) -> Self {
        Self::between(end(source), end(destination), body, payload)
    }

    /// Between any two ends; if only one is IPv4, it is mapped into IPv6.
    pub fn between(
        source: SocketAddr,
        destination: SocketAddr,
        body: Body,
        payload: &[u8],
    ) -> Self {
        Self {
            source,
            destination,
            body,
            payload: payload.to_vec(),
            ip_options: Vec::new(),
            fragment: None,
            traffic_class: 0,
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

    /// An ICMP message with another second word: the next hop's MTU.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        if let Body::Icmp { rest, .. } = &mut self.body {
            *rest = mtu.to_be_bytes();
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

    /// With DSCP and ECN.
    #[must_use]
    pub fn traffic_class(self, traffic_class: u8) -> Self {
        Self { traffic_class, ..self }
    }

    /// As a fragment: where it begins, in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    /// With another IPv6 extension header of eight bytes, behind those it has.
    #[must_use]
    pub fn extension(self, kind: u8) -> Self {
        self.long_extension(kind, 1)
    }

    /// With another IPv6 extension header of so many times eight bytes.
    #[must_use]
    pub fn long_extension(mut self, kind: u8, words: u8) -> Self {
        // A PadN option over all six bytes; a routing header reads it as an unknown type.
        let mut bytes = vec![words - 1, 1, 4, 0, 0, 0, 0];
        bytes.resize(usize::from(words) * 8 - 1, 0);
        self.extensions.push((kind, bytes));
        self
    }
}
