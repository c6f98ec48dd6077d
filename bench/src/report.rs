//! What a benchmark found: for each measure every competitor's value in every round.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The answer to one question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The question.
    pub(crate) question: String,
    /// Where and when it was measured.
    pub(crate) machine: Machine,
    /// What was measured of every competitor.
    pub(crate) measures: Vec<Measure>,
}

/// One thing that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// Its name: the head of a table's column and the title of a plot.
    pub(crate) name: String,
    /// What its samples are counted in.
    pub(crate) unit: String,
    /// Which way is better.
    pub(crate) better: Better,
    /// Whether the rows are competitors, to be compared with the first row round by round.
    pub(crate) compared: bool,
    /// One row a competitor.
    pub(crate) rows: Vec<Row>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Larger values.
    More,
    /// Smaller values.
    Less,
}

/// One competitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: String,
    /// Every round's value, in the order of rounds: the rounds of all rows were interleaved.
    pub(crate) samples: Vec<f64>,
}

impl Measure {
    /// Without rows yet. The rows are competitors.
    pub(crate) fn new(name: &str, unit: &str, better: Better) -> Self {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        Self { name, unit, better, compared: true, rows: Vec::new() }
    }

    /// The same, with rows that are different things.
    pub(crate) fn apart(self) -> Self {
        Self { compared: false, ..self }
    }

    /// Adds the next round's value to a competitor's row; the row is made with its first value.
    pub(crate) fn push(&mut self, competitor: &str, value: f64) {
        match self.rows.iter_mut().find(|row| row.name == competitor) {
            Some(row) => row.samples.push(value),
            None => self.rows.push(Row { name: competitor.to_owned(), samples: vec![value] }),
        }
    }

    /// A competitor's ratio to the first row, round by round: both sides of a ratio saw the same
    /// state of a shared machine.
    pub(crate) fn ratios(&self, row: &Row) -> Vec<f64> {
        let first = self.rows.first().map(|row| &row.samples[..]).unwrap_or_default();
        row.samples.iter().zip(first).map(|(own, base)| own / base).collect()
    }
}

impl Report {
    /// Writes it under `bench/runs/`, where the last result is kept.
    pub(crate) fn save(&self, name: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        let path = file(name, "json");
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Reads the last result.
    pub(crate) fn last(name: &str) -> Result<Self> {
        let path = file(name, "json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: no result; `cargo xtask bench {name}`", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

/// Where a question's results lie.
pub(crate) fn file(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(name).with_extension(extension)
}
