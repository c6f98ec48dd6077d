//! What another host of the region brings: a packet between containers, or a tunnel's. The host
//! is known, by the outer addresses or, in a region without encapsulation, by the inner source.

use crate::{
    account::{Lane, NOBODY},
    address::Address,
    cluster,
    decide::{Outcome, Passage, block_owner, clamp, current, inside, outward, unfit},
    geneve,
    hosts::HostRow,
    icmp::Quote,
    packet::{Headers, NETWORK, Packet, TCP},
    rewrite::{self, End},
    tables::{AddressRow, ForwardRow, Settings, Tables},
    verdict::Verdict,
};

/// Who brought a packet, and where in the frame it is: one word, so that it fits a register.
#[derive(Clone, Copy, Debug)]
pub struct Arrival(pub u32);

impl Arrival {
    /// The packet is IPv4, else IPv6.
    const V4: u32 = 1 << 24;
    /// The underlay was congested.
    const CONGESTED: u32 = 1 << 25;
    /// May bring packets of clients and of its relay.
    const GATEWAY: u32 = 1 << 26;

    /// `host` is 0 for a gateway that nothing names, `at` where the packet's IP header begins.
    #[inline(always)]
    pub(crate) const fn new(
        host: u32,
        at: usize,
        v4: bool,
        congested: bool,
        gateway: bool,
    ) -> Self {
        let flags = if v4 { Self::V4 } else { 0 }
            | if congested { Self::CONGESTED } else { 0 }
            | if gateway { Self::GATEWAY } else { 0 };
        Self(flags | (at as u32 & 0xff) << 16 | host & 0xffff)
    }

    #[inline(always)]
    pub(crate) const fn host(self) -> u32 {
        self.0 & 0xffff
    }

    /// Where the packet's IP header begins.
    #[inline(always)]
    pub(crate) const fn at(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    #[inline(always)]
    pub(crate) const fn v4(self) -> bool {
        self.0 & Self::V4 != 0
    }

    #[inline(always)]
    pub(crate) const fn congested(self) -> bool {
        self.0 & Self::CONGESTED != 0
    }

    #[inline(always)]
    const fn gateway(self) -> bool {
        self.0 & Self::GATEWAY != 0
    }

    /// Bytes between the Ethernet header and the packet.
    #[inline(always)]
    pub(crate) const fn around(self) -> usize {
        self.at() - NETWORK
    }

    /// How it came.
    #[inline(always)]
    const fn lane(self) -> Lane {
        if self.around() == 0 { Lane::Direct } else { Lane::Encapsulated }
    }

    /// A packet that came as it is, if this region's do, by an interface of the underlay: the
    /// source names the host, and only that underlay's own filtering says that it is true.
    #[inline(always)]
    pub(crate) fn bare<T: Tables>(
        headers: &Headers,
        tables: &T,
        settings: &Settings,
        ifindex: u32,
    ) -> Option<Self> {
        if settings.carriage != Settings::DIRECT || headers.is_mapped() {
            return None;
        }
        tables.underlay(ifindex)?;
        if !inside(settings, &headers.source) {
            return Some(Self::new(0, NETWORK, headers.v4(), false, true));
        }
        let owner = if headers.v4() {
            block_owner(tables, settings, &headers.source)
        } else {
            Some(headers.source.host())
        };
        let row = owner.and_then(|owner| tables.host(owner));
        // Whom nobody knows is like this machine itself: nobody is it.
        let (host, gateway) = match (owner, row) {
            (Some(host), Some(row)) => (host, row.flags & HostRow::GATEWAY != 0),
            _ => (settings.host, false),
        };
        Some(Self::new(host, NETWORK, headers.v4(), false, gateway))
    }
}

/// What becomes of a packet that another host brought: the second half of
/// [`crate::decide::uplink`].
#[inline(always)]
pub fn brought<P: Packet, T: Tables>(packet: &mut P, tables: &T, arrival: Arrival) -> Outcome {
    let mut account = NOBODY;
    let outcome = judge(packet, tables, arrival, &mut account);
    outcome.at(arrival.lane().of(account))
}

/// The same; into `account` is put whose packet it is.
#[inline(always)]
fn judge<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    arrival: Arrival,
    account: &mut u32,
) -> Outcome {
    let headers = match Headers::parse_at(packet, arrival.at(), arrival.v4()) {
        Ok(headers) => headers,
        Err(verdict) => return Outcome::drop(verdict),
    };
    let Some(settings) = current(tables) else {
        return Outcome::drop(Verdict::Unconfigured);
    };
    if headers.is_mapped() {
        return Outcome::drop(Verdict::ForgedSource);
    }
    if arrival.congested() && !geneve::minds_congestion(packet, arrival.at(), arrival.v4()) {
        return Outcome::drop(Verdict::BadEncapsulation);
    }
    let from_inside = inside(settings, &headers.source);
    if from_inside && !is_its_own(&headers.source, tables, settings, arrival) {
        return Outcome::drop(Verdict::ForgedSource);
    }
    if !inside(settings, &headers.destination) {
        return if from_inside {
            to_client(packet, &headers, tables, settings, arrival, account)
        } else {
            Outcome::drop(Verdict::ForgedSource)
        };
    }
    let outcome = if from_inside && headers.v4() {
        relayed(&headers, tables, settings, arrival, account)
    } else if from_inside {
        between_containers(&headers, tables, settings, account)
    } else {
        from_client(packet, &headers, tables, arrival, account)
    };
    if outcome.verdict.is_refusal() || open(packet, arrival).is_some() {
        return outcome;
    }
    Outcome::failed()
}

/// Whether an address is one of the host that the packet is from.
#[inline(always)]
fn is_its_own<T: Tables>(
    source: &Address,
    tables: &T,
    settings: &Settings,
    arrival: Arrival,
) -> bool {
    let owner = if source.is_v4() {
        block_owner(tables, settings, source)
    } else if source.region() == settings.region {
        Some(source.host())
    } else {
        None
    };
    owner == Some(arrival.host()) && owner != Some(settings.host)
}

/// From a container elsewhere to one here.
#[inline(always)]
fn between_containers<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    account: &mut u32,
) -> Outcome {
    let (from, to) = (&headers.source, &headers.destination);
    if to.region() != settings.region {
        return Outcome::drop(Verdict::OtherRegion);
    }
    let Some(receiver) = tables.address(to) else {
        return Outcome::drop(Verdict::NoSuchContainer);
    };
    *account = receiver.account;
    if from.workspace() != to.workspace() || from.workspace() != receiver.workspace {
        return Outcome::drop(Verdict::OtherWorkspace);
    }
    if receiver.flags & AddressRow::I6PN == 0 {
        return Outcome::drop(Verdict::NoI6pn);
    }
    Outcome::deliver(Verdict::I6pn, receiver.ifindex, receiver.mac)
}

/// From a container elsewhere to one here, by IPv4.
#[inline(always)]
fn between_members<T: Tables>(headers: &Headers, tables: &T, account: &mut u32) -> Outcome {
    if !cluster::joins(headers, tables) {
        return Outcome::drop(Verdict::BetweenContainers);
    }
    // A row of a member that has just gone may be there a moment longer.
    match tables.address(&headers.destination) {
        Some(receiver) => {
            *account = receiver.account;
            Outcome::deliver(Verdict::I6pn, receiver.ifindex, receiver.mac)
        }
        None => Outcome::drop(Verdict::NoSuchContainer),
    }
}

/// From a gateway's relay to a forwarded port here, or the answer to this machine's own relay.
#[inline(always)]
fn relayed<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    arrival: Arrival,
    account: &mut u32,
) -> Outcome {
    let to_relay = headers.destination.last() == settings.relay;
    let private = if to_relay {
        headers.sender()
    } else {
        let relay = match tables.host(arrival.host()) {
            Some(row) if arrival.gateway() => row.relay,
            _ => 0,
        };
        if headers.source.last() != relay {
            return between_members(headers, tables, account);
        }
        headers.receiver()
    };
    let row = if headers.protocol() == TCP { tables.forward(&private) } else { None };
    let Some(row) = row else { return Outcome::drop(Verdict::NotForwarded) };
    *account = row.account;
    if to_relay && headers.opens() {
        return Outcome::drop(Verdict::ServicePort);
    }
    match tables.address(&headers.destination) {
        Some(receiver) if (receiver.flags & AddressRow::SERVICE != 0) == to_relay => {
            Outcome::deliver(Verdict::Relayed, receiver.ifindex, receiver.mac)
        }
        _ => Outcome::drop(Verdict::NoSuchContainer),
    }
}

/// From a client, by a gateway that has rewritten its destination.
#[inline(always)]
fn from_client<P: Packet, T: Tables>(
    packet: &P,
    headers: &Headers,
    tables: &T,
    arrival: Arrival,
    account: &mut u32,
) -> Outcome {
    if !arrival.gateway() || !headers.source.is_unicast() {
        return Outcome::drop(Verdict::ForgedSource);
    }
    let Some(receiver) = tables.address(&headers.destination) else {
        return Outcome::drop(Verdict::NoSuchContainer);
    };
    *account = receiver.account;
    if headers.protocol() == TCP {
        if let Some(verdict) = unfit(headers) {
            return Outcome::drop(verdict);
        }
        if let Some(row) = tables.forward(&headers.receiver())
            && row.is_raw()
        {
            let delivered = Outcome::deliver(Verdict::Tunnel, receiver.ifindex, receiver.mac);
            return Outcome { passage: Passage::In, slot: row.slot, ..delivered };
        }
    } else if headers.is_icmp_error()
        && let Some(quote) = Quote::parse(packet, headers)
        && quote.source.address == headers.destination
        && matches!(tables.forward(&quote.source), Some(row) if row.is_raw())
    {
        return Outcome::deliver(Verdict::IcmpError, receiver.ifindex, receiver.mac);
    }
    Outcome::drop(Verdict::NotForwarded)
}

/// From a container elsewhere to a client of its tunnel, by this machine's public address.
#[inline(always)]
fn to_client<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    arrival: Arrival,
    account: &mut u32,
) -> Outcome {
    if !headers.destination.is_unicast() {
        return Outcome::drop(Verdict::Unroutable);
    }
    if headers.protocol() == TCP {
        if let Some(verdict) = unfit(headers) {
            return Outcome::drop(verdict);
        }
        if let Some(row) = tables.forward(&headers.sender())
            && row.uplink != 0
        {
            *account = row.account;
            if headers.opens() {
                return Outcome::drop(Verdict::ConnectFromForwardedPort);
            }
            return reply(packet, headers, settings, arrival, row);
        }
    } else if headers.is_icmp_error()
        && let Some(quote) = Quote::parse(packet, headers)
        && quote.destination.address == headers.source
        && quote.source.address == headers.destination
        && let Some(row) = tables.forward(&quote.destination)
        && row.uplink != 0
    {
        *account = row.account;
        return complaint(packet, headers, arrival, &quote, row);
    }
    Outcome::drop(Verdict::NotForwarded)
}

#[inline(always)]
fn reply<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
    arrival: Arrival,
    row: &ForwardRow,
) -> Outcome {
    if !P::SENDS {
        return Outcome::deferred();
    }
    let headers = headers.moved(packet, arrival.around());
    if open(packet, arrival).is_none()
        || clamp(packet, &headers, settings).is_none()
        || rewrite::tcp(packet, &headers, End::Source, &row.public).is_none()
    {
        return Outcome::failed();
    }
    let sent = Outcome::send(Verdict::Reply, row.uplink);
    Outcome { passage: outward(&headers), slot: row.slot, ..sent }
}

#[inline(always)]
fn complaint<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    arrival: Arrival,
    quote: &Quote,
    row: &ForwardRow,
) -> Outcome {
    if !P::SENDS {
        return Outcome::deferred();
    }
    let (headers, quote) =
        (headers.moved(packet, arrival.around()), quote.moved(packet, arrival.around()));
    if open(packet, arrival).is_none()
        || quote.rewrite(packet, &headers, End::Destination, &row.public).is_none()
    {
        return Outcome::failed();
    }
    Outcome::send(Verdict::IcmpError, row.uplink)
}

/// Takes the packet out of what it came in.
#[inline(always)]
fn open<P: Packet>(packet: &mut P, arrival: Arrival) -> Option<()> {
    if arrival.around() == 0 {
        return Some(());
    }
    geneve::unwrap(packet, arrival)
}
