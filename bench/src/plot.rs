//! One picture a question: a panel for each measure, a bar for each competitor's median, a line
//! from its smallest to its largest value.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    report::{self, Better, Measure, Report, Row},
    summary::{figure, median, spread},
};

const WIDTH: u32 = 900;
const TITLE: u32 = 34;
const BAR: u32 = 22;
/// Room for names left of the bars, and for figures right of them.
const NAMES: i32 = 290;
const FIGURES: i32 = 90;
const FONT: (&str, i32) = ("sans-serif", 13);
const GREY: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const BLUE: RGBColor = RGBColor(0x25, 0x63, 0xeb);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a report beside its result.
pub(crate) fn draw(report: &Report, name: &str) -> Result<()> {
    let path = report::file(name, "svg");
    let heights: Vec<u32> = report.measures.iter().map(height).collect();
    let area =
        SVGBackend::new(&path, (WIDTH, heights.iter().sum::<u32>() + TITLE)).into_drawing_area();
    paint(&area, report, &heights).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn height(measure: &Measure) -> u32 {
    TITLE + BAR * u32::try_from(measure.rows.len()).unwrap_or(u32::MAX) + BAR / 2
}

fn paint(
    area: &Area<'_>,
    report: &Report,
    heights: &[u32],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let mut rest = area.clone();
    for (measure, height) in report.measures.iter().zip(heights) {
        let (panel, below) = rest.split_vertically(*height);
        panel_of(&panel, measure)?;
        rest = below;
    }
    let foot = FONT.into_font().resize(11.0).color(&GREY);
    rest.draw(&Text::new(report.machine.sentence(), (10, 12), foot))?;
    area.present()?;
    Ok(())
}

fn panel_of(panel: &Area<'_>, measure: &Measure) -> Result<(), Box<dyn std::error::Error>> {
    let better = match measure.better {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    let title = format!("{}, {} ({better})", measure.name, measure.unit);
    panel.draw(&Text::new(title, (10, 10), FONT.into_font().resize(15.0)))?;
    let most = measure.rows.iter().map(|row| spread(&row.samples).1).fold(0.0, f64::max);
    for (index, row) in measure.rows.iter().enumerate() {
        let top = i32::try_from(TITLE + BAR * u32::try_from(index)?)?;
        bar(panel, row, most, top)?;
    }
    Ok(())
}

fn bar(panel: &Area<'_>, row: &Row, most: f64, top: i32) -> Result<(), Box<dyn std::error::Error>> {
    let room = f64::from(i32::try_from(WIDTH)? - NAMES - FIGURES);
    #[expect(clippy::cast_possible_truncation, reason = "pixels of a picture")]
    let at = |value: f64| NAMES + (room * value / most) as i32;
    let (low, high) = spread(&row.samples);
    let middle = median(&row.samples);
    let (bottom, centre) = (top + 16, top + 8);
    let colour = if is_edge(&row.name) { BLUE } else { GREY };
    panel.draw(&Rectangle::new([(NAMES, top), (at(middle), bottom)], colour.filled()))?;
    panel.draw(&PathElement::new([(at(low), centre), (at(high), centre)], BLACK))?;
    for end in [low, high] {
        panel.draw(&PathElement::new([(at(end), centre - 4), (at(end), centre + 4)], BLACK))?;
    }
    let right = FONT.into_font().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
    panel.draw(&Text::new(row.name.clone(), (NAMES - 8, centre), right))?;
    let left = FONT.into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    panel.draw(&Text::new(figure(middle), (at(high) + 8, centre), left))?;
    Ok(())
}

/// Ours stand out.
fn is_edge(name: &str) -> bool {
    name.starts_with("edge")
}
