//! CPUs: which one a thread runs on, and how long all of them were busy.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Where servers run; what stands between the two ends runs wherever the kernel puts it.
pub(crate) const SERVER: usize = 0;
/// Where clients run.
pub(crate) const CLIENT: usize = 1;

/// Keeps this thread on one CPU; on a machine with one it stays where it is.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    let cpus = std::thread::available_parallelism().map_or(1, Into::into);
    set.set(cpu.min(cpus - 1))?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot choose a CPU")
}

/// A stretch of time of the whole machine.
pub(crate) struct Busy {
    begun: Instant,
    idle: Duration,
}

impl Busy {
    /// From now on.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { begun: Instant::now(), idle: idle()? })
    }

    /// CPU time spent since then, by everything on the machine: programs, kernel and interrupts.
    /// Taken from what was left idle, which the kernel measures instead of sampling.
    pub(crate) fn time(&self) -> Result<Duration> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let all = self.begun.elapsed() * u32::try_from(cpus)?;
        Ok(all.saturating_sub(idle()?.saturating_sub(self.idle)))
    }
}

/// Idle time of all CPUs since boot, and time that the hypervisor kept for others.
fn idle() -> Result<Duration> {
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // proc_stat(5): user nice system idle iowait irq softirq steal
    let field = |index: usize| fields.get(index).copied().context("/proc/stat is too short");
    Ok(Duration::from_secs_f64((field(3)? + field(4)? + field(7)?) / TICKS))
}
