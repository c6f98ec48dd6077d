//! `edge run` at a terminal, played by script(1).

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::daemon::{Daemon, EDGE};

/// Types lines, with pauses, at a terminal in which a shell runs this command.
fn type_at(daemon: &Daemon, command: &str, lines: &[&str]) -> String {
    let edge = format!("{EDGE} --run-dir {}", daemon.run_dir().display());
    let mut terminal = Command::new("timeout");
    terminal.args([
        "60",
        "script",
        "--quiet",
        "--return",
        "--command",
        &command.replace("edge", &edge),
    ]);
    let mut terminal = terminal
        .arg("/dev/null")
        .env("PS1", "$ ")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1)");
    let mut keyboard = terminal.stdin.take().expect("a pipe");
    for line in lines {
        // For the shell to be at its prompt: what is typed early may be thrown away.
        thread::sleep(Duration::from_millis(700));
        keyboard.write_all(line.as_bytes()).expect("a terminal that listens");
    }
    let output = terminal.wait_with_output().expect("script(1)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_interactive_shell_has_job_control() {
    let lines = ["sleep 100\n", "\x1a", "jobs\n", "kill -9 %1; wait\n", "exit 3\n"];
    let shown = type_at(
        &Daemon::start(),
        "sh -c 'edge run -- bash --norc -i; echo code=$?; read -r line </dev/tty; echo line=$line'",
        &[&lines[..], &["still mine\n"]].concat(),
    );
    assert!(!shown.contains("no job control"), "{shown}");
    assert!(shown.contains("Stopped"), "{shown}");
    assert!(shown.contains("code=3"), "{shown}");
    // The terminal went back to the script that called.
    assert!(shown.contains("line=still mine"), "{shown}");
}

#[test]
fn an_interrupt_is_delivered_once() {
    let script = "edge run -- sh -c 'n=0; trap \"n=\\$((n+1)); echo got=\\$n\" INT; i=0; \
                  while [ \\$i -lt 20 ]; do i=\\$((i+1)); sleep 0.1; done; echo all=\\$n'";
    let shown = type_at(&Daemon::start(), &script.replace("\\$", "$"), &["", "\x03", ""]);
    assert!(shown.contains("all=1"), "{shown}");
}
