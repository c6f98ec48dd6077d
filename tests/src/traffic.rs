//! Connections that go on while something happens: some that stay, and new ones all the time.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{echo::dial, lab::PATIENCE, netns::NetNs, process::wait_for, server::Server};

/// Bytes that are on the way at a time.
const CHUNK: usize = 64 << 10;
/// Between two chunks: without it the CPUs have no time for the daemons under test.
const PAUSE: Duration = Duration::from_millis(10);

/// A server on one port of a namespace that gives back each byte at once. It ends with this guard;
/// connections end with their clients.
#[derive(Debug)]
pub struct Mirror {
    _server: Server,
}

impl Mirror {
    /// Starts it.
    #[track_caller]
    pub fn serve(netns: &NetNs, port: u16) -> Self {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A client that breaks off is for the client's own test to judge.
        let mirror = |client: TcpStream, _| drop(io::copy(&mut &client, &mut &client));
        Self { _server: Server::at(netns, address, mirror) }
    }
}

/// Connections to a [`Mirror`] on which bytes go to and fro and are compared.
pub struct Transfers {
    stop: Arc<AtomicBool>,
    broken: Arc<Mutex<Vec<String>>>,
    each: Vec<(Arc<AtomicU64>, JoinHandle<()>)>,
}

impl Transfers {
    /// Opens so many.
    #[track_caller]
    pub fn start(from: &NetNs, to: SocketAddr, count: usize) -> Self {
        let (stop, broken) = <(Arc<AtomicBool>, Arc<Mutex<Vec<String>>>)>::default();
        let each = (0..count).map(|number| {
            let stream = dial(from, to).unwrap_or_else(|error| panic!("cannot dial {to}: {error}"));
            let (stop, moved) = (stop.clone(), Arc::new(AtomicU64::new(0)));
            let counter = moved.clone();
            let broken = broken.clone();
            let go = move || {
                if let Err(error) = go_on(stream, number as u64, &stop, &moved) {
                    let what = format!("number {number}, after {moved:?} bytes: {error}");
                    broken.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                }
            };
            (counter, thread::spawn(go))
        });
        Self { each: each.collect(), stop, broken }
    }

    /// Waits until each has moved more; panics if one broke.
    #[track_caller]
    pub fn wait_for_more(&self) {
        let now = || self.each.iter().map(|(moved, _)| moved.load(Ordering::SeqCst));
        let before: Vec<_> = now().collect();
        // What is on the way already may come from before.
        let enough = |(now, before): (u64, &u64)| now >= before + 4 * CHUNK as u64;
        wait_for("each connection to move bytes", PATIENCE, || {
            self.assert_whole();
            now().zip(&before).all(enough).then_some(())
        });
    }

    /// Ends them; panics if one broke, or gave back anything else than it got.
    #[track_caller]
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for (_, thread) in std::mem::take(&mut self.each) {
            thread.join().expect("a thread that does not panic");
        }
        self.assert_whole();
    }

    #[track_caller]
    fn assert_whole(&self) {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(broken.is_empty(), "connections broke: {broken:#?}");
    }
}

fn go_on(
    mut stream: TcpStream,
    number: u64,
    stop: &AtomicBool,
    moved: &AtomicU64,
) -> io::Result<()> {
    let (mut state, mut back) = (number + 1, vec![0; CHUNK]);
    while !stop.load(Ordering::SeqCst) {
        let chunk: Vec<u8> = (0..CHUNK / 8).flat_map(|_| next(&mut state).to_ne_bytes()).collect();
        stream.write_all(&chunk)?;
        stream.read_exact(&mut back)?;
        if chunk != back {
            return Err(io::Error::other("other bytes came back than were sent"));
        }
        moved.fetch_add(CHUNK as u64, Ordering::SeqCst);
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// New connections to a [`Mirror`], one after the other at a steady pace.
pub struct Arrivals {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    pacer: JoinHandle<()>,
}

impl Arrivals {
    /// So many a second, each with a few bytes to and fro.
    pub fn start(from: &NetNs, to: SocketAddr, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (made, failed) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (from, stopped) = (from.clone(), stop.clone());
        let (counter, complaints) = (made.clone(), failed.clone());
        let pacer = thread::spawn(move || {
            let (begun, mut calls) = (Instant::now(), Vec::new());
            for number in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let due = begun + Duration::from_secs(1) * number / per_second;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (from, counter, complaints) =
                    (from.clone(), counter.clone(), complaints.clone());
                calls.push(thread::spawn(move || match call(&from, to) {
                    Ok(()) => {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => complaints
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("number {number}: {error}")),
                }));
                calls.retain(|call| !call.is_finished());
            }
            for call in calls {
                call.join().expect("a thread that does not panic");
            }
        });
        Self { stop, made, failed, pacer }
    }

    /// Waits until so many more have come and gone.
    #[track_caller]
    pub fn wait_for_more(&self, count: u64) {
        let wanted = self.made.load(Ordering::SeqCst) + count;
        wait_for("new connections", PATIENCE, || {
            (self.made.load(Ordering::SeqCst) >= wanted).then_some(())
        });
    }

    /// Ends it; panics if any failed. Returns how many there were.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.pacer.join().expect("a thread that does not panic");
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failed.is_empty(), "{} connections failed: {failed:#?}", failed.len());
        self.made.load(Ordering::SeqCst)
    }
}

fn call(from: &NetNs, to: SocketAddr) -> io::Result<()> {
    let mut stream = dial(from, to)?;
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)?;
    if &back == b"hello" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}
