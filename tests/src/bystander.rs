//! Somebody who uses a tunnel while others do what they should not.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    edge::{Container, Edge, Tunnel},
    lab::Lab,
    process::{Running, wait_for},
    tls::{TlsClient, TlsStream, host},
};

/// Requests that have to be answered before a bystander counts as served.
const ENOUGH: usize = 10;
/// For that many, on a machine that is kept busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks over a connection that stands since before, and over a new one, in turn and without a
/// pause, a container of its own that gives back what it is sent.
pub struct Bystander {
    tunnel: Tunnel,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _program: Running,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicUsize,
    fault: Mutex<Option<String>>,
}

impl Bystander {
    /// Begins to ask, from the internet's first address.
    #[track_caller]
    pub fn of(lab: &Lab) -> Self {
        let (program, tunnel) = echo(lab, &["--name", "bystander"], 7000);
        let (client, name) = (lab.tls(), host(&tunnel.url).to_owned());
        let standing = wait_for("the bystander's connection", PATIENCE, || {
            let mut stream = client.try_connect(&name).ok()?;
            ask(&mut stream).ok().map(|()| stream)
        });
        let shared = Arc::<Shared>::default();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || {
                if let Err(fault) = go_on(&client, &name, standing, &shared) {
                    *shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                }
            }
        });
        Self { tunnel, shared, thread: Some(thread), _program: program }
    }

    /// Waits for so many answers to requests that begin after this call; panics if one failed,
    /// be it long ago.
    #[track_caller]
    pub fn is_served(&self) {
        let answers = || self.shared.answers.load(Ordering::Relaxed);
        // One may be under way.
        let enough = answers() + ENOUGH + 1;
        wait_for("the bystander's answers", PATIENCE, || {
            self.assert_no_fault();
            (answers() >= enough).then_some(())
        });
    }

    /// Stops asking; panics if anything ever failed. Its container stays until the guard goes.
    #[track_caller]
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bystander panicked");
        }
        self.assert_no_fault();
    }

    /// Its container, as it is listed.
    #[track_caller]
    pub fn container(&self, edge: &Edge) -> Container {
        let found = edge.containers().into_iter().find(|one| one.name == self.tunnel.container);
        found.expect("the bystander's container")
    }

    #[track_caller]
    fn assert_no_fault(&self) {
        let fault = self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(fault.is_none(), "the bystander was harmed: {fault:?}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test panics already, or has looked.
            thread.join().ok();
        }
    }
}

/// A container that gives back what it is sent, and the tunnel to it.
#[track_caller]
pub fn echo(lab: &Lab, options: &[&str], port: u16) -> (Running, Tunnel) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/echo.py");
    let number = port.to_string();
    let options = [options, &["--encrypted-port", &number]].concat();
    let (mut program, tunnel) = lab.serve(&options, port, &["python3", script, &number]);
    program.wait_line("listening", PATIENCE);
    (program, tunnel)
}

fn go_on(
    client: &TlsClient,
    name: &str,
    mut standing: TlsStream,
    shared: &Shared,
) -> Result<(), String> {
    while !shared.stop.load(Ordering::Relaxed) {
        ask(&mut standing).map_err(|error| format!("its standing connection: {error}"))?;
        let new = client.try_connect(name).and_then(|mut stream| ask(&mut stream));
        new.map_err(|error| format!("a new connection: {error}"))?;
        shared.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One request and its answer.
///
/// # Errors
/// Whatever went wrong.
pub fn ask(stream: &mut TlsStream) -> std::io::Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut answer)?;
    if &answer == b"ping" { Ok(()) } else { Err(std::io::Error::other(format!("{answer:?}"))) }
}
