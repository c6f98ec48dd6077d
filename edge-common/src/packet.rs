//! Reading a frame's headers, by fixed-size reads that the verifier and a slice check alike.

use crate::{
    address::{Address, Endpoint},
    checksum::Difference,
    verdict::Verdict,
};

/// Bytes of a packet that every link with IPv6 carries (RFC 8200, section 5).
pub const LEAST_MTU_V6: u32 = 1280;

/// The bytes of one Ethernet frame: an XDP frame, an skb, or a slice in a test.
pub trait Packet {
    /// Whether its hook can send a frame on and turn it into an answer. XDP cannot: it leaves such
    /// frames to TCX, untouched ([`Verdict::Deferred`]).
    const SENDS: bool;

    /// `N` bytes at an offset from the start of the frame; `None` beyond its (linear) end. At
    /// least two: of a comparison that leaves one byte, the verifier learns nothing.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Overwrites `N` bytes.
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()>;

    /// Applies a difference to the TCP or ICMP checksum at an offset. `pseudo`: the difference
    /// is one of addresses, which a checksum left for the NIC to finish covers already.
    fn fix_checksum(
        &mut self,
        at: usize,
        difference: Difference,
        pseudo: bool,
        v6: bool,
    ) -> Option<()>;

    /// Applies two differences to one checksum: one of addresses (`pseudo`), one of what the
    /// checksum covers itself.
    #[inline(always)]
    fn fix_checksum_of_both(
        &mut self,
        at: usize,
        addresses: Difference,
        covered: Difference,
        v6: bool,
    ) -> Option<()> {
        self.fix_checksum(at, addresses, true, v6)?;
        self.fix_checksum(at, covered, false, v6)
    }

    /// The same value, of which the verifier knows nothing any more: what follows is then verified
    /// once, and not for each value that it may have.
    #[inline(always)]
    fn forget(&self, word: u32) -> u32 {
        word
    }

    /// Whether it carries a VLAN tag that its bytes do not show: the kernel keeps it beside them.
    fn is_tagged(&self) -> bool;

    /// Cuts the frame to a length.
    fn truncate(&mut self, len: usize) -> Option<()>;

    /// Bytes of the whole frame, the Ethernet header included.
    fn frame_len(&self) -> usize;

    /// Bytes of payload in each segment that the kernel will cut the frame into; 0 if it stays
    /// in one piece.
    fn segment(&self) -> usize;

    /// Makes room behind the Ethernet header for so many bytes; what they are is not said.
    fn make_room(&mut self, bytes: usize) -> Option<()>;

    /// The same for an outer IP header, a UDP header, and so many bytes of a tunnel's header.
    fn make_room_around(&mut self, v4: bool, tunnel: usize) -> Option<()>;

    /// Takes so many bytes away from behind the Ethernet header, which stays; what follows them
    /// is IPv4, else IPv6.
    fn take_away(&mut self, bytes: usize, v4: bool) -> Option<()>;
}

/// What the frame's headers say. Only the first fragment of a packet has ports.
///
/// What is small lies together in words, which the verifier forgets once they are read
/// ([`Packet::forget`]): what follows is then verified once, and not for each kind of packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Who sent it.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Where what follows all IP headers begins.
    pub transport: usize,
    /// See the methods.
    pub(crate) kind: u32,
    /// Source and destination.
    pub(crate) ports: u32,
}

/// In [`Headers::kind`], above the protocol, the TCP flags and the length of the TCP header.
const V4: u32 = 1 << 24;
const OPTIONS: u32 = 1 << 25;
const FRAGMENTED: u32 = 1 << 26;
const LATER: u32 = 1 << 27;

/// Where the network header begins: after an Ethernet header without tags.
pub const NETWORK: usize = 14;
/// What an Ethernet header says of IPv4.
pub(crate) const IPV4: [u8; 2] = [0x08, 0x00];
/// What an Ethernet header says of IPv6.
pub(crate) const IPV6: [u8; 2] = [0x86, 0xdd];
/// The TCP flags that begin and refuse connections.
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const RST: u8 = 0x04;
/// See [`SYN`].
pub const ACK: u8 = 0x10;

/// IANA protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Behind more extension headers than this nothing is read, so no tunnel is found.
const MAX_EXTENSIONS: usize = 4;

impl Headers {
    /// Reads the headers; `NotIp` or `Truncated` if there is no reading them.
    #[inline(always)]
    pub fn parse<P: Packet>(packet: &P) -> Result<Self, Verdict> {
        if packet.is_tagged() {
            return Err(Verdict::NotIp);
        }
        match packet.read::<2>(12) {
            Some(IPV4) => Self::parse_at(packet, NETWORK, true),
            Some(IPV6) => Self::parse_at(packet, NETWORK, false),
            Some(_) => Err(Verdict::NotIp),
            None => Err(Verdict::Truncated),
        }
    }

    /// Reads the headers of an IP packet that begins at an offset.
    #[inline(always)]
    pub(crate) fn parse_at<P: Packet>(packet: &P, at: usize, v4: bool) -> Result<Self, Verdict> {
        if v4 { Self::parse_v4(packet, at) } else { Self::parse_v6(packet, at) }
    }

    #[inline(always)]
    fn parse_v4<P: Packet>(packet: &P, at: usize) -> Result<Self, Verdict> {
        let [first, _] = packet.read::<2>(at).ok_or(Verdict::Truncated)?;
        let [high, low, _, protocol] = packet.read::<4>(at + 6).ok_or(Verdict::Truncated)?;
        let source = packet.read::<4>(at + 12).ok_or(Verdict::Truncated)?;
        let destination = packet.read::<4>(at + 16).ok_or(Verdict::Truncated)?;
        let length = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || length < 20 {
            return Err(Verdict::Truncated);
        }
        let offset = u16::from_be_bytes([high, low]);
        let mut kind = V4 | u32::from(protocol);
        if length > 20 {
            kind |= OPTIONS;
        }
        if offset & 0x3fff != 0 {
            kind |= FRAGMENTED;
        }
        if offset & 0x1fff != 0 {
            kind |= LATER;
        }
        let (source, destination) = (Address::v4(source), Address::v4(destination));
        Self { source, destination, transport: at + length, kind, ports: 0 }.read_on(packet)
    }

    #[inline(always)]
    fn parse_v6<P: Packet>(packet: &P, at: usize) -> Result<Self, Verdict> {
        let fixed = packet.read::<8>(at).ok_or(Verdict::Truncated)?;
        let source = read_v6(packet, at + 8).ok_or(Verdict::Truncated)?;
        let destination = read_v6(packet, at + 24).ok_or(Verdict::Truncated)?;
        if fixed[0] >> 4 != 6 {
            return Err(Verdict::Truncated);
        }
        let (mut protocol, mut transport, mut marks) = (fixed[6], at + 40, 0);
        for _ in 0..MAX_EXTENSIONS {
            match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let [next, words] = packet.read::<2>(transport).ok_or(Verdict::Truncated)?;
                    if protocol != HOP_BY_HOP {
                        marks |= OPTIONS;
                    }
                    protocol = next;
                    transport += (usize::from(words) + 1) * 8;
                }
                FRAGMENT => {
                    let [next, _, high, low] =
                        packet.read::<4>(transport).ok_or(Verdict::Truncated)?;
                    marks |= FRAGMENTED;
                    protocol = next;
                    transport += 8;
                    if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                        marks |= LATER;
                        break;
                    }
                }
                _ => break,
            }
        }
        let kind = marks | u32::from(protocol);
        Self { source, destination, transport, kind, ports: 0 }.read_on(packet)
    }

    /// Reads ports and flags, if this is not a later fragment.
    #[inline(always)]
    fn read_on<P: Packet>(mut self, packet: &P) -> Result<Self, Verdict> {
        if self.later() {
            return Ok(self.forgotten(packet));
        }
        match self.protocol() {
            TCP => {
                let header = packet.read::<20>(self.transport).ok_or(Verdict::Truncated)?;
                let length = usize::from(header[12] >> 4) * 4;
                if length < 20 || packet.read::<2>(self.transport + length - 2).is_none() {
                    return Err(Verdict::Truncated);
                }
                self.ports = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                self.kind |= u32::from(header[13]) << 8 | (length as u32) << 16;
            }
            UDP => {
                let ports = packet.read::<4>(self.transport).ok_or(Verdict::Truncated)?;
                self.ports = u32::from_be_bytes(ports);
            }
            ICMP | ICMPV6 => {
                let [kind, _] = packet.read::<2>(self.transport).ok_or(Verdict::Truncated)?;
                self.ports = kind.into();
            }
            _ => {}
        }
        Ok(self.forgotten(packet))
    }

    #[inline(always)]
    fn forgotten<P: Packet>(self, packet: &P) -> Self {
        let transport = packet.forget(self.transport as u32) as usize;
        let (kind, ports) = (packet.forget(self.kind), packet.forget(self.ports));
        Self { transport, kind, ports, ..self }
    }

    /// IPv4, else IPv6.
    #[inline(always)]
    pub const fn v4(&self) -> bool {
        self.kind & V4 != 0
    }

    /// What follows all IP headers (IANA protocol number).
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.kind as u8
    }

    /// IPv4 options or IPv6 extension headers (other than Hop-by-Hop, which BIG TCP adds).
    #[inline(always)]
    pub const fn options(&self) -> bool {
        self.kind & OPTIONS != 0
    }

    /// A fragment.
    #[inline(always)]
    pub const fn fragment(&self) -> bool {
        self.kind & FRAGMENTED != 0
    }

    /// A fragment, and not the first.
    #[inline(always)]
    pub const fn later(&self) -> bool {
        self.kind & LATER != 0
    }

    /// TCP and UDP, host byte order; 0 elsewhere.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// TCP and UDP, host byte order; for ICMP its type.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        self.ports as u16
    }

    /// TCP flags (RFC 9293, section 3.1), 0 elsewhere.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        (self.kind >> 8) as u8
    }

    /// Bytes of the TCP header, 0 elsewhere.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        (self.kind >> 16 & 0x3f) as usize
    }

    /// A SYN that asks for a connection, rather than answers one.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags() & (SYN | ACK) == SYN
    }

    /// A SYN that answers one.
    #[inline(always)]
    pub const fn accepts(&self) -> bool {
        self.flags() & (SYN | ACK) == SYN | ACK
    }

    /// The same headers after so many bytes before them were taken away.
    #[inline(always)]
    pub(crate) fn moved<P: Packet>(&self, packet: &P, bytes: usize) -> Self {
        // Of a difference the verifier knows only that it may be negative.
        let transport = packet.forget((self.transport - bytes) as u32) as usize;
        Self { transport, ..*self }
    }

    /// Who sent it, if it has ports.
    #[inline(always)]
    pub const fn sender(&self) -> Endpoint {
        Endpoint { address: self.source, port: self.source_port() as u32 }
    }

    /// Whom it is for, if it has ports.
    #[inline(always)]
    pub const fn receiver(&self) -> Endpoint {
        Endpoint { address: self.destination, port: self.destination_port() as u32 }
    }

    /// An IPv6 packet from or to an IPv4 address in IPv6's clothes. The tables hold IPv4 that way,
    /// but no wire carries it, and the kernel takes none: such a packet must not find their rows.
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        !self.v4() && (self.source.is_v4() || self.destination.is_v4())
    }

    /// An ICMP error that quotes the packet it is about: IPv4 destination unreachable, time
    /// exceeded, parameter problem (RFC 792); IPv6 types below 128 (RFC 4443, section 2.1).
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        match self.protocol() {
            ICMP => self.v4() && matches!(self.destination_port(), 3 | 11 | 12),
            ICMPV6 => !self.v4() && matches!(self.destination_port(), 1..=4),
            _ => false,
        }
    }
}

/// Reads the 16 bytes of an IPv6 address.
#[inline(always)]
pub fn read_v6<P: Packet>(packet: &P, at: usize) -> Option<Address> {
    let low = packet.read::<8>(at)?;
    let high = packet.read::<8>(at + 8)?;
    Some(Address::v6([
        u32::from_ne_bytes([low[0], low[1], low[2], low[3]]),
        u32::from_ne_bytes([low[4], low[5], low[6], low[7]]),
        u32::from_ne_bytes([high[0], high[1], high[2], high[3]]),
        u32::from_ne_bytes([high[4], high[5], high[6], high[7]]),
    ]))
}
