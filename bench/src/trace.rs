//! What does it cost that somebody listens? Two containers of one machine, with nobody listening
//! and beside it with `edge trace`; and how many instructions the programs have.

use anyhow::{Context as _, Result};
use tests::{
    lab::Lab,
    tenant::Tenant,
    trace::{Trace, attached, wait_off},
};

use crate::{
    i6pn::ways::Way,
    load,
    machine::Machine,
    raw::{MANY, WHILE, bulk},
    report::{Better, Measure, Report},
};

/// Who listens. The first is what the others are compared with.
const LISTENERS: [(&str, Option<&str>); 3] = [
    ("nobody listens", None),
    ("edge trace --sample 1000", Some("1000")),
    ("edge trace", Some("1")),
];

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    // XDP on the uplink, so that its program is among those that are counted.
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let way = Way::new("same host", [&a.netns, &b.netns], b.i6pn(), ())?;
    let mut measures = [
        Measure::new("one stream", "Gbit/s", Better::More),
        Measure::new("CPU of the whole machine", "s/GB", Better::Less),
        Measure::new("round trips, 16 connections", "1/s", Better::More),
    ];
    let mut instructions = Measure::new("instructions", "", Better::Less).apart();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for (name, sample) in LISTENERS {
            let trace = sample.map(|sample| Trace::start(&lab.edge, &["--sample", sample]));
            for program in attached(&lab.edge).into_values() {
                #[expect(clippy::cast_precision_loss, reason = "a program has thousands")]
                instructions.push(&program.name, program.instructions as f64);
            }
            let (gigabits, cpu) = bulk(&way.path, &[]).with_context(|| name.to_owned())?;
            let many = load::round_trips(&way.path.from, way.path.echo, MANY, WHILE)?;
            for (measure, value) in measures.iter_mut().zip([gigabits, cpu, many.rate]) {
                measure.push(name, value);
            }
            drop(trace);
            wait_off(&lab.edge);
        }
    }
    let question = "What does it cost that somebody listens?".to_owned();
    Ok(Report { question, machine, measures: measures.into_iter().chain([instructions]).collect() })
}
