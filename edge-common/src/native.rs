//! The same packet and tables without a kernel, for tests, fuzzers and models.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use zerocopy::IntoBytes;

use crate::{
    address::{Address, Endpoint},
    admit::{Bucket, ListKey, PaceRow, SourceKey},
    checksum::Difference,
    hosts::{BlockRow, HostRow, PathMtu, PeerRow, UnderlayRow},
    packet::{NETWORK, Packet},
    tables::{
        AddressRow, FlowKey, FlowWay, ForwardRow, ListenerRow, MemberRow, ProxyRow, Settings,
        Tables, TunnelRow,
    },
};

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Packet for Frame {
    const SENDS: bool = true;

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        *self.0.get_mut(at..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    fn fix_checksum(
        &mut self,
        at: usize,
        difference: Difference,
        _pseudo: bool,
        _v6: bool,
    ) -> Option<()> {
        let old = u16::from_ne_bytes(self.read(at)?);
        self.write(at, difference.apply(old).to_ne_bytes())
    }

    fn is_tagged(&self) -> bool {
        false
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        if self.0.len() < len {
            return None;
        }
        self.0.truncate(len);
        Some(())
    }

    fn frame_len(&self) -> usize {
        self.0.len()
    }

    fn segment(&self) -> usize {
        0
    }

    fn make_room(&mut self, bytes: usize) -> Option<()> {
        self.0.get(NETWORK..)?;
        self.0.splice(NETWORK..NETWORK, vec![0; bytes]);
        Some(())
    }

    fn make_room_around(&mut self, v4: bool, tunnel: usize) -> Option<()> {
        self.make_room(if v4 { 20 } else { 40 } + 8 + tunnel)
    }

    fn take_away(&mut self, bytes: usize, _v4: bool) -> Option<()> {
        self.0.get(NETWORK + bytes..)?;
        self.0.drain(NETWORK..NETWORK + bytes);
        Some(())
    }
}

/// The same as XDP has it: it can go into a container here, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Early(pub Frame);

impl Packet for Early {
    const SENDS: bool = false;

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.read(at)
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        self.0.write(at, bytes)
    }

    fn fix_checksum(
        &mut self,
        at: usize,
        difference: Difference,
        pseudo: bool,
        v6: bool,
    ) -> Option<()> {
        self.0.fix_checksum(at, difference, pseudo, v6)
    }

    fn is_tagged(&self) -> bool {
        self.0.is_tagged()
    }

    fn truncate(&mut self, _len: usize) -> Option<()> {
        None
    }

    fn frame_len(&self) -> usize {
        self.0.frame_len()
    }

    fn segment(&self) -> usize {
        0
    }

    fn make_room(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    fn make_room_around(&mut self, _v4: bool, _tunnel: usize) -> Option<()> {
        None
    }

    fn take_away(&mut self, bytes: usize, v4: bool) -> Option<()> {
        self.0.take_away(bytes, v4)
    }
}

/// The tables in memory. Sources are never pushed out of them.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The host's settings.
    pub settings: Settings,
    /// Containers' and the service's addresses.
    pub addresses: HashMap<Address, AddressRow>,
    /// Raw tunnels by public endpoint.
    pub tunnels: HashMap<Endpoint, TunnelRow>,
    /// Forwarded ports by container endpoint.
    pub forwards: HashMap<Endpoint, ForwardRow>,
    /// Userspace listeners by public endpoint.
    pub listeners: HashMap<Endpoint, ListenerRow>,
    /// Lists of all tunnels: how many bits count, and of which place; see [`ListKey::network`].
    pub lists: Vec<(u32, ListKey)>,
    /// Paces by slot.
    pub paces: HashMap<u32, PaceRow>,
    /// Interfaces towards the underlay.
    pub underlays: HashMap<u32, UnderlayRow>,
    /// Addresses of the underlay.
    pub peers: HashMap<Address, PeerRow>,
    /// Other hosts by number.
    pub hosts: HashMap<u32, HostRow>,
    /// Address blocks by network.
    pub blocks: HashMap<u32, BlockRow>,
    /// Members of clusters by IPv4 address.
    pub members: HashMap<u32, MemberRow>,
    /// Ways of proxied containers' egress, by their addresses.
    pub proxies: HashMap<Address, ProxyRow>,
    /// What is known of ways when the decision begins.
    pub path_mtus: HashMap<u32, PathMtu>,
    /// The clock, in nanoseconds.
    pub now: u64,
    /// What the decisions write.
    pub buckets: Buckets,
    /// What they learn of ways. Copies are the same.
    pub learnt: Arc<Mutex<HashMap<u32, PathMtu>>>,
    /// The ways that flows of proxied containers have taken. Copies are the same.
    pub flows: Arc<Mutex<HashMap<FlowKey, FlowWay>>>,
}

/// The buckets that decisions made and took from. Copies of them are the same buckets.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    tunnels: Shared<u32>,
    sources: Shared<SourceKey>,
}

type Shared<K> = Arc<Mutex<HashMap<K, Arc<Bucket>>>>;

impl Tables for Rows {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn address(&self, address: &Address) -> Option<&AddressRow> {
        self.addresses.get(address)
    }

    fn tunnel(&self, public: &Endpoint) -> Option<&TunnelRow> {
        self.tunnels.get(public)
    }

    fn forward(&self, container: &Endpoint) -> Option<&ForwardRow> {
        self.forwards.get(container)
    }

    fn listener(&self, public: &Endpoint) -> Option<&ListenerRow> {
        self.listeners.get(public)
    }

    fn lists(&self, client: &ListKey) -> bool {
        self.lists.iter().any(|(bits, network)| same(*bits, client.as_bytes(), network.as_bytes()))
    }

    fn pace(&self, slot: u32) -> Option<&PaceRow> {
        self.paces.get(&slot)
    }

    fn tunnel_bucket(&self, slot: u32) -> Option<impl Deref<Target = Bucket>> {
        let mut buckets = self.buckets.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        Some(buckets.entry(slot).or_default().clone())
    }

    fn source_bucket(&self, source: &SourceKey) -> Option<impl Deref<Target = Bucket>> {
        let buckets = self.buckets.sources.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get(source).cloned()
    }

    fn begin_source_bucket(&self, source: &SourceKey, bucket: u64) {
        let mut buckets = self.buckets.sources.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.insert(*source, Arc::new(bucket.into()));
    }

    fn underlay(&self, ifindex: u32) -> Option<&UnderlayRow> {
        self.underlays.get(&ifindex)
    }

    fn peer(&self, address: &Address) -> Option<&PeerRow> {
        self.peers.get(address)
    }

    fn host(&self, number: u32) -> Option<&HostRow> {
        self.hosts.get(&number)
    }

    fn block(&self, network: u32) -> Option<&BlockRow> {
        self.blocks.get(&network)
    }

    fn member(&self, address: u32) -> Option<&MemberRow> {
        self.members.get(&address)
    }

    fn proxy(&self, container: &Address) -> Option<&ProxyRow> {
        self.proxies.get(container)
    }

    fn flow_way(&self, flow: &FlowKey) -> Option<FlowWay> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).get(flow).copied()
    }

    fn keep_flow_way(&self, flow: &FlowKey, way: FlowWay) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).insert(*flow, way);
    }

    fn path_mtu(&self, host: u32) -> Option<&PathMtu> {
        self.path_mtus.get(&host)
    }

    fn learn_path_mtu(&self, host: u32, learnt: PathMtu) {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner).insert(host, learnt);
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// Whether the first bits of two places are the same, as an LPM trie compares them.
fn same(bits: u32, a: &[u8], b: &[u8]) -> bool {
    let (whole, rest) = (bits as usize / 8, bits % 8);
    let differs = |at: usize| (a[at] ^ b[at]).leading_zeros() < rest;
    a[..whole] == b[..whole] && !(rest != 0 && differs(whole))
}
