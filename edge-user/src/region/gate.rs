//! Which daemon may change the region: one at a time, also while one replaces another.
//!
//! Whatever starts, stops or attaches passes the gate. To hand over, a daemon closes it: what
//! had passed finishes, what comes waits. Then the gate is either opened again, and they go on as
//! if nothing had been, or the region is another daemon's, and they are told so.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Whether this daemon may change the region. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<RwLock<Holder>>);

/// The right to one change, until it is dropped. Not to be asked for by who holds one.
#[derive(Debug)]
pub struct Pass(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<Holder>);

/// The gate, closed. Dropped, it is open again.
#[derive(Debug)]
pub struct Closed(OwnedRwLockWriteGuard<Holder>);

/// The region is another daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("daemon: another one took over while the call waited; try again")]
pub struct TakenOver;

#[derive(Debug, Default)]
enum Holder {
    #[default]
    Us,
    Successor,
}

impl Gate {
    /// Waits while the gate is closed.
    ///
    /// # Errors
    /// [`TakenOver`] from the moment on that the region is another daemon's.
    pub async fn pass(&self) -> Result<Pass, TakenOver> {
        let holder = self.0.clone().read_owned().await;
        match *holder {
            Holder::Us => Ok(Pass(holder)),
            Holder::Successor => Err(TakenOver),
        }
    }

    /// Closes the gate, once all who had passed have finished.
    pub async fn close(&self) -> Closed {
        Closed(self.0.clone().write_owned().await)
    }
}

impl Closed {
    /// The region is another daemon's from now on.
    pub fn hand_over(mut self) {
        *self.0 = Holder::Successor;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::poll;
    use tokio::time::timeout;

    use super::*;

    /// Far more than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn it_closes_behind_those_who_passed() {
        let gate = Gate::default();
        let pass = gate.pass().await.unwrap();
        let mut closing = Box::pin(gate.close());
        assert!(poll!(&mut closing).is_pending());
        // Who comes after that waits.
        let mut late = Box::pin(gate.pass());
        assert!(poll!(&mut late).is_pending());
        drop(pass);
        let closed = timeout(PATIENCE, closing).await.unwrap();
        assert!(poll!(&mut late).is_pending());
        drop(closed);
        assert!(timeout(PATIENCE, late).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn those_who_waited_learn_of_the_successor() {
        let gate = Gate::default();
        let closed = gate.close().await;
        let mut late = Box::pin(gate.pass());
        assert!(poll!(&mut late).is_pending());
        closed.hand_over();
        assert_eq!(timeout(PATIENCE, late).await.unwrap().unwrap_err(), TakenOver);
        assert_eq!(gate.pass().await.unwrap_err(), TakenOver);
    }
}
