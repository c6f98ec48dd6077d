//! What does it cost that somebody listens? Two containers of one machine, with nobody listening
//! and beside it with `edge trace`; one decision by itself, which other machines' load does not
//! drown; and how many instructions the programs have.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use edge_common::trace::Filter;
use edge_user::datapath::Datapath;
use tests::{
    lab::Lab,
    tenant::Tenant,
    trace::{Trace, attached, wait_off},
};

use crate::{
    decision,
    frames::{Size, cases, fill},
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

/// What is decided, as `decision` calls it.
const DECISIONS: [&str; 2] = ["tc_container: private, here", "tc_uplink: hit"];
const PINS: &str = "/sys/fs/bpf/edge/bench-trace";

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    // XDP on the uplink, so that its program is among those that are counted.
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    let [a, b] = ["a", "b"].map(|name| Tenant::new(&lab.edge, name, &["--i6pn"]));
    let way = Way::new("same host", [&a.netns, &b.netns], b.i6pn(), ())?;
    let mut measures = [
        Measure::new("one stream, undisturbed", "Gbit/s", Better::More),
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
            let stream = bulk(&way.path, &[]).with_context(|| name.to_owned())?;
            let many = load::round_trips(&way.path.from, way.path.echo, MANY, WHILE)?;
            let values = [stream.undisturbed, stream.gigabits, stream.cpu, many.rate];
            for (measure, value) in measures.iter_mut().zip(values) {
                measure.push(name, value);
            }
            drop(trace);
            wait_off(&lab.edge);
        }
    }
    let decisions = decisions(rounds);
    std::fs::remove_dir_all(PINS).ok();
    let question = "What does it cost that somebody listens?".to_owned();
    let measures = measures.into_iter().chain(decisions?).chain([instructions]).collect();
    Ok(Report { question, machine, measures })
}

/// What one decision takes, and while one of a thousand is told.
fn decisions(rounds: usize) -> Result<[Measure; 2]> {
    let datapath = Arc::new(Datapath::load(Path::new(PINS))?);
    fill(&datapath, &Size { pairs: 1, hosts: 0, addresses: 0 })?;
    let filter = Filter { verdicts: Filter::ALL_VERDICTS, sample: 1000, ..Filter::default() };
    let [nobody, sampled, _] = LISTENERS.map(|(name, _)| name);
    let mut measures = DECISIONS.map(|name| Measure::new(name, "ns", Better::Less));
    for _ in 0..rounds {
        for case in cases()? {
            let Some(place) = DECISIONS.iter().position(|name| *name == case.name) else {
                continue;
            };
            measures[place].push(nobody, decision::run(&datapath, &case)?);
            let trace = datapath.trace(filter)?;
            measures[place].push(sampled, decision::run(&datapath, &case)?);
            drop(trace);
        }
    }
    Ok(measures)
}
