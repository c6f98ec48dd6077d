//! The egress of containers that have a proxy: to the gateway that serves their address, or
//! nowhere.

use crate::{
    carry,
    decide::{Action, Outcome},
    packet::{Headers, Packet, SYN, TCP},
    rewrite,
    tables::Tables,
    verdict::Verdict,
};

/// The headers of IPv4 and TCP without options (RFC 6691).
const HEADERS: u32 = 40;

/// Sends an IPv4 packet to the gateway, or says in `mtu` how much would have fitted. A SYN asks
/// for no larger segment than fits on the way back, which is the same way.
#[inline(always)]
pub(crate) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    mtu: &mut u32,
) -> Outcome {
    let Some(row) = tables.proxy(&headers.source) else {
        return Outcome::drop(Verdict::ProxyAway);
    };
    if row.ifindex == 0 {
        return Outcome::pass(Verdict::Proxied);
    }
    if carry::size(packet, headers) > row.mtu as usize {
        *mtu = row.mtu;
        return Outcome::drop(Verdict::TooBig);
    }
    let opens = headers.protocol() == TCP && !headers.later() && headers.flags() & SYN != 0;
    if opens && rewrite::clamp_mss(packet, headers, row.mtu.saturating_sub(HEADERS)).is_none() {
        return Outcome::failed();
    }
    Outcome { ifindex: row.ifindex, ..Outcome::new(Verdict::Proxied, Action::SendBare) }
}
