//! Shows edge at work: a daemon, a container with a tunnel, and an internet to reach it from.

mod process;
mod scene;
mod show;
mod signals;

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::geteuid;

use self::{
    process::Process,
    scene::Scene,
    show::Show,
    signals::{Interrupted, Signals},
};
use crate::{build, setup, step, workspace::Workspace};

/// The daemon's name, in pins, sockets and tables.
const INSTANCE: &str = "demo";
/// How long each part may take to be there on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the container runs.
const SERVER: &str = include_str!("run/server.py");

/// What to start.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo profile of `edge`
    #[arg(long, default_value = "release")]
    profile: String,
    /// Arguments of `edge up`, after `--` [default: --uplink edgedemo0]
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs until Ctrl-C, and leaves the machine as it was.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs, which needs root; \
             run: sudo --preserve-env=PATH cargo xtask run"
        );
    }
    setup::for_run()?;
    let profile = options.profile.clone();
    let edge = build::run(workspace, &build::Options { profile })?;
    // From here on Ctrl-C is an orderly end.
    let signals = Signals::take()?;
    let outcome = demo(&signals, &edge, &workspace.target.join("demo"), &options.arguments);
    match outcome {
        Err(error) if error.is::<Interrupted>() => {
            println!("\nended; the machine is as it was");
            Ok(())
        }
        other => other,
    }
}

/// Guards go in reverse order: the container, the daemon, then the scene.
fn demo(signals: &Signals, edge: &Path, folder: &Path, arguments: &[String]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let scene = Scene::make()?;
    let command = || {
        let mut command = Command::new(edge);
        command.args(["--instance", INSTANCE, "--run-dir"]).arg(folder.join("run"));
        command
    };

    let mut up = command();
    up.arg("up");
    if !names(arguments, "--state-dir") {
        up.arg("--state-dir").arg(folder.join("state"));
    }
    if !names(arguments, "--admin") {
        up.arg("--admin").arg(admin_address()?);
    }
    match arguments {
        [] => up.args(["--uplink", Scene::UPLINK]),
        given => up.args(given),
    };
    let mut daemon = Process::start("edge up", up, &folder.join("edge.log"))?;
    signals.wait_for("the daemon to be ready", PATIENCE, || {
        daemon.must_live()?;
        Ok(daemon.printed().lines().any(|line| line == "ready").then_some(()))
    })?;
    print!("{}", daemon.announced());

    let server = folder.join("server.py");
    fs::write(&server, SERVER).with_context(|| format!("cannot write {}", server.display()))?;
    let mut run = command();
    run.args(["run", "--name", "hello", "--unencrypted-port", "8000", "--", "python3", "-u"]);
    run.arg(&server);
    let mut container = Process::start("edge run", run, &folder.join("container.log"))?;
    let tunnel = signals.wait_for("the tunnel", PATIENCE, || {
        container.must_live()?;
        let mut tunnels = command();
        tunnels.args(["tunnels", "--json"]);
        show::tunnel(&step::ask(tunnels)?)
    })?;

    signals.wait_for("the container's program to listen", PATIENCE, || {
        container.must_live()?;
        Ok(container.printed().contains("listening").then_some(()))
    })?;

    let metrics = daemon.printed();
    let metrics = metrics.lines().find_map(|line| line.strip_prefix("metrics"));
    let metrics = metrics.context("the daemon did not say where its metrics are")?.trim();
    let mut authority = command();
    authority.arg("ca");
    let authority = step::ask(authority)?.trim().to_owned();
    let show = Show { scene: &scene, tunnel: &tunnel, authority: &authority, metrics };
    // With arguments of one's own some of it may rightly not work.
    show.run(signals, &command(), arguments.is_empty())?;
    println!("Ctrl-C ends it all.");
    loop {
        daemon.must_live()?;
        container.must_live()?;
        signals.pause(Duration::from_millis(200))?;
    }
}

/// Whether the option is among the arguments.
fn names(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|word| {
        word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
    })
}

/// The usual address of metrics, or one with a port that is free.
fn admin_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:9464")
        .or_else(|_taken| TcpListener::bind("127.0.0.1:0"))
        .map_err(|error| anyhow!("no port of 127.0.0.1 is free for metrics: {error}"))?;
    Ok(listener.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_both_spellings() {
        let words = ["--admin=127.0.0.1:1".to_owned(), "--uplink".to_owned(), "x".to_owned()];
        assert!(names(&words, "--admin") && names(&words, "--uplink"));
        assert!(!names(&words, "--adm") && !names(&words, "--state-dir"));
    }
}
