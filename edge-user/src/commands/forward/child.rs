//! The command that runs while its tunnel is open.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

/// The signals that ask a program to end. Those that come before anybody asks are kept.
pub(super) struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on these signals no longer end the process.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.quit.recv() => Signal::SIGQUIT,
            _ = self.terminate.recv() => Signal::SIGTERM,
        }
    }
}

/// Runs a command to its end, and hands it each signal that `next` yields.
///
/// # Errors
/// If it cannot be started.
pub(super) async fn run(
    mut command: Command,
    mut next: impl AsyncFnMut() -> Signal,
) -> anyhow::Result<ExitCode> {
    let mut child = command.spawn().with_context(|| {
        let program = command.as_std().get_program().display();
        format!("{program} cannot be started; check its name and mode, and PATH")
    })?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("the command was lost")?,
            signal = next() => pass_on(&child, signal),
        }
    };
    Ok(exit_code(status))
}

/// The exit code of a program that a signal ended, as shells count.
pub(super) fn killed_by(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
}

fn pass_on(child: &Child, signal: Signal) {
    // Ctrl-C at a terminal reaches the whole process group: the command has had it already.
    let typed = matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp());
    // It has no id any more once its end was seen.
    let id = child.id().and_then(|id| i32::try_from(id).ok()).filter(|_| !typed);
    if let Some(id) = id
        && let Err(error) = kill(Pid::from_raw(id), signal)
    {
        tracing::debug!(%error, %signal, "the command did not get a signal");
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn shell(script: &str, next: impl AsyncFnMut() -> Signal) -> ExitCode {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, next).await.unwrap()
    }

    async fn never() -> Signal {
        std::future::pending().await
    }

    #[tokio::test]
    async fn the_code_is_the_commands() {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)] {
            assert_eq!(shell(script, never).await, ExitCode::from(code), "{script}");
        }
    }

    #[tokio::test]
    async fn a_signal_reaches_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        // One that `nohup` and shells in the background leave alone: what is ignored when a shell
        // starts, it cannot trap.
        let script =
            format!("trap 'exit 9' USR1; : >{}; while :; do sleep 0.02; done", ready.display());
        let mut signals = vec![Signal::SIGUSR1];
        let once_ready = async || {
            while !ready.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            match signals.pop() {
                Some(signal) => signal,
                None => never().await,
            }
        };
        assert_eq!(shell(&script, once_ready).await, ExitCode::from(9));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let error = run(Command::new("/no/such/program"), never).await.unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program"));
    }
}
