//! Init: pid 1 of a container. The program is its child rather than pid 1 itself, so that
//! signals do to it what they do anywhere, and it need not reap orphans.

use std::{
    io,
    os::fd::AsFd,
    process::{self, Child, ExitCode},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use socket2::Socket;

use super::{
    capabilities,
    control::{self, Command, Report},
    init::{self, BUG, failure},
    programs, view,
};
use crate::{
    cli::InitArgs,
    error::{Error, Kind},
};

/// Until the program has ended; returns its exit code.
pub(super) fn main(args: &InitArgs, control: &Socket) -> Result<ExitCode, Error> {
    // If the parent died before this, so did `edge run`, whose end of the socket is then closed.
    init::die_with_parent()?;
    init::set_mask(&SigSet::all())?;
    control.set_cloexec(true).map_err(|error| failure("control socket", &error, BUG))?;
    let children = init::children()?;
    view::fresh_proc().map_err(|error| failure("mounts", &error, "look at the kernel's log"))?;
    capabilities::limit()
        .map_err(|error| failure("capabilities", &error, "run it with CAP_SETPCAP"))?;
    let program = start(args)?;
    // If nobody hears it, the next wait ends at once.
    control::send(control, &Report::Started).ok();
    supervise(&program, control, &children).map_err(|error| failure("init", &error, BUG))
}

/// Starts the program with an empty signal mask. Dispositions are as they were when `edge run`
/// started, for no process of ours has changed any.
fn start(args: &InitArgs) -> Result<Child, Error> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Error::new(Kind::Usage, "program", "none is given", "name it after --"));
    };
    // A child inherits the mask. The kernel itself keeps signals from a pid 1 without handlers
    // meanwhile, and children that end now are looked for before the first wait.
    init::set_mask(&SigSet::empty())?;
    let spawned = process::Command::new(program).args(rest).spawn();
    init::set_mask(&SigSet::all())?;
    spawned.map_err(|error| programs::cannot_start(program, &error))
}

/// Until the program ends: passes signals on, and reaps whatever else ended.
fn supervise(program: &Child, control: &Socket, children: &SignalFd) -> io::Result<ExitCode> {
    let pid = Pid::from_raw(i32::try_from(program.id()).map_err(io::Error::other)?);
    loop {
        if let Some(code) = reap(pid)? {
            return Ok(code);
        }
        let mut ready =
            [children.as_fd(), control.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while children.read_signal()?.is_some() {}
        if !ready[1].any().unwrap_or_default() {
            continue;
        }
        match control::receive(control)? {
            // A program that has just ended is reaped in the next round.
            Some(Command::Signal(number)) => {
                Signal::try_from(number).and_then(|signal| kill(pid, signal)).ok();
            }
            Some(Command::Start(_)) => {}
            // `edge run` is gone; by returning, the container follows.
            None => return Ok(init::failed()),
        }
    }
}

/// Reaps every child that has ended; the program's code if it was among them.
fn reap(program: Pid) -> io::Result<Option<ExitCode>> {
    let mut ended = None;
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _dumped)) => (pid, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if pid == program {
            ended = Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        }
    }
}
