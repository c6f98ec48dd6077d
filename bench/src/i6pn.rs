//! What does the private network cost? Two containers on one machine, beside a bare wire and the
//! kernel's own routing; two containers on two hosts, beside routing and VXLAN over the same
//! underlay.

pub(crate) mod ways;

use anyhow::{Context as _, Result};
use ways::Way;

use crate::{
    field::Path,
    load,
    machine::Machine,
    raw::{MANY, WHILE, stream},
    report::{Better, Measure, Report},
};

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let mut measures = [columns("same host"), columns("two hosts")];
    // The first of each is what the others are compared with.
    let ways = [ways::same_host()?, ways::two_hosts()?];
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for (ways, measures) in ways.iter().zip(&mut measures) {
            for Way { path, .. } in ways {
                let values = once(path).with_context(|| path.name.clone())?;
                for (measure, value) in measures.iter_mut().zip(values) {
                    measure.push(&path.name, value);
                }
            }
        }
    }
    Ok(Report {
        question: "What does the private network cost?".to_owned(),
        machine,
        measures: measures.into_iter().flatten().collect(),
    })
}

fn columns(place: &str) -> [Measure; 4] {
    let measure =
        |name: &str, unit: &str, better| Measure::new(&format!("{place}: {name}"), unit, better);
    [
        measure("one stream", "Gbit/s", Better::More),
        measure("CPU of the whole machine", "s/GB", Better::Less),
        measure("round trips, 1 connection", "1/s", Better::More),
        measure("round trips, 16 connections", "1/s", Better::More),
    ]
}

/// One round of one way, in the order of the columns.
fn once(path: &Path) -> Result<[f64; 4]> {
    let (gigabits, cpu) = stream(path)?;
    let single = load::round_trips(&path.from, path.echo, 1, WHILE)?;
    let many = load::round_trips(&path.from, path.echo, MANY, WHILE)?;
    Ok([gigabits, cpu, single.rate, many.rate])
}
