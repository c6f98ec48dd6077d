//! Who is calling: containers are known by the source address that the data path verified.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::region::tunnel::Container;

/// Finds the container that an address belongs to.
pub trait Callers: Send + Sync + 'static {
    /// The living container with this address, if it is one of this host's.
    fn by_address(&self, address: IpAddr) -> Option<Arc<Container>>;

    /// Whether that container may ask others about names: a question carries words outside, and
    /// so is a way out.
    fn may_ask_outside(&self, _address: IpAddr) -> bool {
        true
    }
}

/// Bounds what each source address may have at a time, so that no container takes the share
/// of another.
#[derive(Clone)]
pub(super) struct Places {
    each: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of a source's places, until it is dropped.
pub(super) struct Place {
    places: Places,
    source: IpAddr,
}

impl Places {
    /// As many places for each source.
    pub(super) fn new(each: usize) -> Self {
        Self { each, taken: Arc::default() }
    }

    /// A place for this source, unless it has all of its own.
    pub(super) fn take(&self, source: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(source).or_insert(0);
        (*count < self.each).then(|| {
            *count += 1;
            Place { places: self.clone(), source }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_places() {
        let (one, two) = (IpAddr::from([100, 64, 0, 1]), IpAddr::from([100, 64, 0, 2]));
        let places = Places::new(2);
        let first = places.take(one).unwrap();
        let _second = places.take(one).unwrap();
        assert!(places.take(one).is_none());
        assert!(places.take(two).is_some());
        drop(first);
        assert!(places.take(one).is_some());
        assert_eq!(places.taken.lock().unwrap().len(), 1, "who has none is not remembered");
    }
}
