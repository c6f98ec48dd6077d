//! The first two processes of a container, between `edge run` and the program.
//!
//! `edge run` starts itself again, twice over, because namespaces want processes of one thread
//! and a pid namespace wants a new process:
//!
//! 1. *unshare* makes the namespaces, so that the daemon can wire the network, and waits;
//! 2. *init* is pid 1 inside: it finishes the mounts, gives up capabilities, starts the program,
//!    reaps orphans and passes signals on.
//!
//! Each dies with the process before it, and the whole pid namespace with init.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    process::{self, Child, ExitCode, ExitStatus},
};

use clap::ValueEnum;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, chdir, getppid, sethostname},
};
use socket2::Socket;

use super::{
    capabilities,
    control::{self, Command, Report, Setup},
    mounts, sys,
};
use crate::{
    cli::InitArgs,
    error::{Error, Kind, causes},
};

/// The hidden command under which `edge run` starts this.
pub const COMMAND: &str = "__init";

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Makes the namespaces.
    Unshare,
    /// Is pid 1.
    Init,
}

impl Stage {
    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unshare => "unshare",
            Self::Init => "init",
        }
    }
}

/// Takes one of the steps and returns the program's exit code.
pub fn main(args: &InitArgs) -> ExitCode {
    let failed = ExitCode::from(Kind::Failure.exit_code());
    // Errors before there is a way to report them concern only who runs this by hand.
    let Ok(control) = sys::inherited_socket(args.control) else { return failed };
    let stage = match args.stage {
        Stage::Unshare => unshare_stage,
        Stage::Init => init_stage,
    };
    stage(args, &control).unwrap_or_else(|error| {
        let report = Report::Failed { exit: error.kind().exit_code(), text: error.to_string() };
        // If nobody listens, nobody is left to be told.
        control::send(&control, &report).ok();
        failed
    })
}

/// The exit code that stands for how a process ended, as shells have it.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

fn unshare_stage(args: &InitArgs, control: &Socket) -> Result<ExitCode, Error> {
    die_with_parent()?;
    // It may have died before the line above.
    if args.parent != Some(getppid().as_raw()) {
        return Ok(ExitCode::from(Kind::Failure.exit_code()));
    }
    set_mask(&SigSet::all())?;
    let namespaces = CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(|error| {
        let remedy = "run it as root with CAP_SYS_ADMIN, on a kernel with all five namespaces";
        failure("namespaces", &error, remedy)
    })?;
    mounts::detach().map_err(|error| failure("mounts", &error, "look at /proc/self/mountinfo"))?;
    tell(control, &Report::Unshared)?;

    // The new pid namespace begins with this child. The control socket is passed on to it.
    let mut init = process::Command::new("/proc/self/exe")
        .args([COMMAND, "--stage", Stage::Init.as_str()])
        .args(["--control", &control.as_raw_fd().to_string(), "--"])
        .args(&args.command)
        .spawn()
        .map_err(|error| failure("init", &error, "see `ulimit -u` and the free memory"))?;
    let status = init.wait().map_err(|error| failure("init", &error, "report this as a bug"))?;
    Ok(exit_code(status))
}

fn init_stage(args: &InitArgs, control: &Socket) -> Result<ExitCode, Error> {
    // If the parent died before this, so did `edge run`, whose end of the socket is then closed.
    die_with_parent()?;
    set_mask(&SigSet::all())?;
    let bug = "report this as a bug";
    control.set_cloexec(true).map_err(|error| failure("control socket", &error, bug))?;
    let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC)
        .map_err(|error| failure("signals", &error, "raise the limit of open files"))?;
    let setup = match hear(control)? {
        Some(Command::Start(setup)) => setup,
        Some(Command::Signal(_)) | None => return Ok(ExitCode::from(Kind::Failure.exit_code())),
    };
    enclose(&setup)?;
    let program = start(args, setup)?;
    tell(control, &Report::Started)?;
    let ended = supervise(&program, control, &children)
        .map_err(|error| failure("init", &error, "report this as a bug"))?;
    Ok(ended)
}

/// Finishes the namespaces from within, and closes the door.
fn enclose(setup: &Setup) -> Result<(), Error> {
    let directory = std::env::current_dir();
    mounts::isolate(setup)
        .map_err(|error| failure("mounts", &error, "look at /proc/self/mountinfo and dmesg"))?;
    // By its path again: the directory held until now may have been covered.
    let found = directory.is_ok_and(|directory| chdir(&directory).is_ok());
    if !found {
        chdir("/").map_err(|error| failure("/", &error, "look at /proc/self/mountinfo"))?;
    }
    sethostname(&setup.hostname)
        .map_err(|error| failure("hostname", &error, "give --name a shorter one"))?;
    capabilities::limit()
        .map_err(|error| failure("capabilities", &error, "run it with CAP_SETPCAP"))
}

/// Starts the program with an empty signal mask. Dispositions are as they were when `edge run`
/// started, for no process of ours has changed any.
fn start(args: &InitArgs, setup: Setup) -> Result<Child, Error> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Error::new(Kind::Usage, "program", "none is given", "name it after --"));
    };
    let mut command = process::Command::new(program);
    command.args(rest).envs(setup.environment);
    // A child inherits the mask. The kernel itself keeps signals from a pid 1 without handlers
    // meanwhile, and children that end now are looked for before the first wait.
    set_mask(&SigSet::empty())?;
    let spawned = command.spawn();
    set_mask(&SigSet::all())?;
    spawned.map_err(|error| {
        let (kind, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (Kind::NotFound, "install it, or give its full path"),
            _ => (Kind::NotExecutable, "look at its permissions and its format"),
        };
        Error::new(kind, program.display(), error, remedy)
    })
}

/// Until the program ends: passes signals on, and reaps whatever else ended.
fn supervise(program: &Child, control: &Socket, children: &SignalFd) -> io::Result<ExitCode> {
    let pid = Pid::from_raw(i32::try_from(program.id()).map_err(io::Error::other)?);
    loop {
        if let Some(code) = reap(pid)? {
            return Ok(code);
        }
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [child_ended, command_came] = ready.map(|fd| fd.any().unwrap_or_default());
        if child_ended {
            children.read_signal()?;
        }
        if command_came {
            match control::receive(control)? {
                Some(Command::Signal(number)) => {
                    // A program that has just ended is reaped in the next round.
                    Signal::try_from(number).and_then(|signal| kill(pid, signal)).ok();
                }
                Some(Command::Start(_)) => {}
                // `edge run` is gone; by returning, the container follows.
                None => return Ok(ExitCode::from(Kind::Failure.exit_code())),
            }
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

fn die_with_parent() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| failure("parent-death signal", &error, "report this as a bug"))
}

/// Everything is blocked but around the program's start: what a terminal sends to its whole
/// group must not end these processes before the program.
fn set_mask(blocked: &SigSet) -> Result<(), Error> {
    blocked.thread_set_mask().map_err(|error| failure("signals", &error, "report this as a bug"))
}

fn tell(control: &Socket, report: &Report) -> Result<(), Error> {
    control::send(control, report).map_err(|error| failure("edge run", &error, "start it again"))
}

fn hear(control: &Socket) -> Result<Option<Command>, Error> {
    control::receive(control).map_err(|error| failure("edge run", &error, "start it again"))
}

fn failure(thing: &str, error: &(dyn std::error::Error + 'static), remedy: &str) -> Error {
    Error::failure(thing, causes(error), remedy)
}
