//! The egress of containers that have a proxy: to a gateway that serves an address of theirs, or
//! nowhere.

use crate::{
    address::Address,
    carry,
    decide::{Action, Outcome},
    packet::{Headers, ICMP, ICMPV6, Packet, SYN, TCP},
    rewrite,
    tables::{FlowKey, FlowWay, ProxyRow, Tables},
    verdict::Verdict,
};

/// Sends a packet to the gateway, or says in `mtu` how much would have fitted. A SYN asks for no
/// larger segment than fits on the way back, which is the same way.
#[inline(always)]
pub(crate) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    headers: &Headers,
    tables: &T,
    mtu: &mut u32,
) -> Outcome {
    // An address may be served by IPv4 alone.
    let away = if headers.v4() { Verdict::ProxyAway } else { Verdict::NoIpv6Egress };
    let Some(row) = tables.proxy(&headers.source) else { return Outcome::drop(away) };
    let Some(ifindex) = way(headers, tables, row) else { return Outcome::drop(away) };
    if ifindex == 0 {
        // IPv4 from a container may pass by itself; what operators mark is left alone.
        let action = if headers.v4() { Action::Pass } else { Action::PassProxied };
        return Outcome::new(Verdict::Proxied, action);
    }
    if carry::size(packet, headers) > row.mtu as usize {
        *mtu = row.mtu;
        return Outcome::drop(Verdict::TooBig);
    }
    let is_syn = headers.protocol() == TCP && !headers.later() && headers.flags() & SYN != 0;
    // The headers of IP and of TCP without options (RFC 6691).
    let segment = row.mtu.saturating_sub(if headers.v4() { 40 } else { 60 });
    if is_syn && rewrite::clamp_mss(packet, headers, segment).is_none() {
        return Outcome::failed();
    }
    Outcome { ifindex, ..Outcome::new(Verdict::Proxied, Action::SendBare) }
}

/// For how long a gateway remembers a flow that is not TCP, in nanoseconds; of TCP it is days, and
/// connections say how they begin (the kernel's `nf_conntrack_udp_timeout_stream` and
/// `nf_conntrack_icmp_timeout`).
const REMEMBERED: u64 = 120_000_000_000;
const REMEMBERED_ICMP: u64 = 30_000_000_000;
/// How often it is noted that a flow still goes, in nanoseconds.
const NOTED: u64 = 1_000_000_000;

/// The way of a flow: the one that it has taken, for as long as there is that way, else one that it
/// may begin by, if there is any. A way by this machine itself is remembered like others: what goes
/// by it keeps to it when only other machines have addresses that connections may begin with.
#[inline(always)]
fn way<T: Tables>(headers: &Headers, tables: &T, row: &ProxyRow) -> Option<u32> {
    let is_tcp = headers.protocol() == TCP;
    let begins = is_tcp && !headers.later() && headers.opens();
    let flow = FlowKey::of(headers);
    let now = if is_tcp { 0 } else { tables.now() };
    let taken = tables.flow_way(&flow);
    let kept = taken.filter(|kept| {
        let is_remembered = now.saturating_sub(kept.seen) <= remembered(headers);
        !begins && row.leads_on(kept.ifindex, is_remembered)
    });
    let ifindex = match kept {
        Some(FlowWay { seen, ifindex, .. }) if now.saturating_sub(seen) <= NOTED => {
            return Some(ifindex);
        }
        Some(FlowWay { ifindex, .. }) => ifindex,
        None => row.choose(carry::flow(headers), is_tcp && !begins && taken.is_none())?,
    };
    tables.keep_flow_way(&flow, FlowWay { seen: now, ifindex, reserved: 0 });
    Some(ifindex)
}

#[inline(always)]
const fn remembered(headers: &Headers) -> u64 {
    if matches!(headers.protocol(), ICMP | ICMPV6) { REMEMBERED_ICMP } else { REMEMBERED }
}

impl ProxyRow {
    /// Whether what has taken a way goes on by it. By one that nothing begins by it does so only if
    /// its gateway remembers it.
    #[inline(always)]
    fn leads_on(&self, way: u32, is_remembered: bool) -> bool {
        let count = if is_remembered { self.count } else { self.fresh };
        self.ways.iter().enumerate().any(|(at, one)| at < count as usize && *one == way)
    }

    /// A way to begin by. What goes on though nobody has seen it begin takes the one there is: its
    /// gateway knows.
    #[inline(always)]
    const fn choose(&self, flow: u32, goes_on: bool) -> Option<u32> {
        if self.fresh == 0 {
            return if goes_on && self.count == 1 { Some(self.ways[0]) } else { None };
        }
        // More than there are would be the daemon's mistake.
        Some(self.ways[((flow >> 16) % self.fresh) as usize % Self::WAYS])
    }
}

impl FlowKey {
    #[inline(always)]
    fn of(headers: &Headers) -> Self {
        Self {
            source: word(&headers.source),
            destination: word(&headers.destination),
            ports: carry::ports(headers).unwrap_or(0),
            protocol: headers.protocol() as u32,
        }
    }
}

/// An address in 32 bits: an IPv6 one with all of its words in them.
#[inline(always)]
fn word(address: &Address) -> u32 {
    let [a, b, c, d] = address.words;
    if address.is_v4() { d } else { a ^ b ^ c ^ d }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{native::Rows, packet::UDP};

    /// Of a packet that begins or goes on.
    fn headers(port: u16, protocol: u8, begins: bool) -> Headers {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let flags = if begins { SYN } else { 0 };
        Headers {
            source: address("100.64.0.2"),
            destination: address("198.51.100.7"),
            kind: u32::from(protocol) | u32::from(flags) << 8,
            ports: u32::from(port) << 16 | 80,
            ..Headers::default()
        }
    }

    fn row(ways: &[u32], fresh: u32) -> ProxyRow {
        let mut row = ProxyRow { fresh, count: ways.len() as u32, ..ProxyRow::default() };
        row.ways[..ways.len()].copy_from_slice(ways);
        row
    }

    #[test]
    fn flows_spread_over_ways_and_keep_to_theirs() {
        let rows = Rows::default();
        let way = |port, row: &ProxyRow, begins| {
            way(&headers(port, TCP, begins), &rows, row).expect("a way")
        };
        let two = row(&[7, 8], 2);
        let begun: Vec<_> = (1..=1000).map(|port| way(port, &two, true)).collect();
        let first = begun.iter().filter(|way| **way == 7).count();
        assert!((440..=560).contains(&first), "{first} of 1000");
        // One goes and another comes: nothing that has begun moves, nothing begins by the old one.
        let other = row(&[9, 7, 8], 2);
        for (port, before) in (1..=1000).zip(&begun) {
            assert_eq!(way(port, &other, false), *before);
        }
        assert!((1001..=2000).all(|port| [7, 9].contains(&way(port, &other, true))));
        // The same ports again are another connection.
        assert!((1..=1000).any(|port| way(port, &other, true) == 9));
        // What is gone is gone.
        let last = row(&[9], 1);
        assert!((1..=1000).all(|port| way(port, &last, false) == 9));
    }

    #[test]
    fn what_begins_nowhere_goes_on_where_it_has_begun() {
        let rows = Rows::default();
        let way = |port, row: &ProxyRow, begins| way(&headers(port, TCP, begins), &rows, row);
        assert_eq!(way(1, &ProxyRow::HERE, true), Some(0));
        assert_eq!(way(2, &row(&[7], 1), true), Some(7));
        let ending = row(&[0, 7], 0);
        assert_eq!(way(1, &ending, false), Some(0));
        assert_eq!(way(2, &ending, false), Some(7));
        assert_eq!(way(1, &ending, true), None, "another connection of the same ports");
        assert_eq!(way(3, &ending, false), None, "of two ways either could be its own");
        assert_eq!(way(3, &row(&[7], 0), false), Some(7), "its gateway knows");
        // This machine is remembered like others.
        assert_eq!(way(1, &row(&[7, 0], 1), false), Some(0));
        assert_eq!(way(2, &row(&[0], 0), false), None, "its way has gone");
        assert_eq!(way(2, &ending, false), Some(7), "and is back");
    }

    #[test]
    fn what_has_no_beginning_goes_on_while_its_gateway_remembers_it() {
        const SECOND: u64 = 1_000_000_000;
        let mut rows = Rows { now: 1000 * SECOND, ..Rows::default() };
        let (before, after) = (row(&[7], 1), row(&[8, 7], 1));
        for (protocol, memory) in [(UDP, 120), (ICMP, 30), (ICMPV6, 30), (47, 120)] {
            let way = |row: &ProxyRow, rows: &Rows| way(&headers(1, protocol, false), rows, row);
            assert_eq!(way(&before, &rows), Some(7));
            for _ in 0..3 {
                rows.now += memory * SECOND;
                assert_eq!(way(&after, &rows), Some(7), "{protocol} goes on");
            }
            rows.now += memory * SECOND + 1;
            assert_eq!(way(&row(&[7], 0), &rows), None, "{protocol} begins nowhere");
            assert_eq!(way(&after, &rows), Some(8), "{protocol} begins anew");
            rows.now += 1000 * SECOND;
            assert_eq!(way(&row(&[9, 8], 2), &rows), Some(8), "{protocol} may begin by both");
        }
    }
}
