//! `edge run`: starts a program in a container, and lives exactly as long as it.

mod deadline;
mod gang;
mod program;
mod relay;

use std::{ffi::OsString, pin::pin, process::ExitCode, time::Duration};

use futures::FutureExt as _;
use nix::unistd::geteuid;

use self::{
    deadline::{Deadline, Step},
    program::{Container, Streams, broken, setup},
};
use super::{init, signals::Signals, terminal::Foreground};
use crate::{
    cli::{CalledArgs, Place, RunArgs},
    commands::{
        client::{attach_request, connect},
        hold::Hold,
    },
    error::{Error, Kind, say},
};

/// Runs the program, or a gang of it, and returns its exit code.
pub async fn run(place: &Place, args: &RunArgs) -> Result<ExitCode, Error> {
    if !geteuid().is_root() {
        let remedy = "use sudo; members of the daemon's group may list, but not run";
        return Err(Error::failure("edge run", "only root may make network namespaces", remedy));
    }
    let signals = Signals::take().map_err(|e| Error::failure("signals", e, "is /proc mounted?"))?;
    let _foreground = Foreground::hold();
    match args.gang.plan()? {
        Some(plan) => gang::run(place, args, plan, &signals).await,
        None => alone(place, args, &signals).await,
    }
}

/// Runs this machine's share of a gang that another one spreads; started by the daemon only.
pub async fn called(place: &Place, args: &CalledArgs) -> Result<ExitCode, Error> {
    let signals = Signals::take().map_err(|e| Error::failure("signals", e, "is /proc mounted?"))?;
    gang::called(place, args, &signals).await
}

async fn alone(place: &Place, args: &RunArgs, signals: &Signals) -> Result<ExitCode, Error> {
    let mut container = Container::spawn(&args.command(), Streams::Own)?;
    let mut early = Vec::new();
    let hold = {
        let mut start = pin!(start(&mut container, place, args));
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
    supervise(container, hold, signals, args).await
}

/// From bare namespaces to a running program.
async fn start(container: &mut Container, place: &Place, args: &RunArgs) -> Result<Hold, Error> {
    let client = connect(place).await?;
    let request = attach_request(&args.container);
    let (attached, hold) = container.attach(client, place, request).await?;
    container.begin(setup(attached, place)).await?;
    Ok(hold)
}

/// Until the program ends.
async fn supervise(
    mut container: Container,
    hold: Hold,
    signals: &Signals,
    args: &RunArgs,
) -> Result<ExitCode, Error> {
    let mut held = pin!(hold.keep().fuse());
    let mut deadline = Deadline::after(args.timeout);
    let status = loop {
        tokio::select! {
            ended = container.ended() => break ended?,
            received = signals.next() => container.pass_on(received.map_err(broken)?).await,
            error = &mut held => say(format_args!(
                "{error}; the program runs on without a network, start it again to give it one"
            )),
            step = deadline.passed() => match step {
                Step::Signal(signal) => container.signal(signal).await,
                Step::Destroy => container.destroy()?,
            },
        }
    };
    if deadline.has_passed() {
        return Err(timed_out(&args.command(), args.timeout));
    }
    Ok(init::exit_code(status))
}

fn timed_out(command: &[OsString], timeout: Option<Duration>) -> Error {
    let program = command.first().map(|name| name.display().to_string());
    Error::new(
        Kind::TimedOut,
        program.unwrap_or_default(),
        format_args!(
            "it still ran after {}",
            humantime::format_duration(timeout.unwrap_or_default())
        ),
        "give a longer --timeout",
    )
}
