//! To another host of the region: which way a packet goes, and whether it fits.

use crate::{
    address::Address,
    decide::Outcome,
    geneve,
    hosts::{HostRow, MAX_PATHS, Path},
    narrow,
    packet::{Headers, NETWORK, Packet, TCP, UDP},
    tables::{Settings, Tables},
    verdict::Verdict,
};

/// The way of a packet that fits it.
#[derive(Clone, Copy)]
pub(crate) struct Way<'row> {
    host: u32,
    index: usize,
    path: &'row Path,
    flow: u32,
}

/// Why a packet cannot go to a host.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) verdict: Verdict,
    /// Bytes of the largest packet that could; 0 if that is not why.
    pub(crate) mtu: u32,
}

impl<'row> Way<'row> {
    /// Which way a packet goes to a host. Changes nothing.
    #[inline(always)]
    pub(crate) fn to<P: Packet, T: Tables>(
        packet: &P,
        headers: &Headers,
        tables: &'row T,
        host: u32,
    ) -> Result<Self, Refusal> {
        let Some(row) = tables.host(host) else {
            return Err(Refusal { verdict: Verdict::NoSuchHost, mtu: 0 });
        };
        let mtu = narrow::limit(tables, host, row, headers.v4());
        if size(packet, headers) > mtu as usize {
            return Err(Refusal { verdict: Verdict::TooBig, mtu });
        }
        let flow = flow(headers);
        let index = choose(row, flow);
        Ok(Self { host, index, path: &row.paths[index], flow })
    }

    /// Sends it, in whatever this region puts around it.
    #[inline(always)]
    pub(crate) fn carry<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        settings: &Settings,
        verdict: Verdict,
    ) -> Outcome {
        let outcome = Outcome::send(verdict, self.path.ifindex);
        if settings.carriage == Settings::DIRECT {
            return outcome.by(self.host, self.index);
        }
        match geneve::wrap(packet, headers, settings, self.path, self.flow) {
            Some(()) => outcome,
            None => Outcome::failed(),
        }
    }
}

impl From<Refusal> for Outcome {
    #[inline(always)]
    fn from(refusal: Refusal) -> Self {
        Self::drop(refusal.verdict)
    }
}

/// Bytes of the IP packet on the wire: of the largest into which the kernel will cut it.
#[inline(always)]
pub(crate) fn size<P: Packet>(packet: &P, headers: &Headers) -> usize {
    let segment = packet.segment();
    if segment == 0 {
        return packet.frame_len() - NETWORK;
    }
    // The Hop-by-Hop header of BIG TCP goes when the packet is cut.
    let network = match (headers.v4(), headers.options()) {
        (false, false) => 40,
        _ => headers.transport - NETWORK,
    };
    network + if headers.protocol() == TCP { headers.length() } else { UDP_HEADER } + segment
}

const UDP_HEADER: usize = 8;

#[inline(always)]
const fn choose(row: &HostRow, flow: u32) -> usize {
    let count = if row.path_count == 0 { 1 } else { row.path_count };
    let index = (flow >> 16) % count;
    // More than there are would be the daemon's mistake.
    index as usize % MAX_PATHS
}

/// The same number for all packets of a flow, whichever hook looks at it.
#[inline(always)]
pub(crate) fn flow(headers: &Headers) -> u32 {
    let hash = mix_address(0, &headers.source);
    let hash = mix(mix_address(hash, &headers.destination), headers.protocol().into());
    match ports(headers) {
        Some(ports) => mix(hash, ports),
        None => hash,
    }
}

/// The ports that all packets of a flow have, if they do: the fragments of one have none.
#[inline(always)]
pub(crate) fn ports(headers: &Headers) -> Option<u32> {
    let has = !headers.fragment() && matches!(headers.protocol(), TCP | UDP);
    has.then_some(headers.ports)
}

#[inline(always)]
const fn mix_address(hash: u32, address: &Address) -> u32 {
    let [a, b, c, d] = address.words;
    mix(mix(mix(mix(hash, a), b), c), d)
}

/// Multiplicative hashing with the golden ratio (Knuth, The Art of Computer Programming, 6.4).
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr};

    use super::*;

    /// Ports of clients are neighbours, and so are addresses of a block.
    #[test]
    fn flows_spread_over_ways_and_source_ports() {
        let address = |text: String| Address::from(text.parse::<IpAddr>().unwrap());
        let (mut ways, mut ports) = ([0; 4], HashMap::new());
        for one in 0..4096_u32 {
            let headers = Headers {
                source: address(format!("fdaa:0:1:2:3::{:x}", one % 16)),
                destination: address("fdaa:0:1:2:4::1".to_owned()),
                kind: TCP.into(),
                ports: (32_768 + one / 16) << 16 | 80,
                ..Headers::default()
            };
            let flow = flow(&headers);
            ways[(flow >> 16) as usize % 4] += 1;
            *ports.entry(flow & 0x3fff).or_insert(0) += 1;
        }
        assert!(ways.iter().all(|count| (900..1150).contains(count)), "{ways:?}");
        assert!(ports.len() > 3000, "{} source ports", ports.len());
    }
}
