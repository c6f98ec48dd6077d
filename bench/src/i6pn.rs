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
    raw::{Bulk, MANY, WHILE, bulk},
    report::{Better, Measure, Report},
};

/// Bytes of a packet on wires and underlay: Ethernet's, and what networks between machines have.
const MTUS: [u32; 2] = [1500, 9000];
/// iperf3's arguments for a stream that lasts long enough to be left alone now and then.
const LONG: &[&str] = &["--time", "4"];
/// How many streams there are, and iperf3's arguments for them.
const FLOWS: [(&str, &[&str]); 3] = [
    ("1 stream", LONG),
    ("4 streams", &["--parallel", "4"]),
    ("16 streams", &["--parallel", "16"]),
];

/// Ways that are compared with each other, what was measured of them so far, and where they are.
struct Place {
    ways: Vec<Way>,
    measures: Vec<Measure>,
}

/// One stream.
pub(crate) fn fast(rounds: usize) -> Result<Report> {
    let question = "How fast is the private network?";
    let columns = [
        ("one stream, undisturbed", "Gbit/s", Better::More),
        ("one stream", "Gbit/s", Better::More),
        ("CPU of the whole machine", "s/GB", Better::Less),
    ];
    let stream = |way: &Way| {
        let Bulk { undisturbed, gigabits, cpu } = bulk(&way.path, LONG)?;
        Ok(vec![undisturbed, gigabits, cpu])
    };
    measure(question, &MTUS[..1], &columns, rounds, &[&stream])
}

/// One stream and several, in packets of both sizes.
pub(crate) fn wide(rounds: usize) -> Result<Report> {
    let question = "How fast is the private network with large packets and many streams?";
    let columns = FLOWS.map(|(name, _)| (name, "Gbit/s, undisturbed", Better::More));
    let flows = FLOWS.map(|(_, further)| {
        move |way: &Way| bulk(&way.path, further).map(|bulk| vec![bulk.undisturbed])
    });
    let flows = flows.each_ref().map(|flow| flow as Ask<'_>);
    measure(question, &MTUS, &columns, rounds, &flows)
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
    let trips = |connections| {
        move |Way { path, .. }: &Way| {
            let trips = load::round_trips(&path.from, path.echo, connections, WHILE)?;
            Ok(vec![trips.rate, trips.p99])
        }
    };
    let new = |Way { path, .. }: &Way| {
        load::new_connections(&path.from, path.echo, MANY, WHILE).map(|rate| vec![rate])
    };
    let question = "How soon is the private network there?";
    measure(question, &MTUS[..1], &columns, rounds, &[&trips(1), &trips(MANY), &new])
}

/// Packets.
pub(crate) fn many(rounds: usize) -> Result<Report> {
    let question = "How many packets a second does the private network carry on one CPU?";
    let columns = [("packets", "million/s", Better::More)];
    let packets = |way: &Way| Ok(pace::of(way)?.into_iter().collect());
    measure(question, &MTUS[..1], &columns, rounds, &[&packets])
}

/// What is asked of one way; the answers are the next columns'.
type Ask<'a> = &'a dyn Fn(&Way) -> Result<Vec<f64>>;

/// Asks the same of every way at every place, one question after the other, so that little time is
/// between what is compared.
fn measure(
    question: &str,
    mtus: &[u32],
    columns: &[(&str, &str, Better)],
    rounds: usize,
    asks: &[Ask<'_>],
) -> Result<Report> {
    let machine = Machine::here();
    let mut places = Vec::new();
    for (place, ways) in
        [("same host", ways::same_host as fn(u32) -> _), ("two hosts", ways::two_hosts)]
    {
        for mtu in mtus {
            let place = match mtus {
                [_] => place.to_owned(),
                _ => format!("{place}, MTU {mtu}"),
            };
            let measures = columns.iter();
            let measures = measures.map(|(name, unit, better)| {
                Measure::new(&format!("{place}: {name}"), unit, *better)
            });
            places.push(Place { ways: ways(*mtu)?, measures: measures.collect() });
        }
    }
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for Place { ways, measures } in &mut places {
            let mut rest = &mut measures[..];
            for ask in asks {
                let mut answered = 0;
                for way in &*ways {
                    let name = &way.path.name;
                    let values = ask(way).with_context(|| name.clone())?;
                    answered = answered.max(values.len());
                    for (measure, value) in rest.iter_mut().zip(values) {
                        measure.push(name, value);
                    }
                }
                rest = &mut rest[answered..];
            }
        }
    }
    let measures = places.into_iter().flat_map(|place| place.measures).collect();
    Ok(Report { question: question.to_owned(), machine, measures })
}
