//! The `edge` binary: from the command line to the code that does it.

use std::{future::Future, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use edge_user::{
    cli::{Cli, Command},
    commands::{attach, ca, check, containers, down, forward, hosts, proxy, token, trace, tunnels},
    daemon,
    error::{self, Error},
    host,
};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => error::report(dispatch(cli)),
        Err(error) => error::report_usage(&error),
    }
}

fn dispatch(Cli { place, command }: Cli) -> anyhow::Result<ExitCode> {
    match command {
        // Before any runtime: it moves to other namespaces, which a thread does for itself only.
        Command::Init(args) => Ok(host::init::main(&args)),
        Command::Up(args) => serve(daemon::run(place, args)),
        Command::Gateway(args) => serve(daemon::run(place, *args)),
        Command::Host(args) => serve(daemon::run(place, args)),
        Command::Down => wait_any(down::down(place)),
        Command::Called(args) => wait(host::run::called(&place, &args)),
        Command::Run(args) => wait(host::run::run(&place, &args)),
        Command::Forward(args) => wait_any(forward::forward(args)),
        Command::Attach(args) => done(attach::attach(&place, &args)),
        Command::Tunnels(args) => done(tunnels::list(&place, args)),
        Command::Containers(args) => done(containers::list(&place, args)),
        Command::Hosts(args) => done(hosts::hosts(&place, args)),
        Command::Proxy(command) => done(proxy::proxy(&place, command)),
        Command::Trace(args) => done(trace::trace(&place, &args)),
        Command::Token(command) => done(token::token(&place, command)),
        Command::Check(args) => wait(check::check(&place, &args)),
        Command::Ca => done(ca::print(&place)),
    }
}

/// Runs a command that has no exit code of its own.
fn done(command: impl Future<Output = Result<(), Error>>) -> anyhow::Result<ExitCode> {
    wait(async { command.await.map(|()| ExitCode::SUCCESS) })
}

/// Runs a command on this thread: it is idle most of its life, and signals find it.
fn wait(command: impl Future<Output = Result<ExitCode, Error>>) -> anyhow::Result<ExitCode> {
    wait_any(async { Ok(command.await?) })
}

fn wait_any(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime did not start")?.block_on(command)
}

/// Runs the daemon on every core.
fn serve(daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime did not start")?.block_on(daemon)?;
    Ok(ExitCode::SUCCESS)
}
