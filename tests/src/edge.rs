//! A real daemon under test, and what its commands say of it.

mod given;
mod listing;
mod role;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use edge_common::tables::LAYOUT;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::{
    leaks::PINS,
    metrics::Metrics,
    netns::NetNs,
    process::{Output, Running, Start, wait_for},
};

pub use given::{long, program, venv};
pub use listing::{ClusterPlace, Container, Host, Tunnel};
pub use role::Role;

/// How long a daemon may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where a daemon shows its metrics unless it is told otherwise.
const METRICS: &str = "http://127.0.0.1:9464/metrics";

/// One instance: its daemon and its folders, which go with this guard.
#[derive(Debug)]
pub struct Edge {
    netns: NetNs,
    instance: String,
    folder: TempDir,
    role: Role,
    arguments: Vec<String>,
    /// Lets a host into its region at its first start.
    token: Option<String>,
    environment: Vec<(String, PathBuf)>,
    daemon: Option<Running>,
}

impl Edge {
    /// Starts `edge up` inside the namespace and waits until it says that it is ready.
    #[track_caller]
    pub fn up(netns: &NetNs, arguments: &[&str]) -> Self {
        let mut edge = Self::stopped(netns, arguments);
        edge.start();
        edge
    }

    /// Makes an instance of `edge up` whose daemon waits for [`Self::start`].
    #[track_caller]
    pub fn stopped(netns: &NetNs, arguments: &[&str]) -> Self {
        Self::of(Role::Alone, netns, arguments)
    }

    /// The same of any role.
    #[track_caller]
    pub fn of(role: Role, netns: &NetNs, arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Short: interface names have room for fifteen characters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("t{:x}{number:x}", process::id());
        let folder = tempfile::Builder::new().prefix("edge-test-").tempdir();
        let folder = folder.expect("cannot make a temporary folder");
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self {
            netns: netns.clone(),
            instance,
            folder,
            role,
            arguments,
            token: None,
            environment: Vec::new(),
            daemon: None,
        }
    }

    /// Starts the daemon again after [`Self::stop`] or [`Self::kill9`], with the same state.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon of {} runs already", self.instance);
        let mut command = self.daemon_in(&self.netns);
        if let Some(token) = self.token.take() {
            command.args(["--join", &token]);
        }
        let mut daemon = command.running();
        daemon.wait_line("ready", PATIENCE);
        self.daemon = Some(daemon);
    }

    /// Starts the daemon, whatever becomes of it.
    #[track_caller]
    pub fn attempt(&self) -> Running {
        self.daemon_in(&self.netns).running()
    }

    /// Gives what `edge token create` printed to the first start of a host.
    pub fn set_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// Gives a variable to all that is started from now on.
    pub fn set(&mut self, name: &str, value: &Path) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Lets a new daemon take over from the running one, with further arguments; returns the old
    /// one, which drains.
    #[track_caller]
    pub fn replace(&mut self, arguments: &[&str]) -> Running {
        let mut daemon = self.successor(arguments);
        daemon.wait_line("ready", PATIENCE);
        self.daemon.replace(daemon).expect("the daemon was stopped by this test")
    }

    /// Starts what would take over, whatever becomes of it.
    #[track_caller]
    pub fn successor(&self, arguments: &[&str]) -> Running {
        self.successor_in(&self.netns, arguments)
    }

    /// The same in some namespace.
    #[track_caller]
    pub fn successor_in(&self, netns: &NetNs, arguments: &[&str]) -> Running {
        self.daemon_in(netns).arg("--replace").args(arguments).running()
    }

    /// The name that its pins, links and sockets carry.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where its tables and links of this layout are pinned.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.instance).join(format!("v{LAYOUT}"))
    }

    /// Where the daemon runs.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The folder of its state.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets a program find this daemon by a plain `edge`: environment and search path.
    pub fn address(&self, command: &mut Command) {
        let binary = program();
        let folder = binary.parent().unwrap_or(Path::new("/"));
        let path = env::var("PATH").unwrap_or_default();
        command
            .env("EDGE_INSTANCE", &self.instance)
            .env("EDGE_RUN_DIR", self.folder.path().join("run"))
            .env("PATH", format!("{}:{path}", folder.display()));
    }

    /// The running daemon; panics if it was stopped.
    #[track_caller]
    pub fn daemon(&mut self) -> &mut Running {
        self.daemon.as_mut().expect("the daemon was stopped by this test")
    }

    /// The daemon's command line.
    fn daemon_in(&self, netns: &NetNs) -> Command {
        let mut command = self.command_in(netns);
        command.arg(self.role.word()).arg("--state-dir").arg(self.folder.path());
        command.args(&self.arguments);
        command
    }

    /// A command of this instance, for what the helpers below do not do.
    pub fn command(&self) -> Command {
        self.command_in(&self.netns)
    }

    fn command_in(&self, netns: &NetNs) -> Command {
        let mut command = netns.command(program());
        command.args(["--instance", &self.instance]);
        command.arg("--run-dir").arg(self.folder.path().join("run"));
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs one command of this instance to its end.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> Output {
        self.command().args(words).output_of()
    }

    /// What `edge containers` lists.
    #[track_caller]
    pub fn containers(&self) -> Vec<Container> {
        self.list("containers")
    }

    /// What `edge tunnels` lists.
    #[track_caller]
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.list("tunnels")
    }

    /// What `edge proxy show` tells of a proxy, in JSON.
    #[track_caller]
    pub fn proxy(&self, name: &str) -> serde_json::Value {
        let shown = self.cli(&["proxy", "show", name, "--json"]).ok();
        serde_json::from_str(&shown.stdout).expect("JSON")
    }

    /// What `edge hosts` lists.
    #[track_caller]
    pub fn hosts(&self) -> Vec<Host> {
        self.list("hosts")
    }

    /// Starts `edge run` with these arguments: a container that lives as long as the guard.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Running {
        self.command().arg("run").args(words).running()
    }

    /// Runs a program in a container with tunnels, and waits until its owner has been told of the
    /// one to `port`.
    #[track_caller]
    pub fn serve(&self, options: &[&str], port: u16, program: &[&str]) -> (Running, Tunnel) {
        let before: Vec<String> = self.tunnels().into_iter().map(|tunnel| tunnel.id).collect();
        let running = self.run(&[options, &["--"], program].concat());
        let tunnel = wait_for("the tunnel", PATIENCE, || {
            let new = |tunnel: &Tunnel| tunnel.port == port && !before.contains(&tunnel.id);
            let tunnel = self.tunnels().into_iter().find(new)?;
            running.printed().contains(&tunnel.url).then_some(tunnel)
        });
        (running, tunnel)
    }

    /// Reads the metrics, from the address that the daemon printed if it printed one.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let lines = self.daemon.as_ref().map(Running::stdout).unwrap_or_default();
        let mut words = lines.iter().flat_map(|line| line.split_whitespace());
        let is_address = |word: &&str| word.starts_with("http://") && word.ends_with("/metrics");
        let address = words.find(is_address).unwrap_or(METRICS);
        let mut curl = self.netns.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10", address]);
        Metrics::parse(&curl.output_of().ok().stdout)
    }

    /// Ends the daemon and all that it holds, as Ctrl-C does; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Ends the daemon for a restart, as a service manager does: what lives stays.
    #[track_caller]
    pub fn stop_for_restart(&mut self) {
        self.end(Signal::SIGTERM);
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().expect("the daemon was stopped by this test");
        daemon.signal(signal);
        let status = daemon.wait(PATIENCE);
        assert!(status.success(), "the daemon ended with {status}\n{}", daemon.printed());
    }

    /// Kills the daemon as a crash would; pinned maps and links stay.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.daemon.take().expect("the daemon was stopped by this test").kill();
    }

    /// Lets go of a daemon that has ended by itself.
    pub fn forget(&mut self) {
        self.daemon = None;
    }

    #[track_caller]
    fn list<T: DeserializeOwned>(&self, what: &str) -> Vec<T> {
        let output = self.cli(&[what, "--json"]).ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| {
            panic!("`edge {what} --json` is not as agreed: {error}\n{output}")
        })
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Killed, as `Running` does it, the daemon leaves pins and a mount: a restart takes them
        // up. Its interfaces go with the namespace.
        self.daemon = None;
        fs::remove_dir_all(Path::new(PINS).join(&self.instance)).ok();
        umount2(&self.folder.path().join("run/service.ns"), MntFlags::MNT_DETACH).ok();
    }
}
