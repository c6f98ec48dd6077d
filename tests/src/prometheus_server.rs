//! A real Prometheus that scrapes real daemons, and what it answers.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    lab::PATIENCE,
    netns::NetNs,
    process::{Running, Start as _, wait_for},
};

const ADDRESS: &str = "127.0.0.1:9090";

/// A server in a namespace, by the configuration and the rules that edge ships; it goes with this
/// guard.
pub struct PrometheusServer {
    netns: NetNs,
    _folder: TempDir,
    _process: Running,
}

impl PrometheusServer {
    /// Starts one over `prometheus.yml` and `alerts.yml` of a folder, with these targets in place
    /// of the one of the example, and every second.
    #[track_caller]
    pub fn start(netns: &NetNs, shipped: &Path, targets: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("cannot make a temporary folder");
        let config = read(&shipped.join("prometheus.yml"));
        let targets: String =
            targets.iter().map(|target| format!("          - {target}\n")).collect();
        let config = replaced(&config, "          - 127.0.0.1:9464\n", &targets);
        let config = replaced(&config, "_interval: 15s", "_interval: 1s");
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, config).expect("cannot write a file");
        fs::copy(shipped.join("alerts.yml"), folder.path().join("alerts.yml"))
            .expect("cannot copy the rules");
        let mut command = netns.command("prometheus");
        command.arg("--config.file").arg(&path);
        command.arg("--storage.tsdb.path").arg(folder.path().join("data"));
        command.args(["--web.listen-address", ADDRESS, "--log.level", "warn"]);
        let process = command.running();
        let server = Self { netns: netns.clone(), _folder: folder, _process: process };
        // Before that it answers, too, and says that it is not.
        wait_for("Prometheus to be ready", PATIENCE, || {
            server.get("/-/ready", &[]).filter(|answer| answer.contains("Ready"))
        });
        server
    }

    /// The samples that an expression has now; panics if Prometheus does not take it.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<f64> {
        let answer = self.api("query", &[&format!("query={expression}")]);
        let result = answer["result"].as_array().unwrap_or_else(|| panic!("no samples: {answer}"));
        let value = |sample: &Value| sample["value"][1].as_str()?.parse().ok();
        let number = |sample| value(sample).unwrap_or_else(|| panic!("no number: {sample}"));
        result.iter().map(number).collect()
    }

    /// The alerts that rules name, as `/api/v1/rules` has them.
    #[track_caller]
    pub fn rules(&self) -> Vec<Value> {
        let groups = self.api("rules", &[]);
        let rules = |group: &Value| group["rules"].as_array().cloned().unwrap_or_default();
        groups["groups"].as_array().into_iter().flatten().flat_map(rules).collect()
    }

    #[track_caller]
    fn api(&self, what: &str, parameters: &[&str]) -> Value {
        let text = self.get(&format!("/api/v1/{what}"), parameters);
        let text = text.unwrap_or_else(|| panic!("Prometheus does not answer {parameters:?}"));
        let mut answer: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].take()
    }

    fn get(&self, path: &str, parameters: &[&str]) -> Option<String> {
        let mut curl = self.netns.command("curl");
        curl.args(["--silent", "--max-time", "10", "--get", &format!("http://{ADDRESS}{path}")]);
        for parameter in parameters {
            curl.args(["--data-urlencode", parameter]);
        }
        let output = curl.output_of();
        output.status.success().then_some(output.stdout)
    }
}

#[track_caller]
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} in: {text}");
    text.replace(from, to)
}

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
