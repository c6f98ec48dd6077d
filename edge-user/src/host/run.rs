//! `edge run`: starts a program in a container, and lives exactly as long as it.

use std::{
    future,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitCode, Stdio},
    time::Duration,
};

use futures::FutureExt as _;
use nix::{sys::signal::Signal, unistd::geteuid};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep_until},
};

use super::{
    control::{self, AsyncControl, Report, Setup},
    init, names,
    signals::{Received, Signals},
    terminal::Foreground,
};
use crate::{
    cli::{Place, RunArgs},
    commands::{
        client::{attach_request, connect},
        hold::Hold,
    },
    error::{Error, Kind, say},
    wire::admin::{AttachRequest, Attached},
};

/// Where every daemon of the machine keeps its sockets and its keys.
const HIDDEN: [&str; 2] = ["/run/edge", "/var/lib/edge"];
/// Between the SIGTERM and the SIGKILL of `--timeout`.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the program and returns its exit code.
pub async fn run(place: &Place, args: &RunArgs) -> Result<ExitCode, Error> {
    if !geteuid().is_root() {
        let remedy = "use sudo; members of the daemon's group may list, but not run";
        return Err(Error::failure("edge run", "only root may make network namespaces", remedy));
    }
    let signals = Signals::take().map_err(|e| Error::failure("signals", e, "is /proc mounted?"))?;
    let _foreground = Foreground::hold();
    let mut container = Container::spawn(args)?;
    let mut early = Vec::new();
    let hold = {
        let mut start = pin!(container.start(place, args));
        loop {
            tokio::select! {
                started = &mut start => break started?,
                received = signals.next() => match received.map_err(broken)? {
                    // Dropped, the container dies.
                    end if end.asks_to_end() => return Ok(ExitCode::from(128 + end.signal as u8)),
                    other => early.push(other),
                },
            }
        }
    };
    for received in early {
        container.pass_on(received).await;
    }
    container.supervise(hold, &signals, args).await
}

/// The container's first process and the way to talk to what grows out of it.
struct Container {
    process: Child,
    control: AsyncControl,
}

impl Container {
    fn spawn(args: &RunArgs) -> Result<Self, Error> {
        let failed = |error| Error::failure("container", error, "see `ulimit -u` and `ulimit -n`");
        let (ours, theirs) = control::pair().map_err(failed)?;
        // No other thread starts programs, so that only this one inherits it.
        theirs.set_cloexec(false).map_err(failed)?;
        let process = Command::new("/proc/self/exe")
            .args([init::COMMAND, "--stage", init::Stage::Enclose.as_str()])
            .args(["--control", &theirs.as_raw_fd().to_string()])
            .args(["--parent", &std::process::id().to_string(), "--"])
            .args(args.command())
            .stdin(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { process, control: AsyncControl::new(ours).map_err(failed)? })
    }

    /// From bare namespaces to a running program.
    async fn start(&mut self, place: &Place, args: &RunArgs) -> Result<Hold, Error> {
        let client = connect(place).await?;
        self.expect(|report| matches!(report, Report::Unshared)).await?;
        let pid = self.process.id().unwrap_or_default();
        let request = AttachRequest { pid, ..attach_request(&args.container) };
        let (attached, hold) = Hold::take(client, place, request).await?;
        let command = control::Command::Start(setup(attached, place));
        self.control.send(&command).await.map_err(broken)?;
        self.expect(|report| matches!(report, Report::Started)).await?;
        Ok(hold)
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

    /// Until the program ends. What the container's side says from here on is not listened to:
    /// the program may have got hold of it.
    async fn supervise(
        mut self,
        hold: Hold,
        signals: &Signals,
        args: &RunArgs,
    ) -> Result<ExitCode, Error> {
        let mut held = pin!(hold.keep().fuse());
        let mut deadline = Deadline::after(args.timeout);
        let status = loop {
            tokio::select! {
                ended = self.process.wait() => break ended.map_err(broken)?,
                received = signals.next() => self.pass_on(received.map_err(broken)?).await,
                error = &mut held => say(format_args!(
                    "{error}; the program runs on without a network, start it again to give it one"
                )),
                step = deadline.passed() => match step {
                    Step::Signal(signal) => self.signal(signal).await,
                    Step::Destroy => self.process.start_kill().map_err(broken)?,
                },
            }
        };
        match args.timeout {
            Some(limit) if deadline.has_passed() => Err(Error::new(
                Kind::TimedOut,
                args.command().first().map(|name| name.display().to_string()).unwrap_or_default(),
                format_args!("it still ran after {}", humantime::format_duration(limit)),
                "give a longer --timeout",
            )),
            _ => Ok(init::exit_code(status)),
        }
    }

    async fn pass_on(&self, received: Received) {
        if !received.by_terminal {
            self.signal(received.signal).await;
        }
    }

    /// A container that is just ending needs no signal any more.
    async fn signal(&self, signal: Signal) {
        self.control.send(&control::Command::Signal(signal as i32)).await.ok();
    }
}

/// What the end of `--timeout` brings, one step after the other.
struct Deadline {
    next: Option<Instant>,
    steps: std::slice::Iter<'static, (Step, Duration)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Signal(Signal),
    /// For an init that no longer answers, which a program can bring about.
    Destroy,
}

impl Deadline {
    const STEPS: [(Step, Duration); 3] = [
        (Step::Signal(Signal::SIGTERM), GRACE),
        (Step::Signal(Signal::SIGKILL), Duration::from_secs(2)),
        (Step::Destroy, Duration::from_secs(2)),
    ];

    fn after(limit: Option<Duration>) -> Self {
        // A limit beyond the clock's range is none.
        let next = limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { next, steps: Self::STEPS.iter() }
    }

    /// Waits for the next step; for ever if there is none.
    async fn passed(&mut self) -> Step {
        let Some(due) = self.next else { return future::pending().await };
        sleep_until(due).await;
        let Some((step, pause)) = self.steps.next() else {
            self.next = None;
            return future::pending().await;
        };
        self.next = Some(due + *pause);
        *step
    }

    fn has_passed(&self) -> bool {
        self.steps.len() < Self::STEPS.len()
    }
}

fn setup(attached: Attached, place: &Place) -> Setup {
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

fn broken(cause: impl std::fmt::Display) -> Error {
    Error::failure("container", cause, "report this as a bug, with the kernel's log")
}
