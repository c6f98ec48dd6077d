//! `edge trace` at work, and which programs are attached meanwhile.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::{
    edge::Edge,
    lab::PATIENCE,
    process::{Running, Start as _, wait_for},
};

/// A listener; it goes with this guard.
#[derive(Debug)]
pub struct Trace(pub Running);

impl Trace {
    /// Starts `edge trace` with these options and waits until it hears.
    #[track_caller]
    pub fn start(edge: &Edge, options: &[&str]) -> Self {
        let mut trace = edge.command().arg("trace").args(options).running();
        wait_for("`edge trace` to begin", PATIENCE, || {
            if let Some(status) = trace.ended() {
                panic!("`edge trace` ended: {status}\n{}", trace.printed());
            }
            trace.printed().contains("it has begun").then_some(())
        });
        Self(trace)
    }

    /// Waits for a line that holds all of these texts, in this order.
    #[track_caller]
    pub fn wait_line(&self, parts: &[&str]) -> String {
        let holds = |line: &String| {
            let rest = parts.iter().try_fold(line.as_str(), |rest, part| {
                rest.split_once(part).map(|(_, behind)| behind)
            });
            rest.is_some()
        };
        wait_for(&format!("a line with {parts:?}"), PATIENCE, || {
            self.0.stdout().into_iter().find(holds)
        })
    }

    /// What `--json` has printed so far.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let parse = |line: String| {
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        self.0.stdout().into_iter().map(parse).collect()
    }
}

/// The programs in the links of a daemon: name, as the kernel cuts it, and id, by link.
#[track_caller]
pub fn attached(edge: &Edge) -> BTreeMap<String, (String, u64)> {
    let links = fs::read_dir(edge.pins().join("links")).expect("the links' directory");
    let program = |link: fs::DirEntry| {
        let pin = link.path();
        let shown = bpftool(edge, &["link", "show", "pinned", &pin.to_string_lossy()]);
        let id = shown["prog_id"].as_u64().unwrap_or_else(|| panic!("no program: {shown}"));
        let shown = bpftool(edge, &["prog", "show", "id", &id.to_string()]);
        let name = shown["name"].as_str().unwrap_or_default().to_owned();
        (link.file_name().to_string_lossy().into_owned(), (name, id))
    };
    links.map(|link| program(link.expect("a link"))).collect()
}

/// Whether all of them are the traced ones; panics if only some are.
#[track_caller]
pub fn is_traced(edge: &Edge) -> bool {
    let programs = attached(edge);
    assert!(!programs.is_empty(), "nothing is attached");
    let plain = ["tc_uplink", "tc_container", "xdp_uplink"];
    let traced = programs.values().filter(|(name, _)| !plain.contains(&name.as_str())).count();
    assert!(traced == 0 || traced == programs.len(), "{programs:?}");
    traced != 0
}

fn bpftool(edge: &Edge, words: &[&str]) -> Value {
    let mut command = edge.netns().command("bpftool");
    let output = command.arg("--json").args(words).output_of().ok();
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
}
