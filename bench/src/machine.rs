//! The machine that a result was measured on.

use std::fs;

use serde::Serialize;

/// Enough to judge a figure by.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    memory_gib: u64,
    kernel: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse::<u64>();
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            memory_gib: memory.unwrap_or_default() / 1024 / 1024,
            kernel: kernel.trim().to_owned(),
        }
    }
}

fn field(text: &str, name: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
