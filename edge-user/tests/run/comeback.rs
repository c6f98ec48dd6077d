//! Owners whose daemon goes away: they say so once, claim the container again, and lose neither
//! the program nor its exit code.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::daemon::{Daemon, eventually};

/// A program that says what it was sent, and ends with 4 when the file appears.
const PROGRAM: &str = "trap 'echo usr1' USR1; echo ready; \
                       until [ -e \"$0\" ]; do sleep 0.02; done; exit 4";

struct Owner {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Owner {
    fn of(daemon: &Daemon, words: &[&str]) -> Self {
        let mut command = daemon.edge(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("edge starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let err = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, out, err }
    }

    /// `edge run` of [`PROGRAM`], ready.
    fn run(daemon: &Daemon, end: &Path) -> Self {
        let end = end.to_str().expect("a path");
        let mut owner = Self::of(daemon, &["run", "--", "sh", "-c", PROGRAM, end]);
        assert_eq!(owner.says(), "edge: port 8000 → https://abc.r1.localhost, tcp localhost:20000");
        assert_eq!(owner.program_says(), "ready");
        owner
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a running edge");
    }

    fn program_says(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Its code, and what it had still to say.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.err.read_to_string(&mut rest).expect("text");
        (self.child.wait().expect("an end").code(), rest)
    }
}

#[test]
fn a_container_is_claimed_from_each_next_daemon() {
    let mut daemon = Daemon::start();
    let folder = tempfile::tempdir().expect("a folder");
    let end = folder.path().join("end");
    let mut owner = Owner::run(&daemon, &end);
    for round in 1..=3 {
        daemon.stop();
        let line = owner.says();
        assert!(line.starts_with("edge: daemon: it is gone ("), "{line}");
        assert!(line.contains("raw TCP tunnels go on in the kernel"), "{line}");
        owner.signal(Signal::SIGUSR1);
        assert_eq!(owner.program_says(), "usr1");
        daemon.start_again();
        assert_eq!(owner.says(), "edge: daemon: it is back");
        let requests = daemon.requests();
        assert_eq!(requests.len(), 1 + round);
        let resume = requests[round].resume.clone().expect("a claim");
        assert_eq!((&*resume.container, &*resume.token), ("co-1", "secret"));
        owner.signal(Signal::SIGUSR1);
        assert_eq!(owner.program_says(), "usr1");
    }
    std::fs::write(&end, "").expect("a file");
    // The tunnel is as it was, so it is not announced again.
    assert_eq!(owner.ends(), (Some(4), String::new()));
}

#[test]
fn a_program_outlives_its_place() {
    let mut daemon = Daemon::start();
    let folder = tempfile::tempdir().expect("a folder");
    let end = folder.path().join("end");
    let mut owner = Owner::run(&daemon, &end);
    daemon.stop();
    daemon.forget();
    daemon.start_again();
    assert!(owner.says().contains("it is gone"));
    let line = owner.says();
    assert!(line.starts_with("edge: container co-1: not known"), "{line}");
    assert!(line.contains("the program runs on without a network"), "{line}");
    owner.signal(Signal::SIGUSR1);
    assert_eq!(owner.program_says(), "usr1");
    std::fs::write(&end, "").expect("a file");
    assert_eq!(owner.ends(), (Some(4), String::new()));
}

#[test]
fn a_program_that_ends_does_not_wait_for_the_daemon() {
    let mut daemon = Daemon::start();
    let folder = tempfile::tempdir().expect("a folder");
    let end = folder.path().join("end");
    let mut owner = Owner::run(&daemon, &end);
    daemon.stop();
    assert!(owner.says().contains("it is gone"));
    std::fs::write(&end, "").expect("a file");
    assert_eq!(owner.ends(), (Some(4), String::new()));
}

#[test]
fn an_attachment_is_claimed_again_or_fails() {
    let mut daemon = Daemon::start();
    let mut owner = Owner::of(&daemon, &["attach", "--netns", "/proc/self/ns/net"]);
    assert!(owner.says().contains("box is attached"));
    assert!(owner.says().contains("port 8000"));
    daemon.stop();
    assert!(owner.says().contains("it is gone"));
    daemon.start_again();
    assert_eq!(owner.says(), "edge: daemon: it is back");
    daemon.stop();
    daemon.forget();
    daemon.start_again();
    assert!(owner.says().contains("it is gone"));
    let (code, rest) = owner.ends();
    assert_eq!(
        (code, rest.as_str()),
        (Some(69), "edge: container co-1: not known; start it again\n")
    );
    eventually("no call is open", || daemon.attached() == 0);
}

#[test]
fn an_attachment_without_a_daemon_can_be_interrupted() {
    let mut daemon = Daemon::start();
    let mut owner = Owner::of(&daemon, &["attach", "--netns", "/proc/self/ns/net"]);
    assert!(owner.says().contains("box is attached"));
    assert!(owner.says().contains("port 8000"));
    daemon.stop();
    assert!(owner.says().contains("it is gone"));
    owner.signal(Signal::SIGINT);
    assert_eq!(owner.ends(), (Some(0), String::new()));
}
