//! Containers that outlived a daemon and whose owners have not come back yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::{Attached, Containers};

/// A container without an owner.
#[derive(Clone)]
pub struct Orphan {
    /// The container.
    pub attached: Arc<Attached>,
    /// Cancelled when its owner is back.
    pub claimed: CancellationToken,
}

/// Why a claim was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// There is no such container.
    #[error("container {0} is not here any more: its lease or its namespace ended; attach it anew")]
    Gone(String),
    /// Somebody holds it.
    #[error("container {0:?} has its owner already; end that one, or choose another container")]
    Owned(String),
    /// The caller is not its owner.
    #[error("container {0:?} belongs to somebody else: the token is not its owner's; attach anew")]
    WrongToken(String),
}

/// All of them, by id.
#[derive(Default)]
pub(super) struct Orphans(Mutex<HashMap<String, Orphan>>);

impl Orphans {
    pub(super) fn add(&self, attached: &Arc<Attached>) -> Orphan {
        let orphan = Orphan { attached: attached.clone(), claimed: CancellationToken::new() };
        self.lock().insert(attached.container.id.clone(), orphan.clone());
        orphan
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Orphan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers {
    /// Gives a container that has no owner to the caller who knows its token.
    pub fn claim(&self, id: &str, token: &str) -> Result<Arc<Attached>, ClaimError> {
        let mut orphans = self.orphans.lock();
        let attached = self.by_id(id).ok_or_else(|| ClaimError::Gone(id.to_owned()))?;
        let name = || attached.container.name.clone();
        // Not found out by the time that it takes: the socket is root's.
        if attached.token != token {
            return Err(ClaimError::WrongToken(name()));
        }
        let orphan = orphans.remove(id).ok_or_else(|| ClaimError::Owned(name()))?;
        orphan.claimed.cancel();
        Ok(orphan.attached)
    }

    /// Gives up waiting for a container's owner. Answers whether there still was none; then the
    /// caller must end the container.
    pub fn give_up(&self, id: &str) -> bool {
        self.orphans.lock().remove(id).is_some()
    }
}
