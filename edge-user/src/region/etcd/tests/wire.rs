//! A connection that can be cut.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Relays connections to a server, as long as it is not cut.
pub(super) struct Wire {
    address: String,
    server: String,
    deaf: Arc<watch::Sender<bool>>,
    relaying: Option<AbortOnDropHandle<()>>,
}

impl Wire {
    pub(super) async fn to(server: &str) -> Self {
        // Of its own, so that nobody takes it while it is cut.
        let [a, b, c] = rand::random::<[u8; 3]>();
        let address = format!("127.{}.{b}.{}:2378", a | 1, c.clamp(1, 254));
        let deaf = Arc::new(watch::channel(false).0);
        let mut wire = Self { address, server: server.to_owned(), deaf, relaying: None };
        wire.mend().await;
        wire
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// All connections end, and new ones are refused.
    pub(super) async fn cut(&mut self) {
        if let Some(relaying) = self.relaying.take() {
            relaying.abort();
            relaying.await.unwrap_err();
        }
    }

    pub(super) async fn mend(&mut self) {
        self.deaf.send_replace(false);
        let listener = TcpListener::bind(&self.address).await.unwrap();
        let relaying = tokio::spawn(relay(listener, self.server.clone(), self.deaf.clone()));
        self.relaying = Some(AbortOnDropHandle::new(relaying));
    }

    /// What the server says is lost from now on.
    pub(super) fn deafen(&self) {
        self.deaf.send_replace(true);
    }
}

async fn relay(listener: TcpListener, server: String, deaf: Arc<watch::Sender<bool>>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(&server).await else { continue };
        let deaf = deaf.subscribe();
        connections.spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let up = tokio::io::copy(&mut from_client, &mut to_server);
            let down = async {
                let mut buffer = vec![0; 65536];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if !*deaf.borrow() && to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = up => {}
                () = down => {}
            }
        });
    }
}
