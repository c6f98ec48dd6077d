//! How a daemon stops: for a restart (SIGTERM), or for good (Ctrl-C, `edge down`).

use std::io;

use nix::sys::signal::Signal;
use tests::{
    download::Counting,
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    process::wait_for,
};

#[test]
fn a_stop_lets_downloads_finish_and_accepts_nobody() {
    let mut lab = Lab::new(&[]);
    let counting = Counting::serve(&lab, &[]);
    let download = counting.download(&lab);
    download.wait_more();
    lab.edge.daemon().signal(Signal::SIGTERM);
    wait_for("new clients to be refused", PATIENCE, || {
        let refused = lab.tls().tcp().err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
    download.wait_more();
    assert!(lab.edge.daemon().ended().is_none());
    counting.finish();
    assert_eq!(download.end(), Ok(()));
    let status = lab.edge.daemon().wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", lab.edge.daemon().printed());

    lab.edge.forget();
    lab.edge.start();
    wait_for("the owner to claim its container", PATIENCE, || {
        counting.owner.printed().contains("daemon: it is back").then_some(())
    });
    lab.https(&["--fail", &counting.tunnel.url]);
    assert_eq!(lab.edge.tunnels()[0].url, counting.tunnel.url);
}

#[test]
fn a_drain_ends_with_its_deadline() {
    let mut lab = Lab::new(&["--drain", "500ms"]);
    let counting = Counting::serve(&lab, &[]);
    let download = counting.download(&lab);
    download.wait_more();
    lab.edge.daemon().signal(Signal::SIGTERM);
    let status = lab.edge.daemon().wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", lab.edge.daemon().printed());
    assert!(download.end().unwrap_err().contains("reset"));
}

#[test]
fn told_twice_it_does_not_wait() {
    let mut lab = Lab::new(&["--drain", "1h"]);
    let counting = Counting::serve(&lab, &[]);
    let download = counting.download(&lab);
    download.wait_more();
    lab.edge.daemon().signal(Signal::SIGTERM);
    wait_for("new clients to be refused", PATIENCE, || lab.tls().tcp().is_err().then_some(()));
    download.wait_more();
    lab.edge.daemon().signal(Signal::SIGTERM);
    let status = lab.edge.daemon().wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", lab.edge.daemon().printed());
    assert!(download.end().is_err());
}

#[test]
fn down_ends_a_daemon_and_leaves_nothing() {
    let mut lab = Lab::stopped(&[]);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    lab.edge.start();
    let counting = Counting::serve(&lab, &["--name", "counting"]);
    let output = lab.edge.cli(&["down"]).ok();
    for what in [counting.name(), "container \"counting\"", "daemon "] {
        assert!(output.stdout.contains(what), "{what}: {output}");
    }
    assert!(lab.edge.daemon().wait(PATIENCE).success(), "{}", lab.edge.daemon().printed());
    before.assert_unchanged();
    wait_for("the owner to be told", PATIENCE, || {
        counting.owner.printed().contains("the program runs on without a network").then_some(())
    });
    let output = lab.edge.cli(&["down"]).ok();
    assert!(output.stdout.contains("none runs, and none left anything"), "{output}");
}

#[test]
fn down_removes_what_a_dead_daemon_left() {
    let mut lab = Lab::stopped(&[]);
    let before = Snapshot::of(&lab.machine, lab.edge.instance());
    lab.edge.start();
    let counting = Counting::serve(&lab, &["--name", "counting"]);
    lab.edge.kill9();
    let left = Snapshot::of(&lab.machine, lab.edge.instance());
    assert!(left.has("tcx-"), "{left:?}");
    let output = lab.edge.cli(&["down"]).ok();
    assert!(output.stdout.contains("removed "), "{output}");
    before.assert_unchanged();
    // The next daemon has never heard of the container.
    lab.edge.start();
    wait_for("the owner to be told", PATIENCE, || {
        counting.owner.printed().contains("the program runs on without a network").then_some(())
    });
    assert!(lab.edge.containers().is_empty());
}
