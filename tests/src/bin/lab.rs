//! `cargo xtask lab`: a one-machine region in network namespaces, from the same library that the
//! tests use, with a shell in it. Leaving the shell takes everything down.

use std::{env, process::ExitCode};

use tests::lab::Lab;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lab = Lab::new(&arguments);
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
    let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = lab.machine.command(shell);
    lab.edge.address(&mut command);
    match command.status() {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: no shell: {error}; set SHELL to one that is there");
            ExitCode::FAILURE
        }
    }
}
