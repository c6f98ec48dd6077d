//! What is forbidden, tried: it has its name among the counters, and arrives nowhere.

use crate::{edge::Edge, lab::PATIENCE, metrics::Metrics, process::wait_for, tap::Tap};

/// Sends something forbidden, waits until it was counted under its name, and makes sure that
/// none of the taps saw it: what is counted is not on its way any more.
pub struct Attempts<'a> {
    edge: &'a Edge,
    hook: &'static str,
    taps: Vec<&'a Tap>,
    number: u32,
}

impl<'a> Attempts<'a> {
    /// At a hook of a daemon; none of these taps may see anything.
    pub fn new(edge: &'a Edge, hook: &'static str, taps: &[&'a Tap]) -> Self {
        Self { edge, hook, taps: taps.to_vec(), number: 0 }
    }

    /// One of them, with a text to look for.
    #[track_caller]
    pub fn refused(&mut self, verdict: &str, what: &str, send: impl Fn(&str)) {
        self.number += 1;
        let text = format!("forbidden-{}-{}", self.edge.instance(), self.number);
        let count = |metrics: &Metrics| metrics.packets(self.hook, verdict);
        let before = count(&self.edge.metrics());
        send(&text);
        wait_for(&format!("{what} to be counted as {verdict}"), PATIENCE, || {
            (count(&self.edge.metrics()) > before).then_some(())
        });
        for tap in &self.taps {
            assert!(!tap.saw(&text), "{what} arrived");
        }
    }
}
