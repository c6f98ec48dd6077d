//! Ctrl-C as an orderly end: signals are looked for wherever something is waited for.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// How often a condition is looked at.
const BEAT: Duration = Duration::from_millis(50);

/// The signals that end the demo, held back from this thread.
pub(super) struct Signals {
    file: SignalFd,
}

/// Somebody wants it to end.
#[derive(Debug)]
pub(super) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Signals {
    /// Holds them back from now on.
    pub(super) fn take() -> Result<Self> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block().context("cannot hold signals back")?;
        let file = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
            .context("cannot open a file for signals; is the limit of open files reached?")?;
        Ok(Self { file })
    }

    /// Waits this long, unless a signal comes: then [`Interrupted`].
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        let mut files = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, timeout).context("cannot wait for signals")? {
            0 => Ok(()),
            _ => Err(Interrupted.into()),
        }
    }

    /// Waits until the condition gives a value.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if begun.elapsed() > patience {
                bail!("waited {patience:?} in vain for {what}; is the machine very busy?");
            }
            self.pause(BEAT)?;
        }
    }
}
