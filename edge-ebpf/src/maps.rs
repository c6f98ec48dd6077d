//! Every map: what it holds, how many rows, who writes it. Userspace writes all but the counters.

use core::ops::Deref;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockMap, lpm_trie::Key},
};
use aya_log_ebpf::debug;
use edge_common::{
    account::{self, Counts, MAX_ROWS},
    address::{Address, Endpoint},
    admit::{Bucket, ListKey, MAX_LISTED, MAX_SOURCES, PaceRow, SourceKey},
    decide::{Outcome, Passage},
    hosts::{
        BlockRow, HostRow, MAX_BLOCKS, MAX_HOSTS, MAX_PEERS, MAX_UNDERLAYS, PathMtu, PeerRow,
        UnderlayRow,
    },
    tables::{
        AddressRow, Count, FlowKey, FlowWay, ForwardRow, ListenerRow, MAX_ADDRESSES, MAX_FLOWS,
        MAX_LISTENERS, MAX_MEMBERS, MAX_PROXIED, MAX_TUNNELS, MemberRow, ProxyRow, Settings,
        Tables, Traffic, TunnelRow,
    },
    verdict::Hook,
};

use crate::trace;

/// Hosts whose ways are narrower than the others'; one more pushes out another.
const MAX_PATH_MTUS: u32 = 4096;

/// What holds for the host; one row, zero until the daemon has written it.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

// A removed row of a preallocated table may be handed to another key while a program still reads
// it; without preallocation the kernel frees it after a grace period.

/// Addresses of the host's containers and of its service namespace.
#[map]
static ADDRESSES: HashMap<Address, AddressRow> =
    HashMap::with_max_entries(MAX_ADDRESSES, BPF_F_NO_PREALLOC);

/// Raw tunnels by public endpoint.
#[map]
static TUNNELS: HashMap<Endpoint, TunnelRow> =
    HashMap::with_max_entries(MAX_TUNNELS, BPF_F_NO_PREALLOC);

/// Forwarded ports by container endpoint.
#[map]
static FORWARDS: HashMap<Endpoint, ForwardRow> =
    HashMap::with_max_entries(MAX_TUNNELS, BPF_F_NO_PREALLOC);

/// Endpoints that userspace listeners serve.
#[map]
static LISTENERS: HashMap<Endpoint, ListenerRow> =
    HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

/// Networks on tunnels' lists; the value says nothing.
#[map]
static LISTS: LpmTrie<ListKey, u32> = LpmTrie::with_max_entries(MAX_LISTED, 0);

/// How often connections may open, by tunnel slot.
#[map]
static PACES: Array<PaceRow> = Array::with_max_entries(MAX_TUNNELS, 0);

/// Buckets by tunnel slot; the daemon empties one before a tunnel gets its slot.
#[map]
static TUNNEL_BUCKETS: Array<u64> = Array::with_max_entries(MAX_TUNNELS, 0);

/// Buckets by source; written here only. One row for all CPUs: a NIC spreads a source's
/// connections over them, and a row for each would let it in as often.
#[map]
static SOURCE_BUCKETS: LruHashMap<SourceKey, u64> = LruHashMap::with_max_entries(MAX_SOURCES, 0);

/// Interfaces towards the underlay, by index.
#[map]
static UNDERLAYS: HashMap<u32, UnderlayRow> =
    HashMap::with_max_entries(MAX_UNDERLAYS, BPF_F_NO_PREALLOC);

/// Whose an address of the underlay is.
#[map]
static PEERS: HashMap<Address, PeerRow> = HashMap::with_max_entries(MAX_PEERS, BPF_F_NO_PREALLOC);

/// The region's other hosts, by number.
#[map]
static HOSTS: HashMap<u32, HostRow> = HashMap::with_max_entries(MAX_HOSTS, BPF_F_NO_PREALLOC);

/// Address blocks of all hosts, by network as it lies in an IPv4 header.
#[map]
static BLOCKS: HashMap<u32, BlockRow> = HashMap::with_max_entries(MAX_BLOCKS, BPF_F_NO_PREALLOC);

/// Members of clusters that have members here, by IPv4 address as it lies in a header.
#[map]
static MEMBERS: HashMap<u32, MemberRow> = HashMap::with_max_entries(MAX_MEMBERS, BPF_F_NO_PREALLOC);

/// Ways of proxied containers' egress, by container address.
#[map]
static PROXIES: HashMap<Address, ProxyRow> =
    HashMap::with_max_entries(MAX_PROXIED, BPF_F_NO_PREALLOC);

/// The ways that flows of proxied containers have taken; written here only.
#[map]
static FLOWS: LruHashMap<FlowKey, FlowWay> = LruHashMap::with_max_entries(MAX_FLOWS, 0);

/// What the underlay said of ways to hosts, by number; written here only.
#[map]
static PATH_MTUS: LruHashMap<u32, PathMtu> = LruHashMap::with_max_entries(MAX_PATH_MTUS, 0);

/// The listening sockets behind all raw ports: IPv4, then IPv6; the daemon puts them there.
#[map]
static RAW_LISTENERS: SockMap = SockMap::with_max_entries(2, 0);

/// Verdicts by [`account::row`]; written here, a row for each CPU.
#[map]
static VERDICTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(MAX_ROWS, 0);

/// Traffic by tunnel slot; written here, a row for each CPU.
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_TUNNELS, 0);

/// The maps as a decision reads them.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn address(&self, address: &Address) -> Option<&AddressRow> {
        // SAFETY: the table is not preallocated: a row that is removed lives until the program ends.
        unsafe { ADDRESSES.get(address) }
    }

    #[inline(always)]
    fn tunnel(&self, public: &Endpoint) -> Option<&TunnelRow> {
        // SAFETY: as in `address`.
        unsafe { TUNNELS.get(public) }
    }

    #[inline(always)]
    fn forward(&self, container: &Endpoint) -> Option<&ForwardRow> {
        // SAFETY: as in `address`.
        unsafe { FORWARDS.get(container) }
    }

    #[inline(always)]
    fn listener(&self, public: &Endpoint) -> Option<&ListenerRow> {
        // SAFETY: as in `address`.
        unsafe { LISTENERS.get(public) }
    }

    #[inline(always)]
    fn lists(&self, client: &ListKey) -> bool {
        LISTS.get(Key::new(8 * size_of::<ListKey>() as u32, *client)).is_some()
    }

    #[inline(always)]
    fn pace(&self, slot: u32) -> Option<&PaceRow> {
        PACES.get(slot)
    }

    #[inline(always)]
    fn tunnel_bucket(&self, slot: u32) -> Option<impl Deref<Target = Bucket>> {
        TUNNEL_BUCKETS.get_ptr_mut(slot).map(bucket)
    }

    #[inline(always)]
    fn source_bucket(&self, source: &SourceKey) -> Option<impl Deref<Target = Bucket>> {
        // A row that is pushed out meanwhile may become another source's: then that one has a
        // token less.
        SOURCE_BUCKETS.get_ptr_mut(source).map(bucket)
    }

    #[inline(always)]
    fn begin_source_bucket(&self, source: &SourceKey, bucket: u64) {
        // It fails if no row can be had at the moment: the source is then forgotten at once.
        let _forgotten = SOURCE_BUCKETS.insert(source, bucket, 0);
    }

    #[inline(always)]
    fn underlay(&self, ifindex: u32) -> Option<&UnderlayRow> {
        // SAFETY: as in `address`.
        unsafe { UNDERLAYS.get(&ifindex) }
    }

    #[inline(always)]
    fn peer(&self, address: &Address) -> Option<&PeerRow> {
        // SAFETY: as in `address`.
        unsafe { PEERS.get(address) }
    }

    #[inline(always)]
    fn host(&self, number: u32) -> Option<&HostRow> {
        // SAFETY: as in `address`.
        unsafe { HOSTS.get(&number) }
    }

    #[inline(always)]
    fn block(&self, network: u32) -> Option<&BlockRow> {
        // SAFETY: as in `address`.
        unsafe { BLOCKS.get(&network) }
    }

    #[inline(always)]
    fn member(&self, address: u32) -> Option<&MemberRow> {
        // SAFETY: as in `address`.
        unsafe { MEMBERS.get(&address) }
    }

    #[inline(always)]
    fn proxy(&self, container: &Address) -> Option<&ProxyRow> {
        // SAFETY: as in `address`.
        unsafe { PROXIES.get(container) }
    }

    #[inline(always)]
    fn flow_way(&self, flow: &FlowKey) -> Option<FlowWay> {
        // SAFETY: a row that is pushed out meanwhile may become another flow's: then one packet
        // goes another way.
        unsafe { FLOWS.get(flow) }.copied()
    }

    #[inline(always)]
    fn keep_flow_way(&self, flow: &FlowKey, way: FlowWay) {
        // It fails if no row can be had at the moment: the next packet chooses the same.
        let _forgotten = FLOWS.insert(flow, way, 0);
    }

    #[inline(always)]
    fn path_mtu(&self, host: u32) -> Option<&PathMtu> {
        // SAFETY: a row that is pushed out meanwhile may become another host's: then one packet is
        // judged by that one's way.
        unsafe { PATH_MTUS.get(&host) }
    }

    #[inline(always)]
    fn learn_path_mtu(&self, host: u32, learnt: PathMtu) {
        // It fails if no row can be had at the moment: the next packet brings the news again.
        let _forgotten = PATH_MTUS.insert(&host, learnt, 0);
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a plain helper call without pointers.
        unsafe { bpf_ktime_get_ns() }
    }
}

#[inline(always)]
fn bucket<'row>(row: *mut u64) -> &'row Bucket {
    // SAFETY: the row is 8 bytes, aligned, and stays memory of the table while the program runs; a
    // `Bucket` is one such word, and all access to it is atomic.
    unsafe { &*row.cast::<Bucket>() }
}

/// The listening sockets, for `sk_lookup`.
pub(crate) fn raw_listeners() -> &'static SockMap {
    &RAW_LISTENERS
}

/// Counts a decision; the only place that does. `verdict` is the outcome's, as a number. Logging is
/// compiled in and off: the level is a constant that userspace sets at load, and with none the
/// verifier drops the code.
#[inline(always)]
pub(crate) fn count<C: EbpfContext, const TRACED: bool>(
    ctx: &C,
    hook: Hook,
    verdict: u32,
    outcome: &Outcome,
    bytes: u64,
) {
    debug!(ctx, "{} {}", hook as u32, outcome.verdict as u32);
    if TRACED {
        trace::decided(outcome);
    }
    if let Some(row) = VERDICTS.get_ptr_mut(account::row(outcome.place, hook)) {
        // SAFETY: the row is this CPU's own, and a program is not interrupted by another run of
        // itself on the same CPU.
        let counts = unsafe { &mut *row };
        // A mask is what the verifier understands; no verdict is beyond it.
        add(&mut counts[verdict as usize & (counts.len() - 1)], bytes);
    }
    if outcome.passage == Passage::None {
        return;
    }
    if let Some(row) = TRAFFIC.get_ptr_mut(outcome.slot) {
        // SAFETY: as above.
        let row = unsafe { &mut *row };
        row.connections += u64::from(outcome.passage == Passage::Accept);
        if outcome.passage == Passage::In {
            add(&mut row.inbound, bytes);
        } else {
            add(&mut row.outbound, bytes);
        }
    }
}

#[inline(always)]
fn add(count: &mut Count, bytes: u64) {
    count.packets += 1;
    count.bytes += bytes;
}
