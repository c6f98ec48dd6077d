//! IP packets in Geneve (RFC 8926) between hosts: no inner Ethernet header, VNI = region, and the
//! region's key as an option where the underlay is also the way to the internet.

use crate::{
    address::Address,
    checksum::{Difference, Sum},
    from_host::Arrival,
    hosts::{Path, PeerRow},
    packet::{Headers, IPV4, IPV6, NETWORK, Packet, UDP},
    tables::{Settings, Tables},
    verdict::Verdict,
};

/// The UDP port (IANA).
pub const PORT: u16 = 6081;
/// Flows are told apart by source ports from here on.
pub const FIRST_SOURCE_PORT: u16 = 49_152;
/// Bytes of the header without options.
pub const HEADER: usize = 8;
/// Bytes of the option that holds a key.
pub const KEY_OPTION: usize = 12;
/// How that option begins: a class for experiments (RFC 8926, section 7), a critical type, and
/// two words of data.
pub const KEY_OPTION_HEADER: [u8; 4] = [0xff, 0xed, 0x81, 2];

const KEY_OPTION_WORDS: u8 = KEY_OPTION as u8 / 4;
const UDP_HEADER: usize = 8;
const TTL: u8 = 64;
/// The header has critical options.
const CRITICAL: u8 = 0x40;
/// ECN: the underlay was congested (RFC 3168).
const CONGESTED: u8 = 3;

/// Bytes that are put around a packet.
#[inline(always)]
pub const fn overhead(v4: bool, keyed: bool) -> u32 {
    let network = if v4 { 20 } else { 40 };
    (network + UDP_HEADER + header(keyed)) as u32
}

#[inline(always)]
const fn header(keyed: bool) -> usize {
    HEADER + if keyed { KEY_OPTION } else { 0 }
}

/// Puts a packet into another to the far end of a way: outer TTL 64, not to be fragmented, DSCP
/// and ECN as inside (RFC 6040), no UDP checksum (RFC 6935). `None` if there is no room.
#[inline(never)]
pub(crate) fn wrap<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
    path: &Path,
    flow: u32,
) -> Option<()> {
    let traffic_class = traffic_class(packet, NETWORK, headers.v4())?;
    let keyed = settings.key_count > 0;
    let v4 = path.remote.is_v4();
    packet.make_room_around(v4, header(keyed))?;
    let length = packet.frame_len() - NETWORK;
    let transport = if v4 {
        packet.write(12, IPV4)?;
        write_v4(packet, traffic_class, length, path)?;
        NETWORK + 20
    } else {
        packet.write(12, IPV6)?;
        write_v6(packet, traffic_class, length - 40, path)?;
        NETWORK + 40
    };
    let datagram = short(length + NETWORK - transport);
    let port = (FIRST_SOURCE_PORT | flow as u16 & 0x3fff).to_be_bytes();
    let [high, low] = PORT.to_be_bytes();
    let [long, short] = datagram.to_be_bytes();
    packet.write(transport, [port[0], port[1], high, low, long, short, 0, 0])?;

    let [options, flags] = if keyed { [KEY_OPTION_WORDS, CRITICAL] } else { [0, 0] };
    let [high, low] = if headers.v4() { IPV4 } else { IPV6 };
    let [_, a, b, c] = settings.region.to_be_bytes();
    let at = transport + UDP_HEADER;
    packet.write(at, [options, flags, high, low, a, b, c, 0])?;
    if keyed {
        packet.write(at + HEADER, KEY_OPTION_HEADER)?;
        packet.write(at + HEADER + 4, settings.keys[0][0].to_ne_bytes())?;
        packet.write(at + HEADER + 8, settings.keys[0][1].to_ne_bytes())?;
    }
    Some(())
}

/// Type of service, or traffic class: DSCP and ECN.
#[inline(always)]
fn traffic_class<P: Packet>(packet: &P, at: usize, v4: bool) -> Option<u8> {
    let [first, second] = packet.read::<2>(at)?;
    Some(if v4 { second } else { first << 4 | second >> 4 })
}

/// What a length field says of a packet that the kernel will cut up, if it is longer.
#[inline(always)]
const fn short(length: usize) -> u16 {
    if length > 0xffff { 0xffff } else { length as u16 }
}

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, tos: u8, length: usize, path: &Path) -> Option<()> {
    let [high, low] = short(length).to_be_bytes();
    let (local, remote) = (path.local.last(), path.remote.last());
    let words = [
        u32::from_ne_bytes([0x45, tos, high, low]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([TTL, UDP, 0, 0]),
        local,
        remote,
    ];
    let [first, second] = words.into_iter().fold(Sum::ZERO, Sum::word).checksum();
    packet.write(NETWORK, [0x45, tos, high, low, 0, 0, 0x40, 0])?;
    packet.write(NETWORK + 8, [TTL, UDP, first, second])?;
    packet.write(NETWORK + 12, local.to_ne_bytes())?;
    packet.write(NETWORK + 16, remote.to_ne_bytes())
}

#[inline(always)]
fn write_v6<P: Packet>(packet: &mut P, class: u8, payload: usize, path: &Path) -> Option<()> {
    let [high, low] = short(payload).to_be_bytes();
    packet.write(NETWORK, [0x60 | class >> 4, class << 4, 0, 0, high, low, UDP, TTL])?;
    write_address(packet, NETWORK + 8, &path.local)?;
    write_address(packet, NETWORK + 24, &path.remote)
}

#[inline(always)]
fn write_address<P: Packet>(packet: &mut P, at: usize, address: &Address) -> Option<()> {
    packet.write(at, address.words[0].to_ne_bytes())?;
    packet.write(at + 4, address.words[1].to_ne_bytes())?;
    packet.write(at + 8, address.words[2].to_ne_bytes())?;
    packet.write(at + 12, address.words[3].to_ne_bytes())
}

/// Whether a packet to [`PORT`] is for this machine's own end of the region's tunnels.
#[inline(always)]
pub(crate) fn is_ours<T: Tables>(headers: &Headers, tables: &T, settings: &Settings) -> bool {
    settings.carriage == Settings::GENEVE
        && !headers.is_mapped()
        && matches!(tables.peer(&headers.destination), Some(row) if row.flags & PeerRow::OWN != 0)
}

/// Reads what another host put around a packet. Nothing is changed.
#[inline(always)]
pub(crate) fn open<P: Packet, T: Tables>(
    packet: &P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    ifindex: u32,
) -> Result<Arrival, Verdict> {
    if tables.underlay(ifindex).is_none() {
        return Err(Verdict::NotUnderlay);
    }
    let peer = tables.peer(&headers.source).ok_or(Verdict::NotPeer)?;
    if peer.flags & PeerRow::OWN != 0 {
        return Err(Verdict::NotPeer);
    }
    // Not even Hop-by-Hop.
    let network = if headers.v4() { 20 } else { 40 };
    if headers.fragment() || headers.transport != NETWORK + network {
        return Err(Verdict::BadEncapsulation);
    }
    let at = headers.transport + UDP_HEADER;
    let header = packet.read::<8>(at).ok_or(Verdict::BadEncapsulation)?;
    let keyed = match [header[0], header[1]] {
        [0, 0] => false,
        [KEY_OPTION_WORDS, CRITICAL] => true,
        _ => return Err(Verdict::BadEncapsulation),
    };
    let v4 = [header[2], header[3]] == IPV4;
    let is_ip = v4 || [header[2], header[3]] == IPV6;
    let is_key = !keyed || packet.read::<4>(at + HEADER) == Some(KEY_OPTION_HEADER);
    if !is_ip || !is_key || header[7] != 0 {
        return Err(Verdict::BadEncapsulation);
    }
    if u32::from_be_bytes([0, header[4], header[5], header[6]]) != settings.region {
        return Err(Verdict::OtherRegion);
    }
    if settings.key_count > 0 && !(keyed && has_key(packet, at + HEADER + 4, settings)) {
        return Err(Verdict::WrongKey);
    }
    let class = traffic_class(packet, NETWORK, headers.v4()).ok_or(Verdict::BadEncapsulation)?;
    let congested = class & CONGESTED == CONGESTED;
    let gateway = peer.flags & PeerRow::GATEWAY != 0;
    let at = at + self::header(keyed);
    Ok(Arrival::new(peer.host, at, v4, congested, gateway))
}

#[inline(always)]
fn has_key<P: Packet>(packet: &P, at: usize, settings: &Settings) -> bool {
    let (Some(first), Some(second)) = (packet.read::<4>(at), packet.read::<4>(at + 4)) else {
        return false;
    };
    let key = [u32::from_ne_bytes(first), u32::from_ne_bytes(second)];
    key == settings.keys[0] || settings.key_count > 1 && key == settings.keys[1]
}

/// Takes away what is around a packet, and leaves in it what the underlay said of congestion
/// (RFC 6040, section 4.2). `None` if it cannot be done.
#[inline(always)]
pub(crate) fn unwrap<P: Packet>(packet: &mut P, arrival: Arrival) -> Option<()> {
    if arrival.congested() {
        congest(packet, arrival.at(), arrival.v4())?;
    }
    packet.take_away(arrival.around(), arrival.v4())?;
    packet.write(12, if arrival.v4() { IPV4 } else { IPV6 })
}

/// Whether a packet's sender said that it minds congestion. Others' are dropped, not marked.
#[inline(always)]
pub(crate) fn minds_congestion<P: Packet>(packet: &P, at: usize, v4: bool) -> bool {
    matches!(traffic_class(packet, at, v4), Some(class) if class & CONGESTED != 0)
}

#[inline(always)]
fn congest<P: Packet>(packet: &mut P, at: usize, v4: bool) -> Option<()> {
    let [first, second] = packet.read::<2>(at)?;
    if !v4 {
        return packet.write(at, [first, second | CONGESTED << 4]);
    }
    let new = [first, second | CONGESTED];
    let difference =
        Difference::NONE.half(u16::from_ne_bytes([first, second]), u16::from_ne_bytes(new));
    packet.write(at, new)?;
    let checksum = u16::from_ne_bytes(packet.read::<2>(at + 10)?);
    packet.write(at + 10, difference.apply(checksum).to_ne_bytes())
}
