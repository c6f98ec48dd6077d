//! Who works on which core: the servers on one, client and backends on the other. What a
//! server's worker count is then follows from the one core that it may use.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The two sides of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Core {
    /// What is measured.
    Server = 0,
    /// What measures it.
    Client = 1,
}

/// Does something on one core; processes and threads that it starts stay there.
pub(crate) fn on<T>(core: Core, job: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context("cannot ask for this thread's cores")?;
    let mut only = CpuSet::new();
    only.set(core as usize)?;
    sched_setaffinity(this, &only).context("the benchmark needs two cores, 0 and 1")?;
    let done = job();
    sched_setaffinity(this, &before).context("cannot return to all cores")?;
    done
}
