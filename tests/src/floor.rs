//! What a daemon holds when nobody does anything, and that it comes back to it.

use std::{fs, path::PathBuf, time::Duration};

use crate::{edge::Edge, process::wait_for};

/// Files that may come and go by themselves: a scrape, a command, a look into /proc.
const STRAY: usize = 6;

/// Open files and memory of a daemon.
#[derive(Debug, Clone)]
pub struct Floor {
    process: PathBuf,
    /// Open files.
    pub files: usize,
    /// Memory that it has touched, in KiB.
    pub memory: u64,
}

impl Floor {
    /// As it is now.
    #[track_caller]
    pub fn of(edge: &mut Edge) -> Self {
        Self::at(PathBuf::from(format!("/proc/{}", edge.daemon().pid())))
    }

    /// As it is now, of the same daemon.
    #[track_caller]
    pub fn now(&self) -> Self {
        Self::at(self.process.clone())
    }

    /// Waits until the open files are as many as they were, and memory is no more than so many
    /// KiB above: an allocator keeps some of what it was given back.
    #[track_caller]
    pub fn returns(&self, memory: u64, patience: Duration) {
        let what = |what: &str| format!("{what} to be what they were: {self:?}");
        wait_for(&what("open files"), patience, || {
            (self.now().files <= self.files + STRAY).then_some(())
        });
        wait_for(&what("KiB of memory"), patience, || {
            (self.now().memory <= self.memory + memory).then_some(())
        });
    }

    fn at(process: PathBuf) -> Self {
        let files = fs::read_dir(process.join("fd")).expect("a living process").count();
        let status = fs::read_to_string(process.join("status")).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self { process, files, memory: memory.expect("VmRSS of a living process") }
    }
}
