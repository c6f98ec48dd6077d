//! What does one decision cost? Nanoseconds of `BPF_PROG_TEST_RUN` above a program that does
//! nothing, for each hook: a packet of a tunnel, one that is not edge's, one that is refused, and
//! the private network's; with next to nothing in the tables, and with ten thousand tunnels, ten
//! thousand hosts and a hundred thousand addresses.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use edge_common::verdict::{Hook, Verdict};
use edge_user::datapath::Datapath;

use crate::{
    empty::Empty,
    frames::{Case, Size, cases, fill},
    machine::Machine,
    report::{Better, Measure, Report},
};

const REPEAT: u32 = 500_000;
/// Runs of what the kernel cannot repeat: each starts its clock and stops it, and finds less in its
/// caches, as does an empty program that is run so.
const ANEW: u32 = 20_000;
const PINS: &str = "/sys/fs/bpf/edge/bench";
const SIZES: [Size; 2] = [
    Size { pairs: 1, hosts: 0, addresses: 0 },
    Size { pairs: 5_000, hosts: 10_000, addresses: 100_000 },
];

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let measured = timed(rounds);
    std::fs::remove_dir_all(PINS).ok();
    Ok(Report { question: "What does one decision cost?".to_owned(), machine, measures: measured? })
}

fn timed(rounds: usize) -> Result<Vec<Measure>> {
    let mut datapaths = Vec::new();
    for size in &SIZES {
        let datapath = Datapath::load(&Path::new(PINS).join(size.pairs.to_string()))?;
        fill(&datapath, size)?;
        datapaths.push(datapath);
    }
    let empty = [Empty::passing(Hook::XdpUplink)?, Empty::passing(Hook::TcUplink)?];
    let column = |name: &str, unit: &str| Measure::new(name, unit, Better::Less).apart();
    let mut whole = column("in all, small tables", "ns");
    let mut above = [
        column("above an empty program, small tables", "ns"),
        column("above an empty program, large tables", "ns"),
    ];
    let mut growth = column("growth", "×");
    for _ in 0..rounds {
        for case in cases()? {
            let place = usize::from(case.hook != Hook::XdpUplink);
            let empty = |repeat| Ok(empty[place].test_run(&case.frame, repeat)?);
            let floor = timed_runs(case.anew, empty)?;
            if !case.anew {
                whole.push(["xdp: empty program", "tcx: empty program"][place], floor);
            }
            let one = run(&datapaths[0], &case)?;
            let many = run(&datapaths[1], &case)?;
            whole.push(&case.name, one);
            above[0].push(&case.name, one - floor);
            above[1].push(&case.name, many - floor);
            growth.push(&case.name, (many - floor) / (one - floor));
        }
    }
    let [one, many] = above;
    Ok(vec![whole, one, many, growth])
}

/// Mean time of one run; every single run must have come to the expected verdict.
pub(crate) fn run(datapath: &Datapath, case: &Case) -> Result<f64> {
    let before = counted(datapath, case.hook, case.verdict)?;
    let once = |repeat| Ok(datapath.test_run(case.hook, &case.frame, None, repeat)?.duration);
    let mean = timed_runs(case.anew, once)?;
    let hits = counted(datapath, case.hook, case.verdict)? - before;
    let runs = if case.anew { ANEW } else { REPEAT };
    ensure!(hits == u64::from(runs), "{}: {hits} hits of {runs} runs", case.name);
    Ok(mean)
}

/// Mean time of one of many runs: the kernel repeats them, or each begins anew.
fn timed_runs(anew: bool, run: impl Fn(u32) -> Result<Duration>) -> Result<f64> {
    if !anew {
        return Ok(nanoseconds(run(REPEAT)?));
    }
    let mut sum = 0.0;
    for _ in 0..ANEW {
        sum += nanoseconds(run(1)?);
    }
    Ok(sum / f64::from(ANEW))
}

/// How many packets a hook has judged so.
pub(crate) fn counted(datapath: &Datapath, hook: Hook, verdict: Verdict) -> Result<u64> {
    let rows = datapath.verdicts()?;
    let found = rows.iter().find(|(at, what, _)| *at == hook && *what == verdict);
    Ok(found.context("every verdict has a counter")?.2.packets)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
