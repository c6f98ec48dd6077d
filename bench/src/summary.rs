//! Medians, spreads and percentiles, and the table that people read.

use tabled::{builder::Builder, settings::Style};

use crate::report::{Measure, Report, Row};

/// Columns that a page has room for.
const WIDE: usize = 8;

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

/// One line a competitor and one column a measure, or the other way round if these are many: the median, and behind it either its spread or, where rows are competitors,
/// the ratio to the first row with that ratio's spread.
pub(crate) fn markdown(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for row in report.measures.iter().flat_map(|measure| &measure.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let mut table = vec![vec![String::new()]];
    table[0].extend(names.iter().map(|name| (*name).to_owned()));
    table.extend(report.measures.iter().map(|measure| {
        let cells = names.iter().map(|name| {
            let row = measure.rows.iter().find(|row| row.name == *name);
            row.map_or_else(|| "–".to_owned(), |row| cell(measure, row))
        });
        let head = format!("{}, {}", measure.name, measure.unit);
        std::iter::once(head).chain(cells).collect()
    }));
    if report.measures.len() <= WIDE {
        table = transposed(&table);
    }
    Builder::from_iter(table).build().with(Style::markdown()).to_string()
}

fn transposed(table: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = table.first().map_or(0, Vec::len);
    let column = |index: usize| table.iter().map(|line| line[index].clone()).collect();
    (0..columns).map(column).collect()
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
