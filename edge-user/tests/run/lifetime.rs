//! How containers begin and end: exit codes, signals, deaths.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::daemon::{Daemon, Ran, eventually, processes};

/// A container whose program has printed a line.
fn start(daemon: &Daemon, options: &[&str], script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = daemon.edge(&[&["run"], options, &["--", "sh", "-c", script]].concat());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("edge runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    (child, out)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

#[test]
fn the_exit_code_is_the_programs() {
    let daemon = Daemon::start();
    assert_eq!(daemon.inside("exit 0").code, Some(0));
    assert_eq!(daemon.inside("exit 7").code, Some(7));
    assert_eq!(daemon.inside("kill -TERM $$").code, Some(128 + 15));
    assert_eq!(daemon.inside("kill -KILL $$").code, Some(128 + 9));
}

#[test]
fn a_program_that_does_not_start_is_named() {
    let daemon = Daemon::start();
    let absent = Ran::from(daemon.edge(&["run", "--", "no-such-program"]).output().unwrap());
    assert_eq!(absent.code, Some(127), "{absent:?}");
    assert!(absent.err.contains("edge: no-such-program: "), "{absent:?}");
    let directory = Ran::from(daemon.edge(&["run", "--", "/etc"]).output().unwrap());
    assert_eq!(directory.code, Some(126), "{directory:?}");
}

#[test]
fn tunnels_are_announced() {
    let daemon = Daemon::start();
    let mut command = daemon.edge(&["run", "--unencrypted-port", "8000", "--", "sleep", "0.5"]);
    let ran = Ran::from(command.output().unwrap());
    let line = "edge: port 8000 → https://abc.r1.localhost, tcp localhost:20000\n";
    assert_eq!(ran.err, line, "{ran:?}");
    assert_eq!(daemon.requests()[0].unencrypted_ports, [8000]);
    eventually("the call ends with the container", || daemon.attached() == 0);
}

#[test]
fn a_no_of_the_daemon_is_passed_on() {
    let daemon = Daemon::start();
    let ran = Ran::from(daemon.edge(&["run", "--name", "taken", "--", "true"]).output().unwrap());
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert_eq!(ran.err, "edge: taken: the name is in use; choose another\n");
}

#[test]
fn without_root_it_says_so() {
    let daemon = Daemon::start();
    let mut command = daemon.edge(&["run", "--", "true"]);
    let ran = Ran::from(command.uid(65534).output().unwrap());
    assert_eq!(ran.code, Some(70), "{ran:?}");
    assert!(ran.err.contains("only root") && ran.err.contains("sudo"), "{ran:?}");
}

#[test]
fn signals_reach_the_program_once() {
    let daemon = Daemon::start();
    let script = "n=0; trap 'n=$((n+1)); echo $n' USR1; trap 'exit $n' TERM; echo ready; \
                  while :; do sleep 0.02; done";
    let (mut child, mut out) = start(&daemon, &[], script);
    for count in 1..=3 {
        kill(pid(&child), Signal::SIGUSR1).unwrap();
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{count}\n"));
    }
    // Time for a second delivery to show.
    thread::sleep(Duration::from_millis(200));
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn signal_masks_are_empty_and_ignored_signals_stay_ignored() {
    let daemon = Daemon::start();
    // Whoever started the tests may have made them ignore some, as nohup does.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    // Rust's runtime ignores SIGPIPE, and its children do not.
    let own = u64::from_str_radix(own.trim(), 16).unwrap() & 0x7fff_ffff & !(1 << 12);
    for (ignored, expected) in [("USR1", 1 << 9), ("HUP", 1)] {
        let outside = format!("trap '' {ignored}; exec \"$@\"");
        let ran = daemon.inside_of(&outside, "grep Sig /proc/self/status");
        let mask = |name: &str| {
            let line = ran.out.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        assert_eq!(mask("SigBlk:"), 0, "{ran:?}");
        // Of the real-time signals, libc keeps two to itself.
        assert_eq!(mask("SigIgn:") & 0x7fff_ffff, expected | own, "{ran:?}");
    }
}

#[test]
fn nothing_outlives_edge_run_however_it_dies() {
    let daemon = Daemon::start();
    for (case, victim) in ["edge run", "its first child"].into_iter().enumerate() {
        let mark = format!("{}.{case}", 100_000 + std::process::id());
        let (mut child, _out) =
            start(&daemon, &[], &format!("echo ready; setsid sleep {mark} & exec sleep {mark}"));
        eventually("two sleepers", || processes(&mark).len() == 2);
        let main = pid(&child);
        let children = format!("/proc/{main}/task/{main}/children");
        let first_child = std::fs::read_to_string(children).unwrap();
        let target = match case {
            0 => main,
            _ => Pid::from_raw(first_child.trim().parse().unwrap()),
        };
        kill(target, Signal::SIGKILL).unwrap();
        eventually(&format!("no sleeper without {victim}"), || processes(&mark).is_empty());
        child.wait().unwrap();
        eventually("the daemon hears of it", || daemon.attached() == 0);
    }
}

#[test]
fn whom_the_program_leaves_behind_dies_with_it() {
    let daemon = Daemon::start();
    let mark = format!("{}.7", 100_000 + std::process::id());
    let ran = daemon.inside(&format!("setsid sleep {mark} >/dev/null 2>&1 & exit 5"));
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(processes(&mark).is_empty());
}

#[test]
fn orphans_are_reaped() {
    let script = "(sleep 0.05 & sleep 0.1 &); sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status";
    let ran = Daemon::start().inside(script);
    assert_eq!(ran.out, "", "{ran:?}");
}

#[test]
fn a_timeout_ends_the_program() {
    let daemon = Daemon::start();
    let started = Instant::now();
    let ran = Ran::from(
        daemon.edge(&["run", "--timeout", "300ms", "--", "sleep", "60"]).output().unwrap(),
    );
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert!(ran.err.contains("sleep: it still ran after 300ms"), "{ran:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_timeout_ends_a_program_that_does_not_listen() {
    let daemon = Daemon::start();
    let started = Instant::now();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let (mut child, _out) = start(&daemon, &["--timeout", "200ms"], script);
    assert_eq!(child.wait().unwrap().code(), Some(124));
    let took = started.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(13)).contains(&took), "{took:?}");
}

#[test]
fn the_program_runs_on_without_the_daemon() {
    let mut daemon = Daemon::start();
    let (child, _out) = start(&daemon, &[], "echo ready; sleep 1; exit 4");
    daemon.stop();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert_eq!(ran.err.matches("daemon: it is gone").count(), 1, "{ran:?}");
}

#[test]
fn an_attachment_lasts_as_long_as_the_command() {
    let daemon = Daemon::start();
    let mut command = daemon.edge(&["attach", "--netns", "/proc/self/ns/net", "--h2-port", "80"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("attached", || daemon.attached() == 1);
    // Resolved by the command: to the daemon, `self` would be itself.
    let request = &daemon.requests()[0];
    assert_eq!((request.h2_ports.as_slice(), request.pid), ([80].as_slice(), 0));
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    eventually("detached", || daemon.attached() == 0);
}
