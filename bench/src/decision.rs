//! What does one decision cost? Nanoseconds of `BPF_PROG_TEST_RUN` above a program that does
//! nothing, for each hook: a packet of a tunnel, one that is not edge's, and one that is refused,
//! with two tunnels in the tables and with ten thousand.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use edge_common::verdict::{Hook, Verdict};
use edge_user::datapath::Datapath;

use crate::{
    empty::Empty,
    frames::{Case, cases, fill},
    machine::Machine,
    report::{Better, Measure, Report},
};

const REPEAT: u32 = 500_000;
const PINS: &str = "/sys/fs/bpf/edge/bench";
/// Pairs of tunnels in the tables.
const SIZES: [u16; 2] = [1, 5_000];

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let measured = timed(rounds);
    std::fs::remove_dir_all(PINS).ok();
    Ok(Report { question: "What does one decision cost?".to_owned(), machine, measures: measured? })
}

fn timed(rounds: usize) -> Result<Vec<Measure>> {
    let mut datapaths = Vec::new();
    for size in SIZES {
        let datapath = Datapath::load(&Path::new(PINS).join(size.to_string()))?;
        fill(&datapath, size)?;
        datapaths.push(datapath);
    }
    let empty = [Empty::passing(Hook::XdpUplink)?, Empty::passing(Hook::TcUplink)?];
    let column = |name: &str, unit: &str| Measure::new(name, unit, Better::Less).apart();
    let mut whole = column("in all, 2 tunnels", "ns");
    let mut above = [
        column("above an empty program, 2 tunnels", "ns"),
        column("above an empty program, 10,000 tunnels", "ns"),
    ];
    let mut growth = column("growth", "×");
    for _ in 0..rounds {
        for case in cases()? {
            let place = usize::from(case.hook != Hook::XdpUplink);
            let floor = nanoseconds(empty[place].test_run(&case.frame, REPEAT)?);
            whole.push(["xdp: empty program", "tcx: empty program"][place], floor);
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
fn run(datapath: &Datapath, case: &Case) -> Result<f64> {
    let before = counted(datapath, case.hook, case.verdict)?;
    let run = datapath.test_run(case.hook, &case.frame, None, REPEAT)?;
    let hits = counted(datapath, case.hook, case.verdict)? - before;
    ensure!(hits == u64::from(REPEAT), "{}: {hits} hits of {REPEAT} runs", case.name);
    Ok(nanoseconds(run.duration))
}

/// How many packets a hook has judged so.
pub(crate) fn counted(datapath: &Datapath, hook: Hook, verdict: Verdict) -> Result<u64> {
    let rows = datapath.verdicts()?;
    let found = rows.iter().find(|(at, what, _)| *at == hook && *what == verdict);
    Ok(found.context("every verdict has a counter")?.2.packets)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
fn nanoseconds(duration: std::time::Duration) -> f64 {
    duration.as_nanos() as f64
}
