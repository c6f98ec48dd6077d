//! What a daemon counts, as `/metrics` shows it.

use std::collections::BTreeMap;

/// One reading: series, with labels as printed, to value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format; panics on a line that is not of it.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let parsed = line
                .rsplit_once(' ')
                .and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
            parsed.unwrap_or_else(|| panic!("not a line of metrics: {line}"))
        });
        Self(series.collect())
    }

    /// The value of one series, named in full; panics with what there is if it is not there.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        let value = self.0.get(series).copied();
        value.unwrap_or_else(|| panic!("no series {series} among {:#?}", self.0))
    }

    /// The sum of a metric over those of its series whose labels hold all of these texts,
    /// for instance `verdict="redirected"`.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let wanted = |series: &str| {
            series.split('{').next() == Some(metric) && labels.iter().all(|l| series.contains(l))
        };
        self.0.iter().filter(|(series, _)| wanted(series)).map(|(_, value)| value).sum()
    }

    /// All series of a metric.
    pub fn of(&self, metric: &str) -> impl Iterator<Item = (&str, f64)> {
        let wanted = move |series: &str| series.split('{').next() == Some(metric);
        let all = self.0.iter().map(|(series, value)| (series.as_str(), *value));
        all.filter(move |(series, _)| wanted(series))
    }

    /// Packets that a hook judged so.
    pub fn packets(&self, hook: &str, verdict: &str) -> f64 {
        let labels = [format!("hook=\"{hook}\""), format!("verdict=\"{verdict}\"")];
        self.sum("edge_verdict_packets_total", &labels.each_ref().map(String::as_str))
    }

    /// Every series that differs from an earlier reading, and by how much.
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let change = |series: &String| {
            let was = earlier.0.get(series).copied().unwrap_or_default();
            self.0[series] - was
        };
        let changes = self.0.keys().map(|series| (series.clone(), change(series)));
        changes.filter(|(_, change)| *change != 0.0).collect()
    }
}
