//! Medians, spreads and percentiles, and the table that people read.

use tabled::{builder::Builder, settings::Style};

use crate::report::{Measure, Report, Row};

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

/// The smallest and the largest value.
pub(crate) fn spread(samples: &[f64]) -> (f64, f64) {
    let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

/// The value that a share of the samples (0 to 1) does not exceed.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index from a share"
    )]
    let index = (samples.len() as f64 * share).ceil() as usize;
    samples.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// One line a competitor, one column a measure: the median, and behind it either its spread or,
/// where rows are competitors, the ratio to the first row with that ratio's spread.
pub(crate) fn markdown(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for row in report.measures.iter().flat_map(|measure| &measure.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let heads = report.measures.iter().map(|measure| format!("{}, {}", measure.name, measure.unit));
    let mut table = Builder::new();
    table.push_record(std::iter::once(String::new()).chain(heads));
    for name in names {
        let cells = report.measures.iter().map(|measure| {
            let row = measure.rows.iter().find(|row| row.name == name);
            row.map_or_else(|| "–".to_owned(), |row| cell(measure, row))
        });
        table.push_record(std::iter::once(name.to_owned()).chain(cells));
    }
    table.build().with(Style::markdown()).to_string()
}

/// A value with as many digits as say something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => group(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn cell(measure: &Measure, row: &Row) -> String {
    let middle = figure(median(&row.samples));
    if !measure.compared {
        return format!("{middle} ({})", range(&row.samples));
    }
    if measure.rows.first().is_some_and(|first| first.name == row.name) {
        return format!("{middle} ({})", range(&row.samples));
    }
    let ratios = measure.ratios(row);
    format!("{middle} · {}× ({})", figure(median(&ratios)), range(&ratios))
}

fn range(samples: &[f64]) -> String {
    let (low, high) = spread(samples);
    format!("{}–{}", figure(low), figure(high))
}

/// A whole number in groups of three digits.
fn group(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len() - index;
        if index > 0 && left % 3 == 0 && digit.is_ascii_digit() && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
