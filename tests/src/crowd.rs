//! Many clients of one TLS name, one request a connection, and what became of each.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{lab::PATIENCE, process::wait_for, tls::TlsClient};

/// Clients that ask again and again, each over a new connection, until they are told to stop.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    served: AtomicUsize,
}

impl Crowd {
    /// So many clients at a time, who ask the name for its front page.
    pub fn asks(client: &TlsClient, name: &str, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..clients).map(|_| {
            let (shared, client, name) = (shared.clone(), client.clone(), name.to_owned());
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !shared.stop.load(Ordering::Relaxed) {
                    match ask(&client, &name) {
                        Ok(()) => drop(shared.served.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            })
        });
        let clients = clients.collect();
        Self { shared, clients }
    }

    /// Waits until so many more have been served.
    #[track_caller]
    pub fn wait_served(&self, more: usize) {
        let goal = self.shared.served.load(Ordering::Relaxed) + more;
        wait_for(&format!("{more} more clients to be served"), PATIENCE, || {
            (self.shared.served.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends them; how many were served, and what went wrong with the others.
    #[track_caller]
    pub fn stop(mut self) -> (usize, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let clients = self.clients.drain(..);
        let failures = clients.flat_map(|client| client.join().expect("a client")).collect();
        (self.shared.served.load(Ordering::Relaxed), failures)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(client: &TlsClient, name: &str) -> Result<(), String> {
    let mut stream = client.try_connect(name).map_err(|error| format!("connecting: {error}"))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| format!("asking: {error}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| format!("reading: {error}"))?;
    match answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(format!("answered: {}", String::from_utf8_lossy(&answer))),
    }
}
