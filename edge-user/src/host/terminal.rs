//! The terminal goes back to who had it.

use std::fs::File;

use nix::{
    errno::Errno,
    sys::signal::killpg,
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// Held by a process in its terminal's foreground: an interactive shell in the container takes
/// the terminal for itself, and cannot give it back to a process it does not see.
#[derive(Debug)]
pub(super) struct Foreground {
    terminal: File,
    group: Pid,
}

impl Foreground {
    /// None without a terminal, or in its background.
    pub(super) fn hold() -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let group = getpgrp();
        (tcgetpgrp(&terminal).ok()? == group).then_some(Self { terminal, group })
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let Ok(holder) = tcgetpgrp(&self.terminal) else { return };
        // A living group has it by its own right, such as the shell that moved us to the
        // background.
        if holder != self.group && killpg(holder, None) == Err(Errno::ESRCH) {
            // Whoever finds the terminal lost takes it: every interactive shell does.
            tcsetpgrp(&self.terminal, self.group).ok();
        }
    }
}
