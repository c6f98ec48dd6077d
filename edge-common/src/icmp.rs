//! ICMP errors about a tunnel's packets: the quoted packet names the tunnel, so both the quote
//! and the outer address are rewritten (RFC 5508, section 4.2, for the same job in a NAT).

use crate::{
    address::{Address, Endpoint},
    checksum::Difference,
    packet::{Headers, Packet, TCP, read_v6},
    rewrite::{self, End},
};

/// The TCP packet that an ICMP error quotes, as far as eight bytes of its header tell.
#[derive(Clone, Copy)]
pub struct Quote {
    /// Its sender.
    pub source: Endpoint,
    /// Its receiver.
    pub destination: Endpoint,
    at: usize,
    transport: usize,
}

const ICMP_HEADER: usize = 8;

impl Quote {
    /// Reads the quote; `None` unless it is unfragmented TCP without IPv4 options or IPv6
    /// extension headers, which is all that a tunnel carries.
    #[inline(always)]
    pub fn parse<P: Packet>(packet: &P, headers: &Headers) -> Option<Self> {
        if headers.options() || headers.fragment() {
            return None;
        }
        let at = headers.transport + ICMP_HEADER;
        let (source, destination, transport) = if headers.v4() {
            let fixed = packet.read::<12>(at)?;
            let offset = u16::from_be_bytes([fixed[6], fixed[7]]);
            if fixed[0] != 0x45 || fixed[9] != TCP || offset & 0x3fff != 0 {
                return None;
            }
            let source = Address::v4(packet.read::<4>(at + 12)?);
            (source, Address::v4(packet.read::<4>(at + 16)?), at + 20)
        } else {
            let fixed = packet.read::<8>(at)?;
            if fixed[0] >> 4 != 6 || fixed[6] != TCP {
                return None;
            }
            (read_v6(packet, at + 8)?, read_v6(packet, at + 24)?, at + 40)
        };
        let ports = packet.read::<4>(transport)?;
        let source_port = u16::from_be_bytes([ports[0], ports[1]]).into();
        let destination_port = u16::from_be_bytes([ports[2], ports[3]]).into();
        Some(Self {
            source: Endpoint { address: source, port: source_port },
            destination: Endpoint { address: destination, port: destination_port },
            at,
            transport,
        })
    }

    /// The same quote after so many bytes before it were taken away.
    #[inline(always)]
    pub(crate) fn moved<P: Packet>(self, packet: &P, bytes: usize) -> Self {
        let moved = |at: usize| packet.forget((at - bytes) as u32) as usize;
        Self { at: moved(self.at), transport: moved(self.transport), ..self }
    }

    /// Rewrites one end of the quote, and the other end of the packet that carries it, to `new`.
    #[inline(always)]
    pub fn rewrite<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        quoted: End,
        new: &Endpoint,
    ) -> Option<()> {
        let (old, outer, outer_old) = match quoted {
            End::Source => (&self.source, End::Destination, &headers.destination),
            End::Destination => (&self.destination, End::Source, &headers.source),
        };
        let side = usize::from(matches!(quoted, End::Destination));
        let checksum = headers.transport + 2;

        let port = new.port as u16;
        packet.write(self.transport + 2 * side, port.to_be_bytes())?;
        let mut inner = Difference::NONE.half((old.port as u16).to_be(), port.to_be());
        if headers.v4() {
            // The quoted header's own checksum balances its address within the ICMP sum.
            let difference = Difference::NONE.word(old.address.words[3], new.address.words[3]);
            packet.write(self.at + 12 + 4 * side, new.address.words[3].to_ne_bytes())?;
            let sum = u16::from_ne_bytes(packet.read::<2>(self.at + 10)?);
            packet.write(self.at + 10, difference.apply(sum).to_ne_bytes())?;
        } else {
            let at = self.at + 8 + 16 * side;
            let address = rewrite::write_v6(packet, at, &old.address, &new.address)?;
            inner = inner.and(address);
        }
        packet.fix_checksum(checksum, inner, false, !headers.v4())?;

        let address = rewrite::address(packet, headers.v4(), outer, outer_old, &new.address)?;
        if headers.v4() {
            return Some(());
        }
        packet.fix_checksum(checksum, address, true, true)
    }
}
