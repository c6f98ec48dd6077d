//! Datagrams that say whom they are for, and receivers who know who they are.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{lab::PATIENCE, process::wait_for, tenant::Tenant, witness::Witness};

/// Where mail comes to.
const PORT: u16 = 7000;
/// Of those that somebody writes to so many are the newest; the others before them were the first.
const NEWEST: usize = 40;
const FIRST: usize = 4;
/// Between two letters to one receiver.
const BEAT: Duration = Duration::from_millis(4);

/// A container's UDP socket that fails on a letter for somebody else, with a [`Witness`] of what
/// no socket would see.
#[derive(Debug)]
pub struct Mailbox {
    own: Ipv6Addr,
    mail: Arc<Mail>,
    witness: Witness,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Mail {
    stop: AtomicBool,
    from: Mutex<BTreeMap<IpAddr, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Mailbox {
    /// Opens it.
    #[track_caller]
    pub fn of(tenant: &Tenant) -> Self {
        let own = tenant.i6pn();
        let socket = tenant.netns.enter(|| UdpSocket::bind((own, PORT)));
        let socket = socket.unwrap_or_else(|error| panic!("cannot receive at {own}: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let mail = Arc::<Mail>::default();
        let written = mail.clone();
        let reader = thread::spawn(move || written.read(&socket, own));
        Self { own, mail, witness: Witness::of(tenant), reader: Some(reader) }
    }

    /// Waits for more letters of a sender.
    #[track_caller]
    pub fn wait_for_more(&self, from: &Tenant) {
        let from = from.i6pn();
        let count = || {
            let all = self.mail.from.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&IpAddr::from(from)).copied().unwrap_or_default()
        };
        let before = count();
        wait_for(&format!("letters of {from} to {}", self.own), PATIENCE, || {
            self.assert_own();
            // What is on the way already may come from before.
            (count() > before + 5).then_some(())
        });
    }

    /// Panics if anything came that was not for this container.
    #[track_caller]
    pub fn assert_own(&self) {
        let wrong = self.mail.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{} got mail that was not its own: {wrong:#?}", self.own);
        self.witness.assert_nothing_wrong();
    }
}

impl Mail {
    fn read(&self, socket: &UdpSocket, own: Ipv6Addr) {
        let mut buffer = [0; 2048];
        while !self.stop.load(Ordering::SeqCst) {
            let (length, source) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_idle(error.kind()) => continue,
                Err(error) => return self.complain(format!("cannot receive: {error}")),
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text != letter(own, source.ip()) {
                self.complain(format!("from {source}: {text}"));
            }
            let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
            *from.entry(source.ip()).or_default() += 1;
        }
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.mail.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            // A panic in there was printed already.
            reader.join().ok();
        }
    }
}

/// Somebody who writes to others all the time, whether they are there or not.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    receivers: Arc<Mutex<Vec<Ipv6Addr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins.
    #[track_caller]
    pub fn of(tenant: &Tenant, to: &[Ipv6Addr]) -> Self {
        let own = tenant.i6pn();
        let socket = tenant.netns.enter(|| UdpSocket::bind((own, 0)));
        let socket = socket.unwrap_or_else(|error| panic!("cannot send from {own}: {error}"));
        let stop = Arc::<AtomicBool>::default();
        let receivers = Arc::new(Mutex::new(to.to_vec()));
        let (stopped, shared) = (stop.clone(), receivers.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let to = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for to in to {
                    let text = letter(to, own.into());
                    // Refusals are for whoever waits for the letters.
                    socket.send_to(text.as_bytes(), SocketAddr::from((to, PORT))).ok();
                }
                thread::sleep(BEAT);
            }
        });
        Self { stop, receivers, thread: Some(thread) }
    }

    /// One receiver more, in place of one that has had letters for long.
    pub fn also_to(&self, to: Ipv6Addr) {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        if receivers.len() >= FIRST + NEWEST {
            receivers.remove(FIRST);
        }
        receivers.push(to);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed already.
            thread.join().ok();
        }
    }
}

fn letter(to: Ipv6Addr, from: IpAddr) -> String {
    format!("for {to} from {from}")
}

fn is_idle(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
