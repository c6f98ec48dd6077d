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

/// Runs a command to its end, and hands it the signals that are meant for it.
///
/// # Errors
/// If it cannot be started.
pub(super) async fn run(mut command: Command) -> anyhow::Result<ExitCode> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command.spawn().with_context(|| {
        let program = command.as_std().get_program().display();
        format!("{program} cannot be started; check its name and mode, and PATH")
    })?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("the command was lost")?,
            _ = hangup.recv() => pass_on(&child, Signal::SIGHUP),
            _ = interrupt.recv() => pass_on_unless_typed(&child, Signal::SIGINT),
            _ = quit.recv() => pass_on_unless_typed(&child, Signal::SIGQUIT),
            _ = terminate.recv() => pass_on(&child, Signal::SIGTERM),
        }
    };
    Ok(exit_code(status))
}

/// Ctrl-C at a terminal reaches the whole process group: the command has had it already.
fn pass_on_unless_typed(child: &Child, signal: Signal) {
    if tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp()) {
        return;
    }
    pass_on(child, signal);
}

fn pass_on(child: &Child, signal: Signal) {
    // It has no id any more once its end was seen.
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    if let Err(error) = kill(Pid::from_raw(id), signal) {
        tracing::debug!(%error, %signal, "the command did not get a signal");
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> ExitCode {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command).await.unwrap()
    }

    #[tokio::test]
    async fn the_code_is_the_commands() {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)] {
            assert_eq!(shell(script).await, ExitCode::from(code), "{script}");
        }
    }

    #[tokio::test]
    async fn a_signal_reaches_the_command() {
        // The shell signals its parent, this process, which has a handler by then.
        let script = "trap 'exit 9' HUP; kill -HUP $PPID; while :; do sleep 0.05; done";
        assert_eq!(shell(script).await, ExitCode::from(9));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let error = run(Command::new("/no/such/program")).await.unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program"));
    }
}
