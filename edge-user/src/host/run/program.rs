//! A container that `edge run` makes: from bare namespaces to a running program.

use std::{
    ffi::OsString,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use nix::sys::signal::Signal;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tonic::transport::Channel;

use crate::{
    cli::Place,
    commands::hold::Hold,
    error::{Error, Kind},
    host::{
        control::{self, AsyncControl, Report, Setup},
        init, names,
        signals::Received,
    },
    wire::admin::{AttachRequest, Attached, admin_client::AdminClient},
};

/// Where every daemon of the machine keeps its sockets and its keys.
const HIDDEN: [&str; 2] = ["/run/edge", "/var/lib/edge"];

/// The container's first process and the way to talk to what grows out of it.
pub(super) struct Container {
    process: Child,
    control: AsyncControl,
}

/// Whose streams a program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Those of `edge run`.
    Own,
    /// No input; what it prints comes by [`Container::output`].
    Piped,
}

impl Container {
    /// Starts the first process, which makes the namespaces. Dropped, all of it dies.
    ///
    /// # Errors
    /// If no process can be started.
    pub(super) fn spawn(command: &[OsString], streams: Streams) -> Result<Self, Error> {
        let failed = |error| Error::failure("container", error, "see `ulimit -u` and `ulimit -n`");
        let (ours, theirs) = control::pair().map_err(failed)?;
        // No other thread starts programs, so that only this one inherits it.
        theirs.set_cloexec(false).map_err(failed)?;
        let mut first = Command::new("/proc/self/exe");
        first
            .args([init::COMMAND, "--stage", init::Stage::Enclose.as_str()])
            .args(["--control", &theirs.as_raw_fd().to_string()])
            .args(["--parent", &std::process::id().to_string(), "--"])
            .args(command)
            .kill_on_drop(true);
        match streams {
            Streams::Own => first.stdin(Stdio::inherit()),
            Streams::Piped => {
                first.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
            }
        };
        let process = first.spawn().map_err(failed)?;
        Ok(Self { process, control: AsyncControl::new(ours).map_err(failed)? })
    }

    /// Lets the daemon wire the namespaces.
    ///
    /// # Errors
    /// If there are none, or the daemon refuses.
    pub(super) async fn attach(
        &mut self,
        client: AdminClient<Channel>,
        place: &Place,
        request: AttachRequest,
    ) -> Result<(Attached, Hold), Error> {
        self.expect(|report| matches!(report, Report::Unshared)).await?;
        let pid = self.process.id().unwrap_or_default();
        Hold::take(client, place, AttachRequest { pid, ..request }).await
    }

    /// Starts the program.
    ///
    /// # Errors
    /// If it cannot be.
    pub(super) async fn begin(&mut self, setup: Setup) -> Result<(), Error> {
        self.control.send(&control::Command::Start(setup)).await.map_err(broken)?;
        self.expect(|report| matches!(report, Report::Started)).await
    }

    /// What the program prints, if its streams are piped; the first time only.
    pub(super) fn output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.process.stdout.take().zip(self.process.stderr.take())
    }

    /// Waits for the program's end. What the container's side says from its start on is not
    /// listened to: the program may have got hold of it.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, Error> {
        self.process.wait().await.map_err(broken)
    }

    /// Hands a signal to the program that the terminal has not sent it already.
    pub(super) async fn pass_on(&self, received: Received) {
        if !received.by_terminal {
            self.signal(received.signal).await;
        }
    }

    /// A container that is just ending needs no signal any more.
    pub(super) async fn signal(&self, signal: Signal) {
        self.control.send(&control::Command::Signal(signal as i32)).await.ok();
    }

    /// Ends it whatever the program has made of its init.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn destroy(&mut self) -> Result<(), Error> {
        self.process.start_kill().map_err(broken)
    }

    /// Waits for one report, or for the reason why it will not come.
    async fn expect(&mut self, wanted: impl Fn(&Report) -> bool) -> Result<(), Error> {
        match self.control.receive().await.map_err(broken)? {
            Some(report) if wanted(&report) => Ok(()),
            Some(Report::Failed { exit, text }) => {
                Err(Error::relayed(Kind::from_exit_code(exit).unwrap_or(Kind::Failure), text))
            }
            Some(report) => Err(broken(format!("unexpected {report:?}"))),
            None => {
                let status = self.process.wait().await.map_err(broken)?;
                Err(broken(format!("its first process ended early ({status})")))
            }
        }
    }
}

/// What the container's inside is made of.
pub(super) fn setup(attached: Attached, place: &Place) -> Setup {
    let container = attached.container.unwrap_or_default();
    // Under any name by which it is reached, the directory is the same mount.
    let run_dir = place.run_dir();
    let run_dir = run_dir.canonicalize().unwrap_or(run_dir);
    let mut hidden: Vec<PathBuf> = HIDDEN.map(PathBuf::from).into();
    // None within another: once that is hidden, there is nothing left to lay a mount on.
    for dir in attached.hidden.into_iter().map(PathBuf::from).chain([run_dir]) {
        if dir.is_absolute() && dir != Path::new("/") && !within_any(&hidden, &dir) {
            hidden.retain(|other| !other.starts_with(&dir));
            hidden.push(dir);
        }
    }
    Setup {
        hosts: names::hosts(&container),
        hostname: container.name,
        resolv_conf: attached.resolv_conf,
        environment: attached.environment.into_iter().map(|v| (v.name, v.value)).collect(),
        hidden,
    }
}

fn within_any(directories: &[PathBuf], path: &Path) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

pub(super) fn broken(cause: impl std::fmt::Display) -> Error {
    Error::failure("container", cause, "report this as a bug, with the kernel's log")
}
