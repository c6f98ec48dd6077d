//! What a benchmark found: medians, spreads and ratios.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tabled::{Table, Tabled, settings::Style};

use crate::machine::Machine;

/// The answer to one question.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The question.
    pub(crate) question: &'static str,
    /// What all rows are measured in.
    pub(crate) unit: &'static str,
    /// Where it was measured.
    pub(crate) machine: Machine,
    /// One row a competitor; the first is what the others are compared with.
    pub(crate) rows: Vec<Row>,
}

/// One competitor.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: String,
    /// Every round's value, in the order of rounds: the rounds of all rows were interleaved.
    pub(crate) samples: Vec<f64>,
}

#[derive(Tabled)]
struct Line {
    what: String,
    median: String,
    spread: String,
    #[tabled(rename = "ratio to the first (spread)")]
    ratio: String,
}

impl Report {
    /// Prints the table.
    pub(crate) fn print(&self) {
        let first = self.rows.first().map(|row| row.samples.clone()).unwrap_or_default();
        let lines = self.rows.iter().map(|row| {
            // Round by round: both sides of a ratio saw the same state of a shared machine.
            let ratios: Vec<f64> =
                row.samples.iter().zip(&first).map(|(own, base)| own / base).collect();
            Line {
                what: row.name.clone(),
                median: format!("{:.2} {}", median(&row.samples), self.unit),
                spread: range(&row.samples),
                ratio: format!("{:.2} ({})", median(&ratios), range(&ratios)),
            }
        });
        println!("{}\n{}", self.question, Table::new(lines).with(Style::markdown()));
    }

    /// Writes it under `bench/runs/`, where the last result is kept.
    pub(crate) fn save(&self, name: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// The middle value.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

fn range(samples: &[f64]) -> String {
    let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{low:.2}–{high:.2}")
}
