//! What a server and its children use: CPU time and memory of their own.
//!
//! The kernel's work in soft interrupts is charged to whoever runs at the time, so a sender's
//! CPU time holds part of the receiver's: for all servers alike.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Ticks a second of the times in `/proc/PID/stat`.
const TICKS: u64 = 100;

/// One reading, summed over a process and its descendants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Time in user space and in the kernel, of all threads, the ended ones too.
    pub(super) cpu: Duration,
    /// Memory in KiB, a shared page counted by its share (PSS).
    pub(super) pss: u64,
}

impl Usage {
    /// Of a process and its descendants.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("no name in a stat file")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.context("no Pss in a smaps_rollup file")?;
        let mut usage = Self {
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            pss: pss.trim().trim_end_matches(" kB").parse()?,
        };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for child in children.split_whitespace() {
            let child = Self::of(child.parse()?)?;
            usage.cpu += child.cpu;
            usage.pss += child.pss;
        }
        Ok(usage)
    }
}
