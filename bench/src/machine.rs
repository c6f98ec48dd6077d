//! The machine that a result was measured on, and when.

use std::fs;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, macros::format_description};

/// Enough to judge a figure by.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    memory_gib: u64,
    kernel: String,
    date: String,
    /// Processes that wanted a CPU in the minute before: above 0.5 it was not idle.
    load_before: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let memory = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse::<u64>();
        let date = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day]"));
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            memory_gib: memory.unwrap_or_default() / 1024 / 1024,
            kernel: kernel.trim().to_owned(),
            date: date.unwrap_or_default(),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line for people.
    pub(crate) fn sentence(&self) -> String {
        let Self { cpu, cpus, memory_gib, kernel, date, load_before } = self;
        format!(
            "{cpus} × {cpu}, {memory_gib} GiB, Linux {kernel}, {date}, load before {load_before}"
        )
    }
}

fn field(text: &str, name: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
