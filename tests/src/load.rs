//! Many kinds of clients at once, until they are told to stop.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

/// Clients that do the same again and again, each kind on a thread of its own.
#[derive(Debug)]
pub struct Load<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    rein: Rein,
    faults: Arc<Mutex<Vec<String>>>,
    kinds: Vec<Kind<'scope>>,
}

/// Holds back those who would otherwise take all of the machine. Clones are handles to one.
#[derive(Debug, Clone, Default)]
pub struct Rein(Arc<AtomicBool>);

#[derive(Debug)]
struct Kind<'scope> {
    name: String,
    rounds: Arc<AtomicU64>,
    thread: ScopedJoinHandle<'scope, ()>,
}

impl<'scope, 'env> Load<'scope, 'env> {
    /// Nobody yet.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, rein: Rein::default(), faults: Arc::default(), kinds: Vec::new() }
    }

    /// To pace what lasts long.
    pub fn rein(&self) -> Rein {
        self.rein.clone()
    }

    /// Does it again and again with such a pause, until it fails or the load stops.
    pub fn repeat(
        &mut self,
        name: &str,
        pause: Duration,
        mut round: impl FnMut() -> Result<(), String> + Send + 'scope,
    ) {
        let (rein, faults, rounds) =
            (self.rein(), self.faults.clone(), Arc::<AtomicU64>::default());
        let (kind, counter) = (name.to_owned(), rounds.clone());
        let thread = self.scope.spawn(move || {
            while !rein.is_stopped() {
                match round() {
                    Ok(()) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                    Err(fault) => {
                        let fault = format!("{kind}, after {counter:?} rounds: {fault}");
                        faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
                        break;
                    }
                }
                rein.pause(pause);
            }
        });
        self.kinds.push(Kind { name: name.to_owned(), rounds, thread });
    }

    /// Panics if any failed.
    #[track_caller]
    pub fn assert_well(&self) {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(faults.is_empty(), "clients failed: {faults:#?}");
        let panicked = |kind: &&Kind<'_>| !self.rein.is_stopped() && kind.thread.is_finished();
        let panicked = self.kinds.iter().find(panicked).map(|kind| &kind.name);
        assert!(panicked.is_none(), "clients panicked: {panicked:?}");
    }

    /// Lets each finish its round; panics if any failed, or had none. Returns how many rounds
    /// each kind had.
    #[track_caller]
    pub fn stop(mut self) -> Vec<(String, u64)> {
        self.rein.stop();
        let join = |kind: Kind<'_>| {
            kind.thread.join().unwrap_or_else(|_| panic!("clients panicked: {}", kind.name));
            (kind.name, kind.rounds.load(Ordering::Relaxed))
        };
        let rounds: Vec<_> = self.kinds.drain(..).map(join).collect();
        self.assert_well();
        assert!(
            rounds.iter().all(|(_, rounds)| *rounds > 0),
            "clients without a round: {rounds:?}"
        );
        rounds
    }
}

impl Drop for Load<'_, '_> {
    fn drop(&mut self) {
        self.rein.stop();
    }
}

impl Rein {
    /// Waits so long, unless the load stops.
    pub fn pause(&self, time: Duration) {
        if !self.is_stopped() {
            thread::sleep(time);
        }
    }

    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
