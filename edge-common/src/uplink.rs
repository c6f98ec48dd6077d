//! What comes in by an uplink: from the internet, or from another host.

use crate::{
    account::Lane,
    admit,
    carry::Way,
    decide::{Outcome, Passage, clamp, current, inside, unfit},
    from_host::{Arrival, brought},
    geneve,
    icmp::Quote,
    narrow,
    packet::{Headers, Packet, TCP, UDP},
    rewrite::{self, End},
    tables::{Settings, Tables, TunnelRow},
    verdict::Verdict,
};

/// A frame that came in by the uplink `ifindex`. Same answer in XDP and in TCX, but for what XDP
/// defers.
#[inline(always)]
pub fn uplink<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Outcome {
    match arriving(packet, tables, ifindex) {
        Ok(outcome) => outcome,
        Err(arrival) => brought(packet, tables, arrival),
    }
}

/// The first half of [`uplink`]: what becomes of a frame, unless another host brought it; then the
/// second half, [`brought`], says what becomes of the packet in it. In the kernel each half is a
/// function of its own: neither's stack has to fit beside the other's.
#[inline(always)]
pub fn arriving<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
) -> Result<Outcome, Arrival> {
    let headers = match Headers::parse(packet) {
        Ok(headers) => headers,
        Err(Verdict::NotIp) => return Ok(Outcome::pass(Verdict::NotOurs)),
        Err(verdict) => return Ok(Outcome::drop(verdict)),
    };
    let Some(settings) = current(tables) else {
        return Ok(Outcome::pass(Verdict::NotOurs));
    };
    // For most packets this is one comparison.
    if headers.protocol() == UDP
        && headers.destination_port() == geneve::PORT
        && geneve::is_ours(&headers, tables, settings)
    {
        return match geneve::open(packet, &headers, tables, settings, ifindex) {
            Ok(arrival) => Err(arrival),
            Err(verdict) => Ok(Outcome::drop(verdict)),
        };
    }
    let to_inside = inside(settings, &headers.destination);
    if to_inside || inside(settings, &headers.source) {
        return match Arrival::bare(&headers, tables, settings, ifindex) {
            Some(arrival) => Err(arrival),
            None if to_inside => Ok(Outcome::drop(Verdict::BareInner)),
            None => Ok(Outcome::drop(Verdict::ForgedSource)),
        };
    }
    if headers.is_mapped() {
        return Ok(Outcome::pass(Verdict::NotOurs));
    }
    if headers.protocol() == TCP {
        if let Some(row) = tables.tunnel(&headers.receiver()) {
            let outcome = match into_tunnel(packet, &headers, tables, settings, row) {
                Ok(outcome) => outcome,
                Err(verdict) => Outcome::drop(verdict),
            };
            return Ok(outcome.at(place(row, settings)));
        }
    } else if headers.is_icmp_error() {
        return Ok(error_from_outside(packet, &headers, tables, settings, ifindex));
    }
    Ok(Outcome::pass(Verdict::NotOurs))
}

/// Where a tunnel's packets are counted.
#[inline(always)]
const fn place(row: &TunnelRow, settings: &Settings) -> u32 {
    let lane = if row.host == 0 { Lane::Local } else { Lane::between(settings) };
    lane.of(row.account)
}

#[inline(always)]
fn into_tunnel<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    row: &TunnelRow,
) -> Result<Outcome, Verdict> {
    if let Some(verdict) = unfit(headers) {
        return Err(verdict);
    }
    if !headers.source.is_unicast() || headers.source == headers.destination {
        return Err(Verdict::ForgedSource);
    }
    // Before a token is taken: TCX is going to ask again.
    if row.host != 0 && !P::SENDS {
        return Ok(Outcome::deferred());
    }
    if row.flags != 0
        && let Some(verdict) = admit::refusal(headers, tables, row)
    {
        return Err(verdict);
    }
    if row.host != 0 {
        let way = match Way::to(packet, headers, tables, row.host) {
            Ok(way) => way,
            Err(refusal) => return Ok(refusal.into()),
        };
        towards_container(packet, headers, settings, row).ok_or(Verdict::Failed)?;
        let carried = way.carry(packet, headers, settings, Verdict::Tunnel);
        return Ok(inward(carried, row));
    }
    towards_container(packet, headers, settings, row).ok_or(Verdict::Failed)?;
    Ok(inward(Outcome::deliver(Verdict::Tunnel, row.ifindex, row.mac), row))
}

#[inline(always)]
fn towards_container<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
    row: &TunnelRow,
) -> Option<()> {
    clamp(packet, headers, settings)?;
    rewrite::tcp(packet, headers, End::Destination, &row.container)
}

#[inline(always)]
const fn inward(outcome: Outcome, row: &TunnelRow) -> Outcome {
    if outcome.verdict.is_refusal() {
        return outcome;
    }
    Outcome { passage: Passage::In, slot: row.slot, ..outcome }
}

/// Somebody on the way to a client, or the client, complains about a tunnel's reply; or the
/// underlay about what was carried to another host.
#[inline(always)]
fn error_from_outside<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    ifindex: u32,
) -> Outcome {
    if let Some(quote) = Quote::parse(packet, headers) {
        if quote.source.address == headers.destination
            && let Some(row) = tables.tunnel(&quote.source)
        {
            let outcome = relay_error(packet, headers, tables, settings, &quote, row);
            return outcome.at(place(row, settings));
        }
    } else if narrow::learn(packet, headers, tables, settings, ifindex).is_some() {
        return Outcome::pass(Verdict::IcmpError);
    }
    Outcome::pass(Verdict::NotOurs)
}

#[inline(always)]
fn relay_error<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    quote: &Quote,
    row: &TunnelRow,
) -> Outcome {
    if row.host == 0 {
        return match quote.rewrite(packet, headers, End::Source, &row.container) {
            Some(()) => Outcome::deliver(Verdict::IcmpError, row.ifindex, row.mac),
            None => Outcome::failed(),
        };
    }
    if !P::SENDS {
        return Outcome::deferred();
    }
    let way = match Way::to(packet, headers, tables, row.host) {
        Ok(way) => way,
        Err(refusal) => return refusal.into(),
    };
    match quote.rewrite(packet, headers, End::Source, &row.container) {
        Some(()) => way.carry(packet, headers, settings, Verdict::IcmpError),
        None => Outcome::failed(),
    }
}
