//! The API for containers: one connection, and calls whose messages are any bytes. The first byte
//! picks the call, and whether the rest is a message or the frames of several.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use edge_user::{
    host::{api, callers::Callers},
    region::{
        bounds::Defaults,
        embedded::Embedded,
        gate::Gate,
        ports::{Ports, RAW_PORTS},
        records::Records,
        steering::Steering,
        store::Store,
        tunnel::{Container, Tunnel},
        tunnels::{TunnelSettings, Tunnels},
    },
};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

const CALLS: [&str; 4] = ["ClientHello", "TunnelStart", "TunnelStop", "AppCreate"];

/// The codes of gRPC that a call may end with: done, invalid argument, already exists, resource
/// exhausted, out of range (too long), unimplemented, and internal (no message). Not unknown.
const CODES: [&str; 7] = ["0", "3", "6", "8", "11", "12", "13"];

static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(Server::start()));

pub(super) fn run(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let call = CALLS[usize::from(first & 3)];
    let mut framed = BytesMut::new();
    if first & 0x80 == 0 {
        framed.put_u8(0);
        framed.put_u32(body.len() as u32);
    }
    framed.extend_from_slice(body);
    let key = (first & 0x40 != 0).then_some(body);
    let code = SERVER.lock().unwrap_or_else(PoisonError::into_inner).call(call, key, framed.into());
    assert!(CODES.contains(&code.as_str()), "{call} ended with {code}");
}

/// The daemon's server, and one container's connection to it.
struct Server {
    runtime: Runtime,
    address: std::net::SocketAddr,
    client: Option<SendRequest<Bytes>>,
}

impl Server {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let callers = Arc::new(OneCaller(Arc::new(Container {
                id: "co-000000000001".to_owned(),
                name: "c1".to_owned(),
                workspace: "main".to_owned(),
                ipv4: Ipv4Addr::new(100, 64, 0, 2),
                i6pn: Ipv6Addr::new(0xfdaa, 0, 1, 0, 0, 0, 0, 2),
            })));
            let tunnels = tunnels().await;
            let (gate, shutdown) = (Gate::default(), std::future::pending());
            tokio::spawn(api::serve(listener, callers, tunnels, gate, shutdown));
            address
        });
        Self { runtime, address, client: None }
    }

    /// The code that the call ended with.
    fn call(&mut self, call: &str, key: Option<&[u8]>, body: Bytes) -> String {
        let Self { runtime, address, client } = self;
        runtime.block_on(async {
            let ready = match client.take() {
                Some(client) => client.ready().await.ok(),
                None => None,
            };
            let mut ready = match ready {
                Some(client) => client,
                None => connect(*address).await,
            };
            let path = format!("http://edge/modal.client.ModalClient/{call}");
            let mut request = Request::post(path).header("content-type", "application/grpc");
            if let Some(key) = key
                && let Ok(value) = http::HeaderValue::from_bytes(key)
            {
                request = request.header("x-idempotency-key", value);
            }
            let request = request.body(()).expect("a request");
            let (response, mut stream) = ready.send_request(request, false).expect("a stream");
            // A call that is refused already takes no body.
            stream.send_data(body, true).ok();
            *client = Some(ready);
            let response = response.await.expect("the connection lives");
            let head = response.headers().clone();
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                let length = data.expect("the connection lives").len();
                body.flow_control().release_capacity(length).expect("no more than came");
            }
            let tail = body.trailers().await.expect("the connection lives").unwrap_or_default();
            code(&tail).or_else(|| code(&head)).expect("a gRPC status")
        })
    }
}

async fn connect(address: std::net::SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("the server lives");
    stream.set_nodelay(true).expect("a socket");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    client.ready().await.expect("the server lives")
}

fn code(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

async fn tunnels() -> Arc<Tunnels<Nowhere>> {
    let folder = tempfile::tempdir().expect("a folder");
    let store: Arc<dyn Store> = Arc::new(Embedded::open(folder.path()).expect("a store"));
    let records = Records::new(store.clone(), "tunnel/");
    // The open file is enough: nothing is left, however the fuzzer ends.
    drop(folder);
    let lent = BTreeSet::new();
    let ports = Ports::open(store, RAW_PORTS, Duration::ZERO, &lent).await.expect("ports");
    let settings = TunnelSettings {
        domain: "edge.localhost".to_owned(),
        tls_port: 8443,
        raw_host: "localhost".to_owned(),
        per_container: 4,
        defaults: Defaults::default(),
    };
    let registry = prometheus::Registry::new();
    let steering = Arc::new(Nowhere);
    Tunnels::new(steering, ports, settings, records, &registry).expect("an empty registry")
}

/// The container that everything on loopback is.
struct OneCaller(Arc<Container>);

impl Callers for OneCaller {
    fn by_address(&self, _address: IpAddr) -> Option<Arc<Container>> {
        Some(self.0.clone())
    }
}

/// A data path that does nothing.
struct Nowhere;

impl Steering for Nowhere {
    async fn open(&self, _tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        Ok(())
    }

    async fn resume(&self, _tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        Ok(())
    }

    async fn close(&self, _tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        Ok(())
    }

    fn in_use(&self, _port: u16) -> bool {
        false
    }
}
