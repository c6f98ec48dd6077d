//! The README's figures, between two markers for each question.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{report::Report, summary};

/// Puts a report's table where the README marks its place.
pub(crate) fn write(report: &Report, name: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (begin, end) = (format!("<!-- figures: {name} -->\n"), "<!-- end of figures -->");
    let place = || format!("{}: no line {:?} with a line {end:?} after it", path.display(), begin);
    let (before, rest) = text.split_once(&begin).with_context(place)?;
    let (_, after) = rest.split_once(end).with_context(place)?;
    let table = summary::markdown(report);
    let machine = report.machine.sentence();
    let picture = format!("![{}](bench/runs/{name}.svg)", report.question);
    let new = format!("{before}{begin}\n{table}\n\n{machine}\n\n{picture}\n\n{end}{after}");
    fs::write(&path, new).with_context(|| path.display().to_string())
}
