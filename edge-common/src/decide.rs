//! The decisions: what becomes of a frame at an uplink, and of one that a container sent.

use crate::{
    address::{Address, Endpoint},
    admit,
    icmp::Quote,
    packet::{Headers, Packet, TCP, UDP},
    refuse,
    rewrite::{self, End},
    tables::{AddressRow, ForwardRow, LAYOUT, ListenerRow, Settings, Tables, TunnelRow},
    verdict::Verdict,
};

/// What a hook has to carry out and to count. Flat and always written whole: the verifier refuses
/// to copy what a variant would leave unwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The one name of what was decided.
    pub verdict: Verdict,
    /// What becomes of the frame.
    pub action: Action,
    /// Where it goes: a host-side veth for `Deliver`, an uplink for `Send`; else 0.
    pub ifindex: u32,
    /// For `Deliver`: the container's own MAC address, and two zero bytes.
    pub mac: [u8; 8],
    /// Whether it is a tunnel's traffic.
    pub passage: Passage,
    /// The tunnel's place in the counters, if it is.
    pub slot: u32,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel goes on with it.
    Pass,
    /// The kernel goes on with it, marked for the userspace listener.
    PassToListener,
    /// It ends here.
    Drop,
    /// Into a container on this host.
    Deliver,
    /// Out by an uplink, to the next hop that the routing table names.
    Send,
    /// Back where it came from: the frame has become its own answer.
    Bounce,
}

/// Which way a packet of a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// No tunnel's traffic.
    None,
    /// Towards the container.
    In,
    /// Towards the client.
    Out,
    /// Towards the client, accepting its connection.
    Accept,
}

impl Outcome {
    #[inline(always)]
    const fn new(verdict: Verdict, action: Action) -> Self {
        Self { verdict, action, ifindex: 0, mac: [0; 8], passage: Passage::None, slot: 0 }
    }

    #[inline(always)]
    const fn drop(verdict: Verdict) -> Self {
        Self::new(verdict, Action::Drop)
    }

    /// Into the container behind a host-side veth.
    #[inline(always)]
    pub const fn deliver(verdict: Verdict, ifindex: u32, mac: [u8; 8]) -> Self {
        Self { ifindex, mac, ..Self::new(verdict, Action::Deliver) }
    }

    #[inline(always)]
    const fn send(verdict: Verdict, ifindex: u32) -> Self {
        Self { ifindex, ..Self::new(verdict, Action::Send) }
    }

    /// The same frame, when its hook could not do what was decided.
    #[inline(always)]
    pub const fn failed() -> Self {
        Self::drop(Verdict::Failed)
    }
}

/// A frame that came in by an uplink. Same answer in XDP and in TCX.
#[inline(always)]
pub fn uplink<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let headers = match Headers::parse(packet) {
        Ok(headers) => headers,
        Err(Verdict::NotIp) => return Outcome::new(Verdict::NotOurs, Action::Pass),
        Err(verdict) => return Outcome::drop(verdict),
    };
    let Some(settings) = current(tables) else {
        return Outcome::new(Verdict::NotOurs, Action::Pass);
    };
    if inside(settings, &headers.destination) {
        return Outcome::drop(Verdict::BareInner);
    }
    if inside(settings, &headers.source) {
        return Outcome::drop(Verdict::ForgedSource);
    }
    if headers.is_mapped() {
        return Outcome::new(Verdict::NotOurs, Action::Pass);
    }
    if headers.protocol == TCP {
        let public =
            Endpoint { address: headers.destination, port: headers.destination_port.into() };
        if let Some(row) = tables.tunnel(&public) {
            return into_tunnel(packet, &headers, tables, settings, row);
        }
    } else if headers.is_icmp_error() {
        return error_from_outside(packet, &headers, tables);
    }
    Outcome::new(Verdict::NotOurs, Action::Pass)
}

#[inline(always)]
fn into_tunnel<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    row: &TunnelRow,
) -> Outcome {
    if let Some(verdict) = unfit(headers) {
        return Outcome::drop(verdict);
    }
    if !headers.source.is_unicast() || headers.source == headers.destination {
        return Outcome::drop(Verdict::ForgedSource);
    }
    if row.flags != 0
        && let Some(verdict) = admit::refusal(headers, tables, row)
    {
        return Outcome::drop(verdict);
    }
    if clamp(packet, headers, settings).is_none()
        || rewrite::tcp(packet, headers, End::Destination, &row.container).is_none()
    {
        return Outcome::failed();
    }
    let delivered = Outcome::deliver(Verdict::Tunnel, row.ifindex, row.mac);
    Outcome { passage: Passage::In, slot: row.slot, ..delivered }
}

/// Somebody on the way to a client, or the client, complains about a tunnel's reply.
#[inline(always)]
fn error_from_outside<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
) -> Outcome {
    if let Some(quote) = Quote::parse(packet, headers)
        && quote.source.address == headers.destination
        && let Some(row) = tables.tunnel(&quote.source)
    {
        return match quote.rewrite(packet, headers, End::Source, &row.container) {
            Some(()) => Outcome::deliver(Verdict::IcmpError, row.ifindex, row.mac),
            None => Outcome::failed(),
        };
    }
    Outcome::new(Verdict::NotOurs, Action::Pass)
}

/// A frame that the owner of the veth `ifindex` sent.
#[inline(always)]
pub fn container<P: Packet, T: Tables>(packet: &mut P, tables: &T, ifindex: u32) -> Outcome {
    let headers = match Headers::parse(packet) {
        Ok(headers) => headers,
        Err(verdict) => return Outcome::drop(verdict),
    };
    let Some(settings) = current(tables) else {
        return Outcome::drop(Verdict::Unconfigured);
    };
    if headers.destination.is_multicast() || headers.is_mapped() {
        return Outcome::drop(Verdict::Unroutable);
    }
    let Some(sender) = tables.address(&headers.source) else {
        return Outcome::drop(Verdict::ForgedSource);
    };
    if sender.ifindex != ifindex {
        return Outcome::drop(Verdict::ForgedSource);
    }
    // Most packets go elsewhere, and a lookup costs more than these comparisons.
    if (inside(settings, &headers.destination) || headers.destination == settings.service)
        && let Some(receiver) = tables.address(&headers.destination)
    {
        return within_host(&headers, tables, settings, sender, receiver);
    }
    if sender.flags & AddressRow::SERVICE != 0 {
        return Outcome::drop(Verdict::NotForwarded);
    }
    if inside(settings, &headers.destination) {
        return Outcome::drop(Verdict::NoSuchContainer);
    }
    // Before the listeners: the daemon also listens on the host's loopback.
    if !headers.destination.is_unicast() {
        return Outcome::drop(Verdict::Unroutable);
    }
    if headers.protocol == TCP {
        let destination =
            Endpoint { address: headers.destination, port: headers.destination_port.into() };
        if tables.listener(&destination).is_some() {
            // Behind a public port may be anybody, who may pass on what he is told.
            return if sender.flags & AddressRow::EGRESS == 0 {
                Outcome::drop(Verdict::NoEgress)
            } else {
                Outcome::new(Verdict::Listener, Action::PassToListener)
            };
        }
    }
    to_outside(packet, &headers, tables, settings, sender)
}

/// Between the service namespace and a container; between two containers only a refusal.
#[inline(always)]
fn within_host<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    sender: &AddressRow,
    receiver: &AddressRow,
) -> Outcome {
    let from_service = sender.flags & AddressRow::SERVICE != 0;
    let to_service = receiver.flags & AddressRow::SERVICE != 0;
    if from_service == to_service {
        return Outcome::drop(Verdict::BetweenContainers);
    }
    if from_service && headers.source == settings.service {
        return if serves(headers.protocol, headers.source_port) || headers.is_icmp_error() {
            Outcome::deliver(Verdict::Service, receiver.ifindex, receiver.mac)
        } else {
            Outcome::drop(Verdict::ServicePort)
        };
    }
    if to_service && headers.destination == settings.service {
        return if serves(headers.protocol, headers.destination_port) {
            Outcome::deliver(Verdict::Service, receiver.ifindex, receiver.mac)
        } else {
            Outcome::drop(Verdict::ServicePort)
        };
    }
    // The relay dials and the container answers, never the other way round.
    let private = if from_service {
        Endpoint { address: headers.destination, port: headers.destination_port.into() }
    } else {
        Endpoint { address: headers.source, port: headers.source_port.into() }
    };
    if headers.protocol != TCP || tables.forward(&private).is_none() {
        return Outcome::drop(Verdict::NotForwarded);
    }
    if to_service && headers.opens() {
        return Outcome::drop(Verdict::ServicePort);
    }
    Outcome::deliver(Verdict::Relayed, receiver.ifindex, receiver.mac)
}

/// DNS, and the API that `modal` speaks.
#[inline(always)]
const fn serves(protocol: u8, port: u16) -> bool {
    matches!((protocol, port), (TCP | UDP, 53) | (TCP, 80))
}

#[inline(always)]
fn to_outside<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    sender: &AddressRow,
) -> Outcome {
    if headers.protocol == TCP {
        let private = Endpoint { address: headers.source, port: headers.source_port.into() };
        if let Some(row) = tables.forward(&private)
            && row.uplink != 0
        {
            return reply(packet, headers, settings, row);
        }
    } else if headers.is_icmp_error()
        && let Some(quote) = Quote::parse(packet, headers)
        && quote.destination.address == headers.source
        && quote.source.address == headers.destination
        && let Some(row) = tables.forward(&quote.destination)
        && row.uplink != 0
    {
        // The container complains about a client's packet, to that client and to nobody else.
        return match quote.rewrite(packet, headers, End::Destination, &row.public) {
            Some(()) => Outcome::send(Verdict::IcmpError, row.uplink),
            None => Outcome::failed(),
        };
    }
    if !headers.v4 {
        return Outcome::drop(Verdict::NoIpv6Egress);
    }
    if sender.flags & AddressRow::EGRESS == 0 {
        return Outcome::drop(Verdict::NoEgress);
    }
    Outcome::new(Verdict::Egress, Action::Pass)
}

#[inline(always)]
fn reply<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
    row: &ForwardRow,
) -> Outcome {
    if let Some(verdict) = unfit(headers) {
        return Outcome::drop(verdict);
    }
    if headers.opens() {
        return match refuse::reset(packet, headers) {
            Some(()) => Outcome::new(Verdict::ConnectFromForwardedPort, Action::Bounce),
            None => Outcome::failed(),
        };
    }
    if clamp(packet, headers, settings).is_none()
        || rewrite::tcp(packet, headers, End::Source, &row.public).is_none()
    {
        return Outcome::failed();
    }
    let passage = if headers.accepts() { Passage::Accept } else { Passage::Out };
    Outcome { passage, slot: row.slot, ..Outcome::send(Verdict::Reply, row.uplink) }
}

/// Why a tunnel cannot carry this packet.
#[inline(always)]
const fn unfit(headers: &Headers) -> Option<Verdict> {
    if headers.fragment {
        return Some(Verdict::Fragment);
    }
    if headers.options { Some(Verdict::IpOptions) } else { None }
}

#[inline(always)]
fn clamp<P: Packet>(packet: &mut P, headers: &Headers, settings: &Settings) -> Option<()> {
    if headers.flags & crate::packet::SYN == 0 {
        return Some(());
    }
    let limit = if headers.v4 { settings.mss_v4 } else { settings.mss_v6 };
    rewrite::clamp_mss(packet, headers, limit)
}

/// Whether an address belongs to containers, here or elsewhere.
#[inline(always)]
const fn inside(settings: &Settings, address: &Address) -> bool {
    address.within(&settings.pool, &settings.pool_mask)
        || address.within(&settings.private, &settings.private_mask)
}

#[inline(always)]
fn current<T: Tables>(tables: &T) -> Option<&Settings> {
    tables.settings().filter(|settings| settings.layout == LAYOUT)
}

/// What `sk_lookup` asks: may the one listener behind the raw ports claim this connection?
#[inline(always)]
pub fn claims<T: Tables>(tables: &T, local: &Endpoint) -> bool {
    matches!(tables.listener(local), Some(row) if row.kind == ListenerRow::RAW)
}
