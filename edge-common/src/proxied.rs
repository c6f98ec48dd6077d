//! The egress of containers that have a proxy: to a gateway that serves an address of theirs, or
//! nowhere.

use crate::{
    address::Address,
    carry,
    decide::{Action, Outcome},
    packet::{Headers, Packet, SYN, TCP},
    rewrite,
    tables::{FlowKey, ProxyRow, Tables},
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
    let is_tcp = headers.protocol() == TCP && !headers.later();
    let Some(ifindex) = way(headers, tables, row, is_tcp && headers.opens()) else {
        return Outcome::drop(away);
    };
    if ifindex == 0 {
        // IPv4 from a container may pass by itself; what operators mark is left alone.
        let action = if headers.v4() { Action::Pass } else { Action::PassProxied };
        return Outcome::new(Verdict::Proxied, action);
    }
    if carry::size(packet, headers) > row.mtu as usize {
        *mtu = row.mtu;
        return Outcome::drop(Verdict::TooBig);
    }
    let is_syn = is_tcp && headers.flags() & SYN != 0;
    // The headers of IP and of TCP without options (RFC 6691).
    let segment = row.mtu.saturating_sub(if headers.v4() { 40 } else { 60 });
    if is_syn && rewrite::clamp_mss(packet, headers, segment).is_none() {
        return Outcome::failed();
    }
    Outcome { ifindex, ..Outcome::new(Verdict::Proxied, Action::SendBare) }
}

/// The way of a flow: the one that it has taken, for as long as there is that way, else one that it
/// may begin by, if there is any. A way by this machine itself is remembered like others: what goes
/// by it keeps to it when only other machines have addresses that connections may begin with.
#[inline(always)]
fn way<T: Tables>(headers: &Headers, tables: &T, row: &ProxyRow, begins: bool) -> Option<u32> {
    let flow = FlowKey::of(headers);
    let taken = tables.flow_way(&flow);
    if let Some(way) = taken
        && !begins
        && row.has(way)
    {
        return taken;
    }
    let chosen = row.choose(carry::flow(headers))?;
    if taken != Some(chosen) {
        tables.keep_flow_way(&flow, chosen);
    }
    Some(chosen)
}

impl ProxyRow {
    #[inline(always)]
    fn has(&self, way: u32) -> bool {
        self.ways.iter().enumerate().any(|(at, one)| at < self.count as usize && *one == way)
    }

    #[inline(always)]
    const fn choose(&self, flow: u32) -> Option<u32> {
        if self.fresh == 0 {
            return None;
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
    use crate::native::Rows;

    fn headers(port: u16) -> Headers {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        Headers {
            source: address("100.64.0.2"),
            destination: address("198.51.100.7"),
            kind: TCP.into(),
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
        let way =
            |port, row: &ProxyRow, begins| way(&headers(port), &rows, row, begins).expect("a way");
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
        let way = |port, row: &ProxyRow, begins| way(&headers(port), &rows, row, begins);
        assert_eq!(way(1, &ProxyRow::HERE, true), Some(0));
        assert_eq!(way(2, &row(&[7], 1), true), Some(7));
        let ending = row(&[0, 7], 0);
        assert_eq!(way(1, &ending, false), Some(0));
        assert_eq!(way(2, &ending, false), Some(7));
        assert_eq!(way(1, &ending, true), None, "another connection of the same ports");
        assert_eq!(way(3, &ending, false), None, "one that nobody has seen begin");
        // This machine is remembered like others.
        assert_eq!(way(1, &row(&[7, 0], 1), false), Some(0));
        assert_eq!(way(2, &row(&[0], 0), false), None, "the other way has gone");
    }
}
