//! Signals as a stream, with their origin: those that a terminal sends reach the program by
//! themselves and must not be sent twice.

use std::io;

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::sys;

/// Those that `edge run` passes on.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals sent to this process.
#[derive(Debug)]
pub struct Signals(AsyncFd<SignalFd>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Sent by the terminal, hence to every process of the foreground group. (A process that
    /// signals the whole group cannot be told from one that means us; that one arrives twice.)
    pub by_terminal: bool,
}

impl Signals {
    /// Takes over the process's signals. Call it before there is a second thread.
    pub fn take() -> io::Result<Self> {
        let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status")?);
        // What was ignored from the start stays so, for the program too: that is how nohup works.
        let mut set: SigSet =
            FORWARDED.into_iter().filter(|signal| !has(ignored, *signal)).collect();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // Not to be stopped when the terminal is taken back from a program that has ended.
        set = SigSet::empty();
        set.add(Signal::SIGTTOU);
        set.thread_block()?;
        sys::watch_signals(fd).map(Self)
    }

    /// The next one.
    pub async fn next(&self) -> io::Result<Received> {
        loop {
            let read = |fd: &SignalFd| {
                fd.read_signal()?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))
            };
            let info = self.0.async_io(Interest::READABLE, read).await?;
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if let Ok(signal) = Signal::try_from(number) {
                return Ok(Received { signal, by_terminal: info.ssi_code == libc::SI_KERNEL });
            }
        }
    }
}

impl Received {
    /// Whether it ends most programs that people end by hand.
    pub fn asks_to_end(self) -> bool {
        use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        matches!(self.signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT)
    }
}

/// Reads `SigIgn` of /proc/PID/status.
fn ignored_signals(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

fn has(mask: u64, signal: Signal) -> bool {
    mask & (1 << (signal as u32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_status() {
        let mask = ignored_signals("Name:\tsh\nSigIgn:\t0000000000001001\nSigCgt:\t0\n");
        assert!(has(mask, Signal::SIGHUP) && has(mask, Signal::SIGPIPE));
        assert!(!has(mask, Signal::SIGINT));
        assert_eq!(ignored_signals(""), 0);
    }
}
