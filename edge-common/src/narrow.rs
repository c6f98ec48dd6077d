//! Ways that carry less than the hosts think: what the underlay says of them, by ICMP errors
//! about what was carried between hosts.

use crate::{
    address::Address,
    geneve,
    hosts::{HostRow, PathMtu, PeerRow},
    packet::{Headers, ICMP, LEAST_MTU_V6, Packet, UDP, read_v6},
    tables::{Settings, Tables},
};

/// How long it is believed, in nanoseconds: ten minutes, as RFC 1981 and its kin have it.
const BELIEVED: u64 = 600_000_000_000;
/// What every IPv4 host takes (RFC 791).
const LEAST_V4: u32 = 576;

/// Bytes of the largest packet between containers that the way to a host carries now.
#[inline(always)]
pub(crate) fn limit<T: Tables>(tables: &T, host: u32, row: &HostRow, v4: bool) -> u32 {
    let Some(learnt) = tables.path_mtu(host) else { return row.mtu };
    if learnt.mtu >= row.mtu || learnt.until <= tables.now() {
        return row.mtu;
    }
    let least = if v4 { LEAST_V4 } else { LEAST_MTU_V6 };
    if learnt.mtu < least { least } else { learnt.mtu }
}

/// Remembers what "fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC 4443,
/// section 3.2) say about a packet that this machine carried to another; `None` if the error is
/// about something else.
#[inline(always)]
pub(crate) fn learn<P: Packet, T: Tables>(
    packet: &P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    ifindex: u32,
) -> Option<()> {
    let kind = headers.destination_port();
    if settings.carriage != Settings::GENEVE || headers.fragment() || headers.options() {
        return None;
    }
    let icmp = packet.read::<8>(headers.transport)?;
    let mtu = match (headers.protocol(), kind, icmp[1]) {
        (ICMP, 3, 4) => u32::from(u16::from_be_bytes([icmp[6], icmp[7]])),
        (ICMP, ..) => return None,
        (_, 2, _) => u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]),
        _ => return None,
    };
    // Whatever the compiler concludes from the reads above, the verifier may have forgotten.
    let at = packet.forget(headers.transport as u32 + 8) as usize;
    let (source, destination) = carried(packet, at, headers.v4())?;
    if source != headers.destination || tables.peer(&source)?.flags & PeerRow::OWN == 0 {
        return None;
    }
    let peer = tables.peer(&destination)?;
    tables.underlay(ifindex)?;
    if peer.flags & PeerRow::OWN != 0 {
        return None;
    }
    let mtu = mtu.saturating_sub(geneve::overhead(headers.v4(), settings.key_count > 0));
    let mtu = if mtu < LEAST_V4 { LEAST_V4 } else { mtu };
    let until = tables.now() + BELIEVED;
    tables.learn_path_mtu(peer.host, PathMtu { until, mtu, reserved: 0 });
    Some(())
}

/// Between whom a quoted packet went, if it is one that was carried between hosts. A quote may end
/// eight bytes behind its IP header.
#[inline(always)]
fn carried<P: Packet>(packet: &P, at: usize, v4: bool) -> Option<(Address, Address)> {
    let (source, destination, transport) = if v4 {
        let fixed = packet.read::<12>(at)?;
        if fixed[0] != 0x45 || fixed[9] != UDP {
            return None;
        }
        let source = Address::v4(packet.read::<4>(at + 12)?);
        (source, Address::v4(packet.read::<4>(at + 16)?), at + 20)
    } else {
        let fixed = packet.read::<8>(at)?;
        if fixed[0] >> 4 != 6 || fixed[6] != UDP {
            return None;
        }
        (read_v6(packet, at + 8)?, read_v6(packet, at + 24)?, at + 40)
    };
    let ports = packet.read::<4>(transport)?;
    let port = u16::from_be_bytes([ports[2], ports[3]]);
    (port == geneve::PORT).then_some((source, destination))
}
