//! The etcd of a region with several gateways, on a machine of its own.

use std::net::IpAddr;

use tempfile::TempDir;

use super::Place;
use crate::{
    lab::PATIENCE,
    process::{Running, Start as _, wait_for},
};

/// A server of one member; it goes with this guard.
pub struct Keeper {
    /// Where it runs.
    pub place: Place,
    folder: TempDir,
    process: Option<Running>,
}

impl Keeper {
    /// Runs one.
    #[track_caller]
    pub(super) fn at(place: Place) -> Self {
        let folder = tempfile::tempdir().expect("cannot make a temporary folder");
        let mut keeper = Self { place, folder, process: None };
        keeper.start();
        keeper
    }

    /// What gateways are told with `--store`.
    pub(super) fn store(&self) -> String {
        format!("etcd://{}/lab", self.address())
    }

    /// Runs it again, over what it kept, and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let clients = format!("http://{}", self.address());
        let mut command = self.place.netns.command("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
        command.args(["--log-level", "error", "--logger", "zap"]);
        self.process = Some(command.running());
        let health = format!("{clients}/health");
        wait_for("etcd's health", PATIENCE, || {
            let asked = self.place.netns.command("curl").args(["--silent", &health]).output_of();
            asked.stdout.contains("true").then_some(())
        });
    }

    /// Ends it as a power cut does.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it does not run");
        process.kill();
    }

    fn address(&self) -> String {
        match self.place.underlay[0] {
            IpAddr::V4(v4) => format!("{v4}:2379"),
            IpAddr::V6(v6) => format!("[{v6}]:2379"),
        }
    }
}
