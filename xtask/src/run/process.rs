//! A program of the demo: in a group of its own, so that Ctrl-C does not reach it before its
//! turn, and gone with this process, however that ends.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends with this guard.
pub(super) struct Process {
    what: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it prints goes to the log.
    pub(super) fn start(what: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.process_group(0).env("NO_COLOR", "1");
        // SAFETY: between fork and exec the closure makes two system calls and touches neither
        // memory nor locks of the parent.
        unsafe {
            command.pre_exec(|| {
                set_pdeathsig(Signal::SIGINT)?;
                // What this process holds back is the program's to hear.
                Ok(SigSet::all().thread_unblock()?)
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start `{what}`"))?;
        Ok(Self { what, child, log: log.to_owned() })
    }

    /// All that it has printed.
    pub(super) fn printed(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What it printed for people, without its log.
    pub(super) fn announced(&self) -> String {
        let is_log = |line: &str| line.starts_with(|c: char| c.is_ascii_digit());
        let printed = self.printed();
        let lines = printed.lines().filter(|line| !is_log(line) && *line != "ready");
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Fails, with what it printed last, if it has ended.
    pub(super) fn must_live(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let printed = self.printed();
        let lines: Vec<_> = printed.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!(
            "`{}` ended ({status}); its last lines, of {}:\n{last}",
            self.what,
            self.log.display()
        )
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        // It may have ended just now, which is what is wanted.
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).ok();
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > PATIENCE {
                eprintln!("`{}` does not end; see {}", self.what, self.log.display());
                self.child.kill().and_then(|()| self.child.wait()).ok();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
