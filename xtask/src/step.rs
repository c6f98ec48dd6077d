//! One step of a longer job: says what runs and why, shows that it lives, and keeps quiet
//! about its output unless it fails.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, IsTerminal, pipe},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of a failed command's output is worth reading.
const TAIL: usize = 80;

/// Runs the command behind a spinner. On failure the error holds the command and the end of
/// what it printed.
pub(crate) fn run(what: &str, why: &str, mut command: Command) -> Result<()> {
    let shown = show(&command);
    let (reader, writer) = pipe().context("cannot open a pipe for the step's output")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);

    let progress = Progress::start(what, why);
    let mut child = command.spawn().with_context(|| cannot_start(&shown))?;
    // The command holds the pipe's other end: without this the reader would never see its end.
    drop(command);

    let mut tail = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        progress.say(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    progress.end(status);
    if !status.success() {
        let tail: Vec<_> = tail.into_iter().collect();
        bail!(
            "{what} failed ({status})\n  command: {shown}\n  its last lines:\n{}",
            tail.join("\n")
        );
    }
    Ok(())
}

/// Runs a command whose output is the point: nothing is captured.
pub(crate) fn live(what: &str, why: &str, mut command: Command) -> Result<()> {
    println!("{what}: {why}");
    let shown = show(&command);
    let status = command.status().with_context(|| cannot_start(&shown))?;
    if !status.success() {
        bail!("{what} failed ({status})\n  command: {shown}");
    }
    Ok(())
}

/// What the command prints on stdout, if it succeeds.
pub(crate) fn ask(mut command: Command) -> Result<String> {
    let shown = show(&command);
    let output = command.output().with_context(|| cannot_start(&shown))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed no UTF-8"))
}

/// Tells of something decided rather than done.
pub(crate) fn note(what: &str, text: &str) {
    println!("{what}: {text}");
}

fn cannot_start(shown: &str) -> String {
    format!("cannot start `{shown}`; is the program installed? `cargo xtask setup` installs it")
}

fn show(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// A spinner on a terminal; two plain lines anywhere else, CI among them.
struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    begun: Instant,
}

impl Progress {
    fn start(what: &str, why: &str) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(format!("{what}: {why}"));
            let style =
                ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            println!("{what}: {why}");
        }
        Self { bar, what: what.to_owned(), begun: Instant::now() }
    }

    fn say(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_owned());
        }
    }

    fn end(&self, status: ExitStatus) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let outcome = if status.success() { "done" } else { "failed" };
        println!("{}: {outcome} after {:.1} s", self.what, self.begun.elapsed().as_secs_f32());
    }
}
