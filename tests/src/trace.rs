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

/// A program in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// As the kernel cuts it.
    pub name: String,
    /// The kernel's number.
    pub id: u64,
    /// What the verifier left of it.
    pub instructions: u64,
    tables: Vec<u64>,
}

impl Program {
    /// The names of the tables that it uses, as the kernel cuts them.
    #[track_caller]
    pub fn tables(&self, edge: &Edge) -> Vec<String> {
        let name = |id: &u64| {
            let table = bpftool(edge, &["map", "show", "id", &id.to_string()]);
            let table = table.unwrap_or_else(|| panic!("no table {id} of {self:?}"));
            table["name"].as_str().unwrap_or_default().to_owned()
        };
        self.tables.iter().map(name).collect()
    }
}

/// The programs in the links of a daemon, by link.
#[track_caller]
pub fn attached(edge: &Edge) -> BTreeMap<String, Program> {
    let links = fs::read_dir(edge.pins().join("links")).expect("the links' directory");
    let program = |link: fs::DirEntry| {
        let pin = link.path();
        // A program may be replaced, and gone, between the two questions.
        let program = wait_for(&format!("the program of {}", pin.display()), PATIENCE, || {
            let link = bpftool(edge, &["link", "show", "pinned", &pin.to_string_lossy()])?;
            let id = link["prog_id"].as_u64()?;
            let program = bpftool(edge, &["prog", "show", "id", &id.to_string()])?;
            let tables = program["map_ids"].as_array()?.iter().filter_map(Value::as_u64);
            Some(Program {
                name: program["name"].as_str()?.to_owned(),
                id,
                instructions: program["bytes_xlated"].as_u64()? / 8,
                tables: tables.collect(),
            })
        });
        (link.file_name().to_string_lossy().into_owned(), program)
    };
    links.map(|link| program(link.expect("a link"))).collect()
}

/// Whether all of them are the traced ones; panics if only some are.
#[track_caller]
pub fn is_traced(edge: &Edge) -> bool {
    let programs = attached(edge);
    let traced = count_traced(&programs);
    assert!(traced == 0 || traced == programs.len(), "{programs:?}");
    traced != 0
}

/// Waits until none of them is.
#[track_caller]
pub fn wait_off(edge: &Edge) {
    wait_for("the plain programs", PATIENCE, || (count_traced(&attached(edge)) == 0).then_some(()));
}

#[track_caller]
fn count_traced(programs: &BTreeMap<String, Program>) -> usize {
    assert!(!programs.is_empty(), "nothing is attached");
    let plain = ["tc_uplink", "tc_container", "xdp_uplink"];
    programs.values().filter(|one| !plain.contains(&one.name.as_str())).count()
}

fn bpftool(edge: &Edge, words: &[&str]) -> Option<Value> {
    let mut command = edge.netns().command("bpftool");
    let output = command.arg("--json").args(words).output_of();
    output.status.success().then(|| serde_json::from_str(&output.stdout).expect("bpftool's JSON"))
}
