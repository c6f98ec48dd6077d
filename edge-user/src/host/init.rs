//! The first two processes of a container, between `edge run` and the program.
//!
//! `edge run` starts itself again, twice over, because namespaces want processes of one thread
//! and a pid namespace wants a new process:
//!
//! 1. the *encloser* makes the namespaces, lets the daemon wire the network, builds what the
//!    container sees of the file system and keeps it up;
//! 2. *init* is pid 1 inside: it gives up capabilities, starts the program, reaps orphans and
//!    passes signals on.
//!
//! Each dies with the process before it, and the whole pid namespace with init.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use clap::ValueEnum;
use nix::sys::{
    prctl::set_pdeathsig,
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use super::{
    control::{self, Report},
    encloser, pid1, sys,
};
use crate::{
    cli::InitArgs,
    error::{Error, Kind, causes},
};

/// The hidden command under which `edge run` starts this.
pub const COMMAND: &str = "__init";
/// A remedy where the kernel refuses what it never refuses.
pub(super) const BUG: &str = "report this as a bug";

/// The two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Makes the namespaces.
    Enclose,
    /// Is pid 1.
    Init,
}

impl Stage {
    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enclose => "enclose",
            Self::Init => "init",
        }
    }
}

/// Is one of the two, and returns the program's exit code.
pub fn main(args: &InitArgs) -> ExitCode {
    // Errors before there is a way to report them concern only who runs this by hand.
    let Ok(control) = sys::inherited_socket(args.control) else { return failed() };
    let outcome = match args.stage {
        Stage::Enclose => encloser::main(args, &control),
        Stage::Init => pid1::main(args, &control),
    };
    outcome.unwrap_or_else(|error| {
        let report = Report::Failed { exit: error.kind().exit_code(), text: error.to_string() };
        // If nobody listens, nobody is left to be told.
        control::send(&control, &report).ok();
        failed()
    })
}

/// The exit code that stands for how a process ended, as shells have it.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The exit code of a process that reports what went wrong, or has nobody to report to.
pub(super) fn failed() -> ExitCode {
    ExitCode::from(Kind::Failure.exit_code())
}

pub(super) fn die_with_parent() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL).map_err(|error| failure("parent-death signal", &error, BUG))
}

/// Everything is blocked but around the program's start: what a terminal sends to its whole
/// group must not end these processes before the program.
pub(super) fn set_mask(blocked: &SigSet) -> Result<(), Error> {
    blocked.thread_set_mask().map_err(|error| failure("signals", &error, BUG))
}

/// Becomes readable when a child has ended.
pub(super) fn children() -> Result<SignalFd, Error> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)
        .map_err(|error| failure("signals", &error, "raise the limit of open files"))
}

pub(super) fn failure(
    thing: &str,
    error: &(dyn std::error::Error + 'static),
    remedy: &str,
) -> Error {
    Error::failure(thing, causes(error), remedy)
}
