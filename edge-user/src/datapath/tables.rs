//! Writing rows.

use std::{collections::HashSet, hash::Hash};

use super::{Datapath, DatapathError, lock};
use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use edge_common::{
    address::{Address, Endpoint},
    admit::PaceRow,
    hosts::{BlockRow, HostRow, PeerRow, UnderlayRow},
    tables::{
        AddressRow, ForwardRow, LAYOUT, ListenerRow, MemberRow, ProxyRow, Settings, TunnelRow,
    },
};

impl Datapath {
    /// Writes the host's settings; from then on decisions are made.
    pub fn configure(&self, settings: &Settings) -> Result<(), DatapathError> {
        let row = Settings { layout: LAYOUT, ..*settings };
        lock(&self.settings)
            .set(0, row, 0)
            .map_err(|error| DatapathError::Table("SETTINGS", Box::new(error)))
    }

    /// Says who owns an address.
    pub fn add_address(&self, address: Address, row: AddressRow) -> Result<(), DatapathError> {
        lock(&self.addresses).put(address, row)
    }

    /// Forgets an address; fine if it is not there.
    pub fn remove_address(&self, address: Address) -> Result<(), DatapathError> {
        lock(&self.addresses).remove(address)
    }

    /// Steers a public endpoint to a container.
    pub fn add_tunnel(&self, public: Endpoint, row: TunnelRow) -> Result<(), DatapathError> {
        lock(&self.tunnels).put(public, row)
    }

    /// Stops steering it; fine if it is not there.
    pub fn remove_tunnel(&self, public: Endpoint) -> Result<(), DatapathError> {
        lock(&self.tunnels).remove(public)
    }

    /// Says that a container's port is forwarded.
    pub fn add_forward(&self, container: Endpoint, row: ForwardRow) -> Result<(), DatapathError> {
        lock(&self.forwards).put(container, row)
    }

    /// What is said of a container's port.
    pub fn forward(&self, container: Endpoint) -> Option<ForwardRow> {
        lock(&self.forwards).rows.get(&container, 0).ok()
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_forward(&self, container: Endpoint) -> Result<(), DatapathError> {
        lock(&self.forwards).remove(container)
    }

    /// Says that userspace serves a public endpoint.
    pub fn add_listener(&self, public: Endpoint, row: ListenerRow) -> Result<(), DatapathError> {
        lock(&self.listeners).put(public, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_listener(&self, public: Endpoint) -> Result<(), DatapathError> {
        lock(&self.listeners).remove(public)
    }

    /// Says how often connections to a slot's tunnel may open, and fills its bucket.
    pub fn set_pace(&self, slot: u32, row: PaceRow) -> Result<(), DatapathError> {
        lock(&self.paces)
            .set(slot, row, 0)
            .map_err(|error| DatapathError::Table("PACES", Box::new(error)))?;
        lock(&self.tunnel_buckets)
            .set(slot, 0, 0)
            .map_err(|error| DatapathError::Table("TUNNEL_BUCKETS", Box::new(error)))
    }

    /// Says that other hosts are reached by an interface.
    pub fn add_underlay(&self, ifindex: u32, row: UnderlayRow) -> Result<(), DatapathError> {
        lock(&self.underlays).put(ifindex, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_underlay(&self, ifindex: u32) -> Result<(), DatapathError> {
        lock(&self.underlays).remove(ifindex)
    }

    /// Says whose an address of the underlay is.
    pub fn add_peer(&self, address: Address, row: PeerRow) -> Result<(), DatapathError> {
        lock(&self.peers).put(address, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_peer(&self, address: Address) -> Result<(), DatapathError> {
        lock(&self.peers).remove(address)
    }

    /// Says where another host of the region is.
    pub fn add_host(&self, number: u32, row: HostRow) -> Result<(), DatapathError> {
        lock(&self.hosts).put(number, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_host(&self, number: u32) -> Result<(), DatapathError> {
        lock(&self.hosts).remove(number)
    }

    /// Says whose an address block is. `network` as it lies in an IPv4 header.
    pub fn add_block(&self, network: u32, row: BlockRow) -> Result<(), DatapathError> {
        lock(&self.blocks).put(network, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_block(&self, network: u32) -> Result<(), DatapathError> {
        lock(&self.blocks).remove(network)
    }

    /// Says which cluster a container is a member of. `address` as it lies in an IPv4 header.
    pub fn add_member(&self, address: u32, row: MemberRow) -> Result<(), DatapathError> {
        lock(&self.members).put(address, row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_member(&self, address: u32) -> Result<(), DatapathError> {
        lock(&self.members).remove(address)
    }

    /// Says which way the egress of a proxied container goes.
    pub fn add_proxy(&self, container: Address, row: ProxyRow) -> Result<(), DatapathError> {
        lock(&self.proxies).put(container, row)
    }

    /// From now on it goes nowhere; fine if it did not.
    pub fn remove_proxy(&self, container: Address) -> Result<(), DatapathError> {
        lock(&self.proxies).remove(container)
    }

    /// Ends the adoption of members, which may be later than that of all else: of what clusters
    /// there are, a machine hears with its first session.
    pub fn settle_members(&self) -> Result<(), DatapathError> {
        lock(&self.members).settle()
    }

    /// The same of the ways of proxied egress.
    pub fn settle_proxies(&self) -> Result<(), DatapathError> {
        lock(&self.proxies).settle()
    }

    /// How many rows each table has, by its name.
    pub fn occupancy(&self) -> [(&'static str, usize); 10] {
        [
            ("ADDRESSES", lock(&self.addresses).len()),
            ("TUNNELS", lock(&self.tunnels).len()),
            ("FORWARDS", lock(&self.forwards).len()),
            ("LISTENERS", lock(&self.listeners).len()),
            ("LISTS", lock(&self.lists).len()),
            ("PEERS", lock(&self.peers).len()),
            ("HOSTS", lock(&self.hosts).len()),
            ("BLOCKS", lock(&self.blocks).len()),
            ("MEMBERS", lock(&self.members).len()),
            ("PROXIES", lock(&self.proxies).len()),
        ]
    }
}

/// A table of rows by key.
pub(super) struct Table<K, V> {
    name: &'static str,
    rows: HashMap<MapData, K, V>,
    /// Of an earlier daemon, and not written again by this one.
    stale: HashSet<K>,
}

impl<K: Pod + Eq + Hash, V: Pod> Table<K, V> {
    /// Takes it out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let rows: HashMap<MapData, K, V> = take(ebpf, name)?;
        let keys = rows.keys().collect::<Result<_, _>>();
        let stale = keys.map_err(|error| DatapathError::Table(name, Box::new(error)))?;
        Ok(Self { name, rows, stale })
    }

    /// Removes what this daemon has not written again.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        for key in std::mem::take(&mut self.stale) {
            self.remove(key)?;
        }
        Ok(())
    }

    /// Something of every row.
    pub(super) fn all<R>(&self, of: impl Fn(V) -> R) -> Result<Vec<R>, DatapathError> {
        let rows = self.rows.iter().map(|row| row.map(|(_, row)| of(row)));
        rows.collect::<Result<_, _>>()
            .map_err(|error| DatapathError::Table(self.name, Box::new(error)))
    }

    fn put(&mut self, key: K, row: V) -> Result<(), DatapathError> {
        self.stale.remove(&key);
        let put = self.rows.insert(key, row, 0);
        put.map_err(|error| DatapathError::Table(self.name, Box::new(error)))
    }

    fn remove(&mut self, key: K) -> Result<(), DatapathError> {
        self.stale.remove(&key);
        gone(self.name, self.rows.remove(&key))
    }

    fn len(&self) -> usize {
        self.rows.keys().count()
    }
}

/// Takes a typed table out of the loaded object.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    T::try_from(map).map_err(|error| DatapathError::Table(name, Box::new(error)))
}

/// Removing what is not there is fine.
pub(super) fn gone(name: &'static str, removed: Result<(), MapError>) -> Result<(), DatapathError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(error) => Err(DatapathError::Table(name, Box::new(error))),
    }
}
