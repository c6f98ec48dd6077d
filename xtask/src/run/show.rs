//! The lines that a person pastes, each tried once, with what the programs counted meanwhile.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{scene::Scene, signals::Signals};
use crate::{step, workspace::which};

/// What the counters of packets and of relayed bytes are called.
const COUNTERS: [&str; 2] = ["edge_verdict_packets_total", "edge_relay_bytes_total"];

/// Something to paste.
struct Line {
    /// What it shows.
    what: &'static str,
    /// For a shell.
    command: String,
    /// What its answer must hold.
    answer: String,
}

/// The container's tunnel.
pub(super) struct Tunnel {
    /// Where browsers go.
    url: String,
    /// Name and port of the TLS side.
    tls: String,
    /// The raw TCP port.
    raw_port: u16,
}

/// What there is to be shown.
pub(super) struct Show<'a> {
    /// The internet.
    pub(super) scene: &'a Scene,
    /// The tunnel.
    pub(super) tunnel: &'a Tunnel,
    /// The certificate to trust.
    pub(super) authority: &'a str,
    /// Where the counters are.
    pub(super) metrics: &'a str,
}

/// The first tunnel with a raw port of what `edge tunnels --json` lists.
pub(super) fn tunnel(list: &str) -> Result<Option<Tunnel>> {
    let list: Value = serde_json::from_str(list).context("cannot read `edge tunnels --json`")?;
    let tunnels = list.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(tunnels.iter().find_map(|tunnel| {
        let (_, raw_port) = tunnel["tcp"].as_str()?.rsplit_once(':')?;
        Some(Tunnel {
            url: tunnel["url"].as_str()?.to_owned(),
            tls: tunnel["tls"].as_str()?.to_owned(),
            raw_port: raw_port.parse().ok()?,
        })
    }))
}

impl Show<'_> {
    /// Runs every line once, then prints those that work; if strict, all must.
    pub(super) fn run(&self, signals: &Signals, edge: &Command, strict: bool) -> Result<()> {
        let mut working = Vec::new();
        for line in self.lines() {
            signals.pause(Duration::ZERO)?;
            let before = self.counters()?;
            println!("\n{}\n  $ {}", line.what, line.command);
            match shell(&line) {
                Ok(answer) => println!("  {}", answer.trim_end().lines().last().unwrap_or("")),
                Err(error) if strict => return Err(error),
                Err(error) => {
                    println!("  {error:#}");
                    continue;
                }
            }
            for (counter, by) in moved(&before, &self.counters()?) {
                println!("    +{by} {counter}");
            }
            working.push(line);
        }
        println!("\nNow paste these yourself:");
        for line in &working {
            println!("  {}", line.command);
        }
        let words = [edge.get_program()].into_iter().chain(edge.get_args());
        let edge: Vec<_> = words.map(|word| quoted(&word.to_string_lossy())).collect();
        println!("  {} tunnels", edge.join(" "));
        println!("  {} check --uplink {}", edge.join(" "), Scene::UPLINK);
        println!("  curl -s {} | grep edge_verdict", self.metrics);
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        let Tunnel { url, tls, raw_port } = self.tunnel;
        let Scene { machine, client, .. } = self.scene;
        let inside = format!("ip netns exec {}", Scene::INTERNET);
        let curl = "curl --silent --show-error --max-time 10";
        let authority = quoted(self.authority);
        let nc = if which("nc.openbsd").is_some() { "nc.openbsd" } else { "nc" };
        let request = r"printf 'GET / HTTP/1.0\r\n\r\n'";
        let page = "hello from the container".to_owned();
        // What the kernel steers keeps its client's address.
        let client = format!("comes from {client}");
        let line = |what, command, answer: &String| Line { what, command, answer: answer.clone() };
        vec![
            line("TLS, from this machine", format!("{curl} --cacert {authority} {url}/"), &page),
            line(
                "TLS, from the internet",
                format!("{inside} {curl} --cacert {authority} --resolve {tls}:{machine} {url}/"),
                &page,
            ),
            line(
                "Raw TCP from this machine: userspace copies it",
                format!("{curl} http://localhost:{raw_port}/"),
                &page,
            ),
            line(
                "The same without HTTP's client",
                format!("{request} | {nc} -N -w 5 127.0.0.1 {raw_port}"),
                &page,
            ),
            line(
                "Raw TCP from the internet: the kernel steers it, and the container sees the client",
                format!("{inside} {curl} http://{machine}:{raw_port}/"),
                &client,
            ),
            line(
                "The same without HTTP's client",
                format!("{request} | {inside} {nc} -N -w 5 {machine} {raw_port}"),
                &client,
            ),
        ]
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "10", self.metrics]);
        Ok(counters(&step::ask(command)?))
    }
}

/// The series that show which way packets went.
fn counters(text: &str) -> BTreeMap<String, u64> {
    let series = text.lines().filter(|line| COUNTERS.iter().any(|name| line.starts_with(name)));
    let parsed = series.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    parsed.collect()
}

fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let by = after.iter().map(|(name, value)| {
        (name.clone(), value.saturating_sub(before.get(name).copied().unwrap_or_default()))
    });
    by.filter(|(_, by)| *by > 0).collect()
}

/// Runs a line as a person would.
fn shell(line: &Line) -> Result<String> {
    let Line { what, command, answer: wanted } = line;
    let output = Command::new("sh").args(["-c", command]).output().context("cannot start sh")?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !answer.contains(wanted) {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let said = [answer.trim_end(), complaint.trim_end()].join("");
        bail!("{what}: `{command}` ({}) should say \"{wanted}\", but: {said}", output.status);
    }
    Ok(answer)
}

/// For a shell, as it is.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnel_with_a_raw_port_is_shown() {
        let list = r#"[{"url": "https://a.b", "tls": "a.b:443", "tcp": null},
                       {"url": "https://c.d:8443", "tls": "c.d:8443", "tcp": "192.0.2.1:20003"}]"#;
        let found = tunnel(list).unwrap().unwrap();
        assert_eq!((found.tls.as_str(), found.raw_port), ("c.d:8443", 20003));
        assert!(tunnel("[]").unwrap().is_none());
        assert!(tunnel("no").is_err());
    }

    #[test]
    fn only_counters_that_moved_are_told() {
        let before = counters("edge_verdict_packets_total{a=\"b\"} 1\nother 5\n# x\n");
        let after =
            counters("edge_verdict_packets_total{a=\"b\"} 3\nedge_relay_bytes_total 0\nother 7\n");
        assert_eq!(moved(&before, &after), [("edge_verdict_packets_total{a=\"b\"}".to_owned(), 2)]);
    }

    #[test]
    fn words_reach_the_shell_whole() {
        assert_eq!(quoted("/a/b-c_1.pem"), "/a/b-c_1.pem");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
    }
}
