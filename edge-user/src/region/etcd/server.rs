//! An etcd to test with, on loopback.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    process::{Child, Command},
};

use super::Place;

/// A server of one member; it ends with this.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    address: String,
    arguments: Vec<OsString>,
    process: Option<Child>,
    tls: bool,
}

impl Server {
    /// Runs one.
    pub(crate) fn start() -> Self {
        let mut server = Self::new();
        server.run();
        server
    }

    /// One that does not run yet.
    pub(crate) fn new() -> Self {
        // An address of its own of 127/8: its port is nobody else's, also while it is down.
        let [a, b, c] = rand::random::<[u8; 3]>();
        let address = format!("127.{}.{b}.{}:2379", a | 1, c.clamp(1, 254));
        let dir = tempfile::tempdir().unwrap();
        Self { dir, address, arguments: Vec::new(), process: None, tls: false }
    }

    /// It is to speak TLS, with these arguments.
    pub(crate) fn secure(&mut self, arguments: &[&OsStr]) {
        self.tls = true;
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Runs it, over what it kept.
    pub(crate) fn run(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let log = self.dir.path().join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let scheme = if self.tls { "https" } else { "http" };
        let clients = format!("{scheme}://{}", self.address);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
        // An election, and the shortest lease, take a tenth of what they usually do.
        command.args(["--heartbeat-interval", "10", "--election-timeout", "100"]);
        command.args(["--unsafe-no-fsync", "--log-level", "warn", "--logger", "zap"]);
        command.args(&self.arguments).stdout(log.try_clone().unwrap()).stderr(log);
        match command.spawn() {
            Ok(process) => self.process = Some(process),
            Err(error) => panic!(
                "the program etcd does not start ({error}); \
                 `cargo xtask setup` installs Debian's package etcd-server"
            ),
        }
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Loses all that it kept.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Its host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A region's place in it.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        format!("{scheme}://{}/{prefix}", self.address).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "etcd: {}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
        }
    }
}
