//! Everything at once, for as long as it takes to see a leak: the daemon takes no more of its
//! machine at the end than near the beginning, and has counted what the clients counted.

mod books;
mod clients;
mod guests;
mod sites;
mod strangers;

use std::{thread, time::Duration};

use tests::{
    edge::{self, Edge},
    floor::Floor,
    lab::{Lab, PATIENCE},
    load::Load,
    metrics::Metrics,
    process::wait_for,
    vitals::Vitals,
};

use self::{books::Books, sites::Sites};

/// KiB that a daemon may have more near the end than near the beginning: an allocator's moods, not
/// some hundred bytes for each of many thousand connections.
const KEPT: u64 = 12 * 1024;
/// Open files by which two medians may differ: those of connections that happen to be open.
const FILES: f64 = 24.0;
/// Threads by which two medians may differ: a pool's that come with work and go without it.
const THREADS: f64 = 12.0;
/// Rows of a table by which two medians may differ: those of one guest.
const ROWS: f64 = 8.0;
/// For connections to end and rows to go, on a machine that was busy.
const AFTERWARDS: Duration = Duration::from_secs(60);

#[test]
fn under_mixed_load_nothing_grows_and_every_connection_is_accounted_for_once() {
    let time = Duration::from_secs(if edge::long() { 600 } else { 60 });
    let mut lab = Lab::new(&["--handshake-deadline", "5s"]);
    let (sites, books) = (Sites::new(&lab), Books::default());
    let (floor, before) = (Floor::of(&mut lab.edge), lab.edge.metrics());

    let (vitals, rounds) = thread::scope(|scope| {
        let mut load = Load::new(scope);
        clients::come(&mut load, &lab, &sites, &books);
        guests::come(&mut load, &lab, &sites, &books);
        strangers::come(&mut load, &lab, &sites, &books);
        let vitals = Vitals::watch(&lab.edge, &floor, time, || load.assert_well());
        (vitals, load.stop())
    });

    wait_idle(&lab.edge);
    vitals.assert_flat("KiB of memory", KEPT as f64);
    vitals.assert_flat("open files", FILES);
    vitals.assert_flat("threads", THREADS);
    let tables = vitals.names("edge_table_rows");
    assert!(!tables.is_empty(), "no tables in {vitals:?}");
    tables.iter().for_each(|table| vitals.assert_flat(table, ROWS));
    // What was warm after the first quarter may be so still.
    floor.returns(4 * KEPT, AFTERWARDS);
    wait_for("the tables to be as they were", AFTERWARDS, || {
        (rows(&lab.edge.metrics()) == rows(&before)).then_some(())
    });
    assert_eq!(lab.edge.tunnels().len(), sites.tunnels(), "{:#?}", lab.edge.tunnels());
    assert_eq!(lab.edge.containers().len(), sites.containers(), "{:#?}", lab.edge.containers());

    println!("rounds: {rounds:?}");
    books.assert_settled(&lab.edge, &sites, &before);
}

/// Waits until the last connection is over.
#[track_caller]
fn wait_idle(edge: &Edge) {
    let open = |metrics: &Metrics| {
        metrics.sum("edge_relay_connections", &[]) + metrics.value("edge_handshakes_unfinished")
    };
    wait_for("the last connection to be over", PATIENCE.max(AFTERWARDS), || {
        (open(&edge.metrics()) == 0.0).then_some(())
    });
}

/// Of the kernel's tables, and what else there is one of for each tunnel.
fn rows(metrics: &Metrics) -> Vec<(String, f64)> {
    let all = metrics.of("edge_table_rows").chain(metrics.of("edge_tunnels"));
    all.map(|(series, value)| (series.to_owned(), value)).collect()
}
