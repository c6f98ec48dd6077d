//! One machine and an internet.

use std::process::ExitCode;

use tests::lab::Lab;

use crate::shell;

pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let lab = Lab::new(arguments);
    println!(
        "machine   {} ({}, {}): edge runs here, and so does this shell
internet  {} ({}, {}): a client; enter it with
          nsenter --net={}
authority {}
try       edge run --unencrypted-port 8000 -- python3 -m http.server 8000 &
          edge tunnels
leave     exit",
        lab.machine.name(),
        Lab::PUBLIC,
        Lab::PUBLIC_V6,
        lab.internet.name(),
        Lab::CLIENT,
        Lab::CLIENT_V6,
        lab.internet.path().display(),
        lab.edge.folder().join("ca/ca.pem").display(),
    );
    let mut command = lab.machine.command(shell::program());
    lab.edge.address(&mut command);
    shell::open(command)
}
