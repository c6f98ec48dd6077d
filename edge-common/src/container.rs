//! What containers, and the service namespace, send.

use crate::{
    account::{Lane, NOBODY},
    carry::Way,
    cluster, complain,
    decide::{Action, Outcome, Passage, block_owner, clamp, current, inside, outward, unfit},
    geneve,
    hosts::HostRow,
    icmp::Quote,
    packet::{Headers, Packet, TCP, UDP},
    proxied, refuse,
    rewrite::{self, End},
    tables::{AddressRow, ForwardRow, Settings, Tables},
    verdict::Verdict,
};

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
    let (mut host, mut mtu, mut account) = (None, 0, NOBODY);
    let outcome = judge(packet, &headers, tables, settings, ifindex, &mut host, &mut account);
    let (outcome, lane) = match host {
        Some(host) => (
            carry(packet, &headers, tables, settings, host, &outcome, &mut mtu),
            Lane::between(settings),
        ),
        None if outcome.verdict == Verdict::Proxied => {
            (proxied::leave(packet, &headers, tables, &mut mtu), Lane::Local)
        }
        None => (outcome, Lane::Local),
    };
    let outcome = if outcome.action == Action::Drop {
        complain::about(packet, &headers, tables, settings, outcome, mtu)
    } else {
        outcome
    };
    outcome.at(lane.of(account))
}

/// What becomes of the frame. If that is to go to another host as it is, its number is put into
/// `host`; into `account` is put whose it is. What is `Proxied` is still to be sent.
#[inline(always)]
fn judge<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    ifindex: u32,
    host: &mut Option<u32>,
    account: &mut u32,
) -> Outcome {
    if headers.destination.is_multicast() || headers.is_mapped() {
        return Outcome::drop(Verdict::Unroutable);
    }
    let Some(sender) = tables.address(&headers.source) else {
        return Outcome::drop(Verdict::ForgedSource);
    };
    if sender.ifindex != ifindex {
        return Outcome::drop(Verdict::ForgedSource);
    }
    *account = sender.account;
    // Most packets go elsewhere, and a lookup costs more than these comparisons.
    if inside(settings, &headers.destination) {
        if let Some(receiver) = tables.address(&headers.destination) {
            return within_host(headers, tables, settings, sender, receiver, account);
        }
        return elsewhere(headers, tables, settings, sender, host, account);
    }
    if sender.flags & AddressRow::SERVICE != 0 {
        return Outcome::drop(Verdict::NotForwarded);
    }
    // The machine's source NAT would give it an address that other hosts believe.
    if headers.protocol() == UDP
        && headers.destination_port() == geneve::PORT
        && settings.carriage != 0
    {
        return Outcome::drop(Verdict::Encapsulated);
    }
    // Before the listeners: the daemon also listens on the host's loopback.
    if !headers.destination.is_unicast() {
        return Outcome::drop(Verdict::Unroutable);
    }
    if headers.protocol() == TCP && tables.listener(&headers.receiver()).is_some() {
        // Behind a public port may be anybody, who may pass on what he is told.
        return if sender.flags & AddressRow::EGRESS == 0 {
            Outcome::drop(Verdict::NoEgress)
        } else {
            Outcome::new(Verdict::Listener, Action::PassToListener)
        };
    }
    to_outside(packet, headers, tables, settings, sender, host)
}

/// Between containers of this host, or between one and the service namespace.
#[inline(always)]
fn within_host<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    sender: &AddressRow,
    receiver: &AddressRow,
    account: &mut u32,
) -> Outcome {
    let from_service = sender.flags & AddressRow::SERVICE != 0;
    if from_service {
        *account = receiver.account;
    }
    let to_service = receiver.flags & AddressRow::SERVICE != 0;
    if from_service == to_service {
        if from_service || headers.v4() && !cluster::joins(headers, tables) {
            return Outcome::drop(Verdict::BetweenContainers);
        }
        return between_containers(sender, receiver);
    }
    if from_service && headers.source == settings.service {
        return if serves(headers.protocol(), headers.source_port()) || headers.is_icmp_error() {
            Outcome::deliver(Verdict::Service, receiver.ifindex, receiver.mac)
        } else {
            Outcome::drop(Verdict::ServicePort)
        };
    }
    if to_service && headers.destination == settings.service {
        return if serves(headers.protocol(), headers.destination_port()) {
            Outcome::deliver(Verdict::Service, receiver.ifindex, receiver.mac)
        } else {
            Outcome::drop(Verdict::ServicePort)
        };
    }
    // The relay dials and the container answers, never the other way round.
    let private = if from_service { headers.receiver() } else { headers.sender() };
    if headers.protocol() != TCP || tables.forward(&private).is_none() {
        return Outcome::drop(Verdict::NotForwarded);
    }
    if to_service && headers.opens() {
        return Outcome::drop(Verdict::ServicePort);
    }
    Outcome::deliver(Verdict::Relayed, receiver.ifindex, receiver.mac)
}

/// The private network: whatever IPv6 carries, as it is; and IPv4 between members of a cluster.
#[inline(always)]
fn between_containers(sender: &AddressRow, receiver: &AddressRow) -> Outcome {
    if sender.workspace != receiver.workspace {
        return Outcome::drop(Verdict::OtherWorkspace);
    }
    if sender.flags & receiver.flags & AddressRow::I6PN == 0 {
        return Outcome::drop(Verdict::NoI6pn);
    }
    Outcome::deliver(Verdict::I6pn, receiver.ifindex, receiver.mac)
}

/// DNS, and the API that `modal` speaks.
#[inline(always)]
const fn serves(protocol: u8, port: u16) -> bool {
    matches!((protocol, port), (TCP | UDP, 53) | (TCP, 80))
}

/// To an address of containers that nobody on this host has.
#[inline(always)]
fn elsewhere<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    sender: &AddressRow,
    host: &mut Option<u32>,
    account: &mut u32,
) -> Outcome {
    let from_service = sender.flags & AddressRow::SERVICE != 0;
    let nobody = if from_service { Verdict::NotForwarded } else { Verdict::NoSuchContainer };
    if settings.carriage == 0 {
        return Outcome::drop(nobody);
    }
    if headers.v4() {
        let owner = block_owner(tables, settings, &headers.destination);
        return match owner.filter(|owner| *owner != settings.host) {
            Some(owner) => relayed(headers, tables, settings, from_service, owner, host, account),
            None => Outcome::drop(nobody),
        };
    }
    let to = &headers.destination;
    if from_service {
        return Outcome::drop(nobody);
    }
    if to.region() != settings.region {
        return Outcome::drop(Verdict::OtherRegion);
    }
    if to.workspace() != headers.source.workspace() {
        return Outcome::drop(Verdict::OtherWorkspace);
    }
    if sender.flags & AddressRow::I6PN == 0 {
        return Outcome::drop(Verdict::NoI6pn);
    }
    if to.host() == settings.host {
        return Outcome::drop(nobody);
    }
    to_host(to.host(), Verdict::I6pn, host)
}

/// IPv4: a gateway's relay dials containers of other hosts, and they answer it; members of a
/// cluster reach each other.
#[inline(always)]
fn relayed<T: Tables>(
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    from_service: bool,
    owner: u32,
    host: &mut Option<u32>,
    account: &mut u32,
) -> Outcome {
    let is_tcp = headers.protocol() == TCP;
    if from_service {
        if is_tcp
            && headers.source.last() == settings.relay
            && let Some(row) = tables.forward(&headers.receiver())
        {
            *account = row.account;
            return to_host(owner, Verdict::Relayed, host);
        }
        return Outcome::drop(Verdict::NotForwarded);
    }
    let answers = is_tcp
        && !headers.opens()
        && matches!(tables.host(owner), Some(row) if row.flags & HostRow::GATEWAY != 0
            && row.relay == headers.destination.last())
        && tables.forward(&headers.sender()).is_some();
    if answers {
        to_host(owner, Verdict::Relayed, host)
    } else if cluster::joins(headers, tables) {
        to_host(owner, Verdict::I6pn, host)
    } else {
        Outcome::drop(Verdict::BetweenContainers)
    }
}

#[inline(always)]
fn to_outside<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    sender: &AddressRow,
    host: &mut Option<u32>,
) -> Outcome {
    let is_proxied = sender.flags & AddressRow::PROXIED != 0;
    // A proxied container's raw ports are userspace's to serve: what was taken for a reply of such
    // a port could go to anybody, past the proxy.
    if !is_proxied && headers.protocol() == TCP {
        if let Some(row) = tables.forward(&headers.sender())
            && row.is_raw()
        {
            return reply(packet, headers, settings, row, host);
        }
    } else if !is_proxied
        && headers.is_icmp_error()
        && let Some(quote) = Quote::parse(packet, headers)
        && quote.destination.address == headers.source
        && quote.source.address == headers.destination
        && let Some(row) = tables.forward(&quote.destination)
        && row.is_raw()
    {
        // The container complains about a client's packet, to that client and to nobody else.
        if row.uplink == 0 {
            return to_host(row.gateway, Verdict::IcmpError, host);
        }
        return match quote.rewrite(packet, headers, End::Destination, &row.public) {
            Some(()) => Outcome::send(Verdict::IcmpError, row.uplink),
            None => Outcome::failed(),
        };
    }
    if !headers.v4() && !is_proxied {
        return Outcome::drop(Verdict::NoIpv6Egress);
    }
    if sender.flags & AddressRow::EGRESS == 0 {
        return Outcome::drop(Verdict::NoEgress);
    }
    Outcome::pass(if is_proxied { Verdict::Proxied } else { Verdict::Egress })
}

#[inline(always)]
fn reply<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    settings: &Settings,
    row: &ForwardRow,
    host: &mut Option<u32>,
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
    let (passage, slot) = (outward(headers), row.slot);
    if row.uplink == 0 {
        return Outcome { passage, slot, ..to_host(row.gateway, Verdict::Reply, host) };
    }
    if clamp(packet, headers, settings).is_none()
        || rewrite::tcp(packet, headers, End::Source, &row.public).is_none()
    {
        return Outcome::failed();
    }
    Outcome { passage, slot, ..Outcome::send(Verdict::Reply, row.uplink) }
}

/// What `carry` completes, which needs the host's way.
#[inline(always)]
const fn to_host(number: u32, verdict: Verdict, host: &mut Option<u32>) -> Outcome {
    *host = Some(number);
    Outcome::new(verdict, Action::Send)
}

/// Sends the frame to another host, or says how much would have fitted. A tunnel's SYN asks for no
/// larger segment than fits.
#[inline(always)]
fn carry<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    settings: &Settings,
    host: u32,
    outcome: &Outcome,
    mtu: &mut u32,
) -> Outcome {
    let way = match Way::to(packet, headers, tables, host) {
        Ok(way) => way,
        Err(refusal) => {
            *mtu = refusal.mtu;
            return refusal.into();
        }
    };
    if outcome.passage != Passage::None && clamp(packet, headers, settings).is_none() {
        return Outcome::failed();
    }
    let carried = way.carry(packet, headers, settings, outcome.verdict);
    if carried.verdict.is_refusal() {
        return carried;
    }
    Outcome { passage: outcome.passage, slot: outcome.slot, ..carried }
}
