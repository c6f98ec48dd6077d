//! Writing rows.

use std::borrow::BorrowMut;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError, lpm_trie::Key},
};
use edge_common::{
    address::{Address, Endpoint},
    admit::{ListKey, PaceRow},
    tables::{AddressRow, ForwardRow, LAYOUT, ListenerRow, Settings, TunnelRow},
};
use ipnet::IpNet;

use super::{Datapath, DatapathError, lock};

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
        put(&mut lock(&self.addresses), "ADDRESSES", &address, &row)
    }

    /// Forgets an address; fine if it is not there.
    pub fn remove_address(&self, address: Address) -> Result<(), DatapathError> {
        remove(&mut lock(&self.addresses), "ADDRESSES", &address)
    }

    /// Steers a public endpoint to a container.
    pub fn add_tunnel(&self, public: Endpoint, row: TunnelRow) -> Result<(), DatapathError> {
        put(&mut lock(&self.tunnels), "TUNNELS", &public, &row)
    }

    /// Stops steering it; fine if it is not there.
    pub fn remove_tunnel(&self, public: Endpoint) -> Result<(), DatapathError> {
        remove(&mut lock(&self.tunnels), "TUNNELS", &public)
    }

    /// Says that a container's port is forwarded.
    pub fn add_forward(&self, container: Endpoint, row: ForwardRow) -> Result<(), DatapathError> {
        put(&mut lock(&self.forwards), "FORWARDS", &container, &row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_forward(&self, container: Endpoint) -> Result<(), DatapathError> {
        remove(&mut lock(&self.forwards), "FORWARDS", &container)
    }

    /// Says that userspace serves a public endpoint.
    pub fn add_listener(&self, public: Endpoint, row: ListenerRow) -> Result<(), DatapathError> {
        put(&mut lock(&self.listeners), "LISTENERS", &public, &row)
    }

    /// Forgets it; fine if it is not there.
    pub fn remove_listener(&self, public: Endpoint) -> Result<(), DatapathError> {
        remove(&mut lock(&self.listeners), "LISTENERS", &public)
    }

    /// Puts a network on the list of a slot's tunnel.
    pub fn list(&self, slot: u32, network: IpNet) -> Result<(), DatapathError> {
        lock(&self.lists)
            .insert(&listed(slot, network), 1, 0)
            .map_err(|error| DatapathError::Table("LISTS", Box::new(error)))
    }

    /// Takes it off; fine if it is not there.
    pub fn unlist(&self, slot: u32, network: IpNet) -> Result<(), DatapathError> {
        gone("LISTS", lock(&self.lists).remove(&listed(slot, network)))
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

    /// How many rows each table has, by its name.
    pub fn occupancy(&self) -> [(&'static str, usize); 5] {
        [
            ("ADDRESSES", lock(&self.addresses).keys().count()),
            ("TUNNELS", lock(&self.tunnels).keys().count()),
            ("FORWARDS", lock(&self.forwards).keys().count()),
            ("LISTENERS", lock(&self.listeners).keys().count()),
            ("LISTS", lock(&self.lists).keys().count()),
        ]
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

fn put<T: BorrowMut<MapData>, K: Pod, V: Pod>(
    table: &mut HashMap<T, K, V>,
    name: &'static str,
    key: &K,
    row: &V,
) -> Result<(), DatapathError> {
    table.insert(key, row, 0).map_err(|error| DatapathError::Table(name, Box::new(error)))
}

fn remove<T: BorrowMut<MapData>, K: Pod, V: Pod>(
    table: &mut HashMap<T, K, V>,
    name: &'static str,
    key: &K,
) -> Result<(), DatapathError> {
    gone(name, table.remove(key))
}

fn listed(slot: u32, network: IpNet) -> Key<ListKey> {
    let (bits, key) = ListKey::network(slot, network.network().into(), network.prefix_len());
    Key::new(bits, key)
}

fn gone(name: &'static str, removed: Result<(), MapError>) -> Result<(), DatapathError> {
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
