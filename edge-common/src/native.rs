//! The same packet and tables without a kernel, for tests, fuzzers and models.

use std::collections::HashMap;

use crate::{
    address::{Address, Endpoint},
    checksum::Difference,
    packet::Packet,
    tables::{AddressRow, ForwardRow, ListenerRow, Settings, Tables, TunnelRow},
};

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Packet for Frame {
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
}

/// The tables in memory.
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
}

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
}
