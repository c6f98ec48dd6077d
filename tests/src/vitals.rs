//! What a daemon takes of its machine while it works, looked at again and again.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{edge::Edge, floor::Floor};

/// Samples of one run.
pub const SAMPLES: u32 = 40;

/// By name, each value in the order in which it was seen.
#[derive(Debug, Default)]
pub struct Vitals(BTreeMap<String, Vec<f64>>);

impl Vitals {
    /// Takes samples, spread over a time; `beside` is called with each.
    #[track_caller]
    pub fn watch(edge: &Edge, floor: &Floor, time: Duration, mut beside: impl FnMut()) -> Self {
        let (begun, mut vitals) = (Instant::now(), Self::default());
        for number in 1..=SAMPLES {
            let due = begun + time * number / SAMPLES;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            beside();
            vitals.sample(edge, floor);
        }
        vitals
    }

    /// Panics unless the median of the last quarter is at most so much above that of the
    /// second: the first is for warming up.
    #[track_caller]
    pub fn assert_flat(&self, name: &str, more: f64) {
        let values = self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        let quarter = values.len() / 4;
        let before = median(&values[quarter..2 * quarter]);
        let after = median(&values[values.len() - quarter..]);
        assert!(
            after <= before + more,
            "{name} went from {before} to {after}, {more} more are allowed: {values:?}"
        );
    }

    /// The names of what was looked at that begin so.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        self.0.keys().map(String::as_str).filter(|name| name.starts_with(prefix)).collect()
    }

    fn sample(&mut self, edge: &Edge, floor: &Floor) {
        let floor = floor.now();
        let mut see =
            |name: &str, value: f64| self.0.entry(name.to_owned()).or_default().push(value);
        see("open files", floor.files as f64);
        see("KiB of memory", floor.memory as f64);
        see("threads", floor.threads as f64);
        for (series, value) in edge.metrics().of("edge_table_rows") {
            see(series, value);
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
