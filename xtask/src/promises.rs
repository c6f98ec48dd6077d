//! The test programs of `tests/`, several at a time: each mostly waits for daemons, and cargo would
//! run one after the other.

use std::{
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// Programs at a time. More would wait for the processor, and what a test waits for has a deadline.
const AT_ONCE: usize = 3;
/// Tests at a time in each.
const THREADS: &str = "3";

/// Builds them and runs them all, also after one has failed. Each program's output comes whole,
/// when it has ended.
pub(crate) fn run(
    workspace: &Workspace,
    filters: &[String],
    with: impl Fn(&mut Command) + Sync,
) -> Result<()> {
    let programs = build(workspace)?;
    println!("tests: real daemons in network namespaces; {AT_ONCE} programs at a time");
    let folder = workspace.root.join("tests");
    let waiting = Mutex::new(programs.iter());
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            // Let go of before the program runs.
            let next = locked(&waiting).next();
            let Some(program) = next else { break Ok(()) };
            let mut command = Command::new(&program.path);
            command.current_dir(&folder).args(["--test-threads", THREADS]).args(filters);
            with(&mut command);
            let (passed, output, seconds) = once(command)?;
            // One at a time, so that no two outputs mix.
            let mut failed = locked(&failed);
            println!("     Running {} ({seconds:.0} s)\n{output}", program.name);
            if !passed {
                failed.push(program.name.clone());
            }
        }
    };
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let end = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|_panic| bail!("a runner of tests panicked"))
        };
        workers.into_iter().map(end).collect()
    });
    ends.into_iter().collect::<Result<()>>()?;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("tests failed in: {}; their output is above", failed.join(", "));
    }
    Ok(())
}

/// A test program.
struct Program {
    name: String,
    path: PathBuf,
}

/// Those that cargo makes of the package, by name.
fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut command = workspace.cargo();
    command.args(["test", "--package", "tests", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let built = command.output().context("cannot start cargo")?;
    if !built.status.success() {
        bail!("the tests cannot be built ({}); the cause is above", built.status);
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cannot read what cargo says")?;
        if let Some(path) = message["executable"].as_str()
            && message["profile"]["test"] == true
        {
            let name = message["target"]["name"].as_str().unwrap_or(path);
            programs.push(Program { name: name.to_owned(), path: Path::new(path).to_owned() });
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Whether it succeeded, all that it wrote, and how long it took.
fn once(mut command: Command) -> Result<(bool, String, f32)> {
    let begun = Instant::now();
    let mut output = tempfile::tempfile().context("no file for what a test prints")?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.success(), text, begun.elapsed().as_secs_f32()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
