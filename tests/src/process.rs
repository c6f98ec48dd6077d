//! Programs that run to their end, programs that are kept running, and waiting for a condition.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};

/// How often a condition is looked at.
const BEAT: Duration = Duration::from_millis(10);

/// Polls until the condition gives a value; panics with what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain for {what}");
        thread::sleep(BEAT);
    }
}

/// Starts a command in one of the two ways that tests need; panics if it cannot start.
pub trait Start {
    /// Runs it to its end.
    fn output_of(&mut self) -> Output;
    /// Keeps it running behind a guard.
    fn running(&mut self) -> Running;
}

impl Start for Command {
    #[track_caller]
    fn output_of(&mut self) -> Output {
        let command = show(self);
        let output = self.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| cannot_start(&command, &error));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Output { command, status: output.status, stdout, stderr }
    }

    #[track_caller]
    fn running(&mut self) -> Running {
        let command = show(self);
        as_from_a_terminal(self);
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn().unwrap_or_else(|error| cannot_start(&command, &error));
        let printed = Arc::new(Mutex::new(Vec::new()));
        let readers = [
            child.stdout.take().map(|pipe| read(Stream::Out, pipe, &printed)),
            child.stderr.take().map(|pipe| read(Stream::Err, pipe, &printed)),
        ];
        Running { command, child, printed, readers: readers.into_iter().flatten().collect() }
    }
}

/// Lets it be interrupted. Shells start what runs in the background with SIGINT ignored, which is
/// inherited, by way of these tests too; and `edge run` heeds it, as `nohup` wants.
fn as_from_a_terminal(command: &mut Command) {
    // SAFETY: sigaction may be called between fork and exec, and the default handler is no code.
    let heard = || Ok(unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.map(drop)?);
    // SAFETY: it only calls sigaction.
    unsafe { command.pre_exec(heard) };
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// The command as typed.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Output {
    /// Panics with everything known unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Panics unless the command failed.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert!(!self.status.success(), "should have failed: {self}");
        self
    }

    /// What it printed, without the last line's end.
    pub fn stdout_str(&self) -> &str {
        self.stdout.trim_end()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "`{command}`: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A program that runs until this guard goes; what it printed is shown if the test failed.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    printed: Printed,
    readers: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

type Printed = Arc<Mutex<Vec<(Stream, String)>>>;

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.lines(|stream| stream == Stream::Out)
    }

    /// Everything it printed so far, in order.
    pub fn printed(&self) -> String {
        self.lines(|_| true).join("\n")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("cannot ask for a child's status")
    }

    /// Waits for a line of stdout that holds the text; panics at once if the program ends first.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str, patience: Duration) -> String {
        let what = format!("`{}` to print \"{text}\"", self.command);
        wait_for(&what, patience, || {
            // Asked before the lines are looked at: the last line may come with the end.
            let ended = self.ended();
            if ended.is_some() {
                self.drain();
            }
            let line = self.stdout().into_iter().find(|line| line.contains(text));
            if let (None, Some(status)) = (&line, ended) {
                panic!("waited for {what}, but it ended: {status}\n{}", self.printed());
            }
            line
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to `{}`: {error}", self.command));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("`{}` to end", self.command);
        let status = wait_for(&what, patience, || self.ended());
        self.drain();
        status
    }

    /// Ends it the hard way and waits.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.child.wait().expect("cannot wait for a killed child");
        }
    }

    fn lines(&self, wanted: impl Fn(Stream) -> bool) -> Vec<String> {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.iter().filter(|(stream, _)| wanted(*stream)).map(|(_, line)| line.clone()).collect()
    }

    /// Lets the readers catch up with a program that has ended. Not for ever: its own
    /// children may still hold the pipes.
    fn drain(&mut self) {
        let begun = Instant::now();
        while self.readers.iter().any(|one| !one.is_finished())
            && begun.elapsed() < Duration::from_secs(1)
        {
            thread::sleep(BEAT);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            self.drain();
            eprintln!("--- `{}` printed\n{}\n---", self.command, self.printed());
        }
    }
}

fn read(
    stream: Stream,
    pipe: impl Read + Send + 'static,
    printed: &Printed,
) -> thread::JoinHandle<()> {
    let printed = Arc::clone(printed);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            printed.lock().unwrap_or_else(PoisonError::into_inner).push((stream, line));
        }
    })
}

fn show(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn cannot_start(command: &str, error: &std::io::Error) -> ! {
    panic!("cannot start `{command}`: {error}; `cargo xtask setup` installs what tests call")
}
