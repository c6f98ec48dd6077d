//! A server on the internet in which everybody who comes writes down who it is, beside the address
//! that the server saw; and those who come, again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{lab::PATIENCE, netns::NetNs, process::wait_for, server::Server};

/// For one connection, of which some find no way out and are not told so: a gateway is gone.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two of a guest's.
const PAUSE: Duration = Duration::from_millis(20);

/// The server; it ends with this guard.
#[derive(Debug)]
pub struct Guestbook {
    _server: Server,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// Addresses of each guest, and how many came in all.
#[derive(Debug, Default)]
struct Seen {
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    connections: u64,
}

/// Comes again and again until it is dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    stop: Arc<AtomicBool>,
    came: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Guestbook {
    /// Opens it on an address of a namespace.
    #[track_caller]
    pub fn open(netns: &NetNs, address: SocketAddr) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let book = seen.clone();
        let server = Server::at(netns, address, move |client, from| {
            // Who breaks off has not signed.
            sign(client, from, &book).ok();
        });
        Self { _server: server, address, seen }
    }

    /// A namespace's guest under this name.
    pub fn guest(&self, netns: &NetNs, name: &str) -> Guest {
        let (stop, came) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (ended, counter, complaints) = (stop.clone(), came.clone(), failures.clone());
        let (netns, name, to) = (netns.clone(), name.to_owned(), self.address);
        let who = name.clone();
        let thread = thread::spawn(move || {
            netns.enter(|| {
                while !ended.load(Ordering::SeqCst) {
                    match come(&who, to) {
                        Ok(()) => drop(counter.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => locked(&complaints).push(error.to_string()),
                    }
                    thread::sleep(PAUSE);
                }
            });
        });
        Guest { name, stop, came, failures, thread: Some(thread) }
    }

    /// The addresses that a guest was seen under.
    pub fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        locked(&self.seen).addresses.get(name).cloned().unwrap_or_default()
    }

    /// How many have signed.
    pub fn connections(&self) -> u64 {
        locked(&self.seen).connections
    }
}

impl Guest {
    /// Waits until it has come a few times more.
    #[track_caller]
    pub fn wait_for_more(&self) {
        let wanted = self.came.load(Ordering::SeqCst) + 3;
        wait_for(&format!("{} to find a way out", self.name), PATIENCE, || {
            (self.came.load(Ordering::SeqCst) >= wanted).then_some(())
        });
    }

    /// Why it did not come, each time that it did not.
    pub fn failures(&self) -> Vec<String> {
        locked(&self.failures).clone()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed already.
            thread.join().ok();
        }
    }
}

fn sign(mut client: TcpStream, from: SocketAddr, book: &Mutex<Seen>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut name = vec![0; 64];
    let read = client.read(&mut name)?;
    let name = String::from_utf8_lossy(&name[..read]).into_owned();
    {
        let mut seen = locked(book);
        seen.addresses.entry(name).or_default().insert(from.ip());
        seen.connections += 1;
    }
    client.write_all(b"!")
}

fn come(name: &str, to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.write_all(name.as_bytes())?;
    stream.read_exact(&mut [0])
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
