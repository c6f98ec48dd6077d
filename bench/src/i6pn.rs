//! How fast is the private network, and how soon is it there? Two containers on one machine, beside
//! a bare wire, a bridge and the kernel's own routing; two containers on two hosts, beside routing,
//! VXLAN and WireGuard over the same underlay.

mod pace;
pub(crate) mod ways;

use anyhow::{Context as _, Result};
use ways::Way;

use crate::{
    load,
    machine::Machine,
    raw::{MANY, WHILE, bulk},
    report::{Better, Measure, Report},
};

/// Bytes of a packet on wires and underlay: Ethernet's, and what networks between machines have.
const MTUS: [u32; 2] = [1500, 9000];
/// What is sent, and the arguments of iperf3 for it. With `sendfile` the sender copies nothing.
const BULK: [(&str, &[&str]); 4] = [
    ("1 stream", &[]),
    ("4 streams", &["--parallel", "4"]),
    ("16 streams", &["--parallel", "16"]),
    ("1 stream by sendfile", &["--zerocopy"]),
];

/// Ways that are compared with each other, what was measured of them so far, and where they are.
struct Place {
    ways: Vec<Way>,
    measures: Vec<Measure>,
}

/// Throughput.
pub(crate) fn fast(rounds: usize) -> Result<Report> {
    let columns = BULK.map(|(name, _)| (name, "Gbit/s", Better::More));
    let cpu = ("CPU of the whole machine, 1 stream", "s/GB", Better::Less);
    let columns = [&columns[..], &[cpu]].concat();
    measure("How fast is the private network?", &MTUS, &columns, rounds, |way| {
        let mut values = Vec::new();
        for (_, further) in BULK {
            values.push(bulk(&way.path, further)?);
        }
        let cpu = values.first().map(|(_, cpu)| *cpu);
        Ok(values.into_iter().map(|(gigabits, _)| gigabits).chain(cpu).collect())
    })
}

/// Small requests.
pub(crate) fn soon(rounds: usize) -> Result<Report> {
    let columns = [
        ("round trips, 1 connection", "1/s", Better::More),
        ("their p99", "µs", Better::Less),
        ("round trips, 16 connections", "1/s", Better::More),
        ("p99 of these", "µs", Better::Less),
        ("new connections", "1/s", Better::More),
    ];
    measure("How soon is the private network there?", &MTUS[..1], &columns, rounds, |way| {
        let (from, echo) = (&way.path.from, way.path.echo);
        let single = load::round_trips(from, echo, 1, WHILE)?;
        let many = load::round_trips(from, echo, MANY, WHILE)?;
        let new = load::new_connections(from, echo, MANY, WHILE)?;
        Ok(vec![single.rate, single.p99, many.rate, many.p99, new])
    })
}

/// Packets.
pub(crate) fn many(rounds: usize) -> Result<Report> {
    let question = "How many packets a second does the private network carry on one CPU?";
    let columns = [("packets", "million/s", Better::More)];
    measure(question, &MTUS[..1], &columns, rounds, |way| Ok(pace::of(way)?.into_iter().collect()))
}

/// Asks the same of every way at every place, in the order of the columns.
fn measure(
    question: &str,
    mtus: &[u32],
    columns: &[(&str, &str, Better)],
    rounds: usize,
    once: impl Fn(&Way) -> Result<Vec<f64>>,
) -> Result<Report> {
    let machine = Machine::here();
    let mut places = Vec::new();
    for (place, ways) in
        [("same host", ways::same_host as fn(u32) -> _), ("two hosts", ways::two_hosts)]
    {
        for mtu in mtus {
            let measure = |(name, unit, better): &(&str, &str, _)| {
                Measure::new(&format!("{place}, MTU {mtu}: {name}"), unit, *better)
            };
            places
                .push(Place { ways: ways(*mtu)?, measures: columns.iter().map(measure).collect() });
        }
    }
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for Place { ways, measures } in &mut places {
            for way in ways {
                let name = &way.path.name;
                let values = once(way).with_context(|| name.clone())?;
                for (measure, value) in measures.iter_mut().zip(values) {
                    measure.push(name, value);
                }
            }
        }
    }
    let measures = places.into_iter().flat_map(|place| place.measures).collect();
    Ok(Report { question: question.to_owned(), machine, measures })
}
