//! Who works on which core: the servers on one, client and backends on the other. How many
//! workers are fair then follows from the one core that a server may use.

use anyhow::{Context as _, Result};
use nix::{
    sched::{sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::cpu;

/// Does something on one core; processes and threads that it starts stay there.
pub(super) fn on<T>(core: usize, job: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context("cannot ask for this thread's cores")?;
    cpu::pin(core)?;
    let done = job();
    sched_setaffinity(this, &before).context("cannot return to all cores")?;
    done
}
