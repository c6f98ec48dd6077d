//! What clients look up: tunnels by name and by raw port.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::region::tunnel::Tunnel;

/// Two maps behind one lock, which is never held across an await or a system call.
#[derive(Default)]
pub(crate) struct Index(RwLock<Maps>);

#[derive(Default)]
struct Maps {
    by_name: HashMap<String, Arc<Tunnel>>,
    by_raw_port: HashMap<u16, Arc<Tunnel>>,
}

impl Index {
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Tunnel>> {
        let maps = self.read();
        match maps.by_name.get(name) {
            // Most clients ask in lower case already, and then nothing is copied.
            None if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                maps.by_name.get(&name.to_ascii_lowercase()).cloned()
            }
            found => found.cloned(),
        }
    }

    pub(crate) fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>> {
        self.read().by_raw_port.get(&port).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Tunnel>> {
        self.read().by_name.values().cloned().collect()
    }

    pub(crate) fn insert(&self, tunnel: &Arc<Tunnel>) {
        let mut maps = self.write();
        maps.by_name.insert(tunnel.host.clone(), tunnel.clone());
        if let Some(raw) = &tunnel.raw {
            maps.by_raw_port.insert(raw.port, tunnel.clone());
        }
    }

    /// Removes a tunnel. Answers whether it was there.
    pub(crate) fn remove(&self, tunnel: &Arc<Tunnel>) -> bool {
        let mut maps = self.write();
        if let Some(raw) = &tunnel.raw {
            maps.by_raw_port.remove(&raw.port);
        }
        maps.by_name.remove(&tunnel.host).is_some()
    }

    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
