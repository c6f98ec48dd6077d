//! The end of `--timeout`.

use std::{future, time::Duration};

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};

/// Between the SIGTERM and the SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// What the end of `--timeout` brings, one step after the other.
pub(super) struct Deadline {
    next: Option<Instant>,
    steps: std::slice::Iter<'static, (Step, Duration)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Send the program this.
    Signal(Signal),
    /// For an init that no longer answers, which a program can bring about.
    Destroy,
}

impl Deadline {
    const STEPS: [(Step, Duration); 3] = [
        (Step::Signal(Signal::SIGTERM), GRACE),
        (Step::Signal(Signal::SIGKILL), Duration::from_secs(2)),
        (Step::Destroy, Duration::from_secs(2)),
    ];

    /// After so long; without a limit never.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        // A limit beyond the clock's range is none.
        let next = limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { next, steps: Self::STEPS.iter() }
    }

    /// Waits for the next step; for ever if there is none.
    pub(super) async fn passed(&mut self) -> Step {
        let Some(due) = self.next else { return future::pending().await };
        sleep_until(due).await;
        let Some((step, pause)) = self.steps.next() else {
            self.next = None;
            return future::pending().await;
        };
        self.next = Some(due + *pause);
        *step
    }

    /// Whether any step has come.
    pub(super) fn has_passed(&self) -> bool {
        self.steps.len() < Self::STEPS.len()
    }
}
