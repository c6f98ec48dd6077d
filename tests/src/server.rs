//! A TCP server in a namespace, one thread a connection.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use socket2::SockRef;

use crate::netns::NetNs;

/// Accepts until it is dropped; connections end with their clients.
#[derive(Debug)]
pub struct Server(Arc<TcpListener>);

impl Server {
    /// Listens on an address of a namespace and serves each client, who comes with its address.
    #[track_caller]
    pub fn at(
        netns: &NetNs,
        address: SocketAddr,
        serve: impl Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
    ) -> Self {
        let listener = netns.enter(|| TcpListener::bind(address));
        let listener =
            listener.unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let listener = Arc::new(listener);
        let accepting = listener.clone();
        thread::spawn(move || {
            while let Ok((client, address)) = accepting.accept() {
                let serve = serve.clone();
                thread::spawn(move || serve(client, address));
            }
        });
        Self(listener)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It wakes the thread; there is nobody to tell should it not.
        SockRef::from(&*self.0).shutdown(Shutdown::Both).ok();
    }
}
