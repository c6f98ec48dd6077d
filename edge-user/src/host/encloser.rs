//! The encloser: makes a container's namespaces and its view of the file system, and stays
//! behind, with the rights that the program lacks, to keep that view up.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{self, Child, ExitCode, ExitStatus},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::signal::SigSet,
    unistd::{getppid, sethostname},
};
use socket2::Socket;

use super::{
    control::{self, Command, Report, Setup},
    init::{self, BUG, Stage, failure},
    mounts::{self, MountError},
    view::View,
};
use crate::{cli::InitArgs, error::Error};

/// In milliseconds, between attempts to cover what is being replaced.
const SOON: u8 = 50;

/// Until the program has ended; returns its exit code.
pub(super) fn main(args: &InitArgs, control: &Socket) -> Result<ExitCode, Error> {
    init::die_with_parent()?;
    // It may have died before the line above.
    if args.parent != Some(getppid().as_raw()) {
        return Ok(init::failed());
    }
    init::set_mask(&SigSet::all())?;
    let directory = std::env::current_dir();
    unshare_all()?;
    mounts::detach().map_err(broken_view)?;
    let gone = |error| failure("edge run", &error, "start it again");
    control::send(control, &Report::Unshared).map_err(gone)?;
    let setup = match control::receive(control).map_err(gone)? {
        Some(Command::Start(setup)) => setup,
        Some(Command::Signal(_)) | None => return Ok(init::failed()),
    };

    let view = View::build(&setup).map_err(broken_view)?;
    sethostname(&setup.hostname)
        .map_err(|error| failure("hostname", &error, "give the container a shorter --name"))?;
    // Entered by its path: the one held until now may have been covered since.
    let directory = directory.ok().filter(|path| path.is_dir()).unwrap_or_else(|| "/".into());
    // Of this process's /proc, which is about to vanish from sight.
    let mounts = File::open("/proc/self/mountinfo")
        .map_err(|error| failure("/proc/self/mountinfo", &error, "mount /proc"))?;
    let init = start_init(args, setup, directory, control)?;
    let status = stand_by(init, view, &mounts).map_err(|error| failure("encloser", &error, BUG))?;
    Ok(init::exit_code(status))
}

fn unshare_all() -> Result<(), Error> {
    let namespaces = CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(|error| {
        let remedy = "run it as root with CAP_SYS_ADMIN, on a kernel with all five namespaces";
        failure("namespaces", &error, remedy)
    })
}

/// Starts the child with which the new pid namespace begins. It inherits the control socket.
fn start_init(
    args: &InitArgs,
    setup: Setup,
    directory: PathBuf,
    control: &Socket,
) -> Result<Child, Error> {
    process::Command::new("/proc/self/exe")
        .args([init::COMMAND, "--stage", Stage::Init.as_str()])
        .args(["--control", &control.as_raw_fd().to_string(), "--"])
        .args(&args.command)
        .envs(setup.environment)
        .current_dir(directory)
        .spawn()
        .map_err(|error| failure("init", &error, "see `ulimit -u` and the free memory"))
}

/// Waits for the child. When the machine replaces a file that the container's own lay on, such
/// as its resolv.conf, puts them back within moments.
fn stand_by(mut init: Child, mut view: View, mounts: &File) -> io::Result<ExitStatus> {
    let children = init::children().map_err(io::Error::other)?;
    loop {
        let patience = if view.repair() { PollTimeout::NONE } else { SOON.into() };
        if let Some(status) = init.try_wait()? {
            return Ok(status);
        }
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            // Reports every change of the mount namespace. It costs nothing, unlike inotify,
            // of which the machine's root has a hundred in all.
            PollFd::new(mounts.as_fd(), PollFlags::POLLPRI),
        ];
        match poll(&mut ready, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while children.read_signal()?.is_some() {}
    }
}

fn broken_view(error: MountError) -> Error {
    failure("mounts", &error, "look at /proc/self/mountinfo and the kernel's log")
}
