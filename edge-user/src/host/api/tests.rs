//! Tests of the API over real connections, with the generated client and with Modal's own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    region::tunnels::fake::{self, Region},
    wire::modal::modal_client_client::ModalClientClient,
};

/// The container that everything on 127.0.0.1 is.
struct OneCaller(Arc<Container>);

impl Callers for OneCaller {
    fn by_address(&self, address: IpAddr) -> Option<Arc<Container>> {
        (address == Ipv4Addr::LOCALHOST).then(|| self.0.clone())
    }
}

struct Served {
    region: Region,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ApiError>>,
}

async fn serve_one() -> Served {
    let region = fake::region(Duration::from_secs(600)).await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let (stop, stopped) = oneshot::channel::<()>();
    let callers = Arc::new(OneCaller(fake::container(1)));
    let shutdown = async { drop(stopped.await) };
    let serving =
        tokio::spawn(serve(listener, callers, region.tunnels.clone(), Gate::default(), shutdown));
    Served { region, address, stop, serving }
}

impl Served {
    /// Runs a script in this container's environment; it must end with "done".
    async fn run_python(&self, script: &str) {
        let python = std::env::var("EDGE_MODAL_PYTHON").unwrap();
        let mut command = tokio::process::Command::new(python);
        command.args(["-c", script]).envs(environment(&fake::container(1)));
        command.env("MODAL_SERVER_URL", format!("http://{}", self.address));
        // Must not be asked for the API.
        command.env("HTTP_PROXY", "http://192.0.2.1:3128").env("ALL_PROXY", "socks5://192.0.2.1:1");
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.ends_with("done\n"), "{said}\n{complained}");
    }

    async fn client(&self) -> ModalClientClient<Channel> {
        ModalClientClient::connect(format!("http://{}", self.address)).await.unwrap()
    }
}

fn start(port: u32, unencrypted: bool) -> TunnelStartRequest {
    TunnelStartRequest {
        port,
        unencrypted,
        tunnel_type: TunnelType::Unspecified.into(),
        options: None,
    }
}

#[tokio::test]
async fn a_connection_owns_what_it_started() {
    let served = serve_one().await;
    let mut first = served.client().await;
    first.client_hello(()).await.unwrap();
    let tunnel = first.tunnel_start(start(8000, true)).await.unwrap().into_inner();
    assert!(tunnel.host.ends_with(".edge.localhost"));
    assert_eq!((tunnel.port, tunnel.unencrypted_host.as_deref()), (8443, Some("localhost")));

    let mut second = served.client().await;
    let refused = second.tunnel_start(start(8000, true)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::AlreadyExists, "Port 8000 is already forwarded")
    );
    drop(first);
    let taken = loop {
        // The server sees the end of the connection a moment later.
        match second.tunnel_start(start(8000, true)).await {
            Ok(taken) => break taken.into_inner(),
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(taken, tunnel, "the same name and port");
    let stop = TunnelStopRequest { port: 8000 };
    assert!(second.tunnel_stop(stop).await.unwrap().into_inner().exists);
    assert!(!second.tunnel_stop(stop).await.unwrap().into_inner().exists);

    served.stop.send(()).unwrap();
    served.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn failures_have_the_codes_that_the_package_knows() {
    let served = serve_one().await;
    let mut client = served.client().await;
    for (request, code) in [
        (start(0, false), Code::InvalidArgument),
        (start(65536, false), Code::InvalidArgument),
        (
            TunnelStartRequest { tunnel_type: TunnelType::H2.into(), ..start(1, true) },
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(client.tunnel_start(request).await.unwrap_err().code(), code);
    }
    served.region.steering.fails.store(true, Ordering::SeqCst);
    let failed = client.tunnel_start(start(8000, false)).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(!failed.message().contains("table"), "the daemon's inside stays inside");
    served.region.steering.fails.store(false, Ordering::SeqCst);
    for port in 1..=4 {
        client.tunnel_start(start(port, false)).await.unwrap();
    }
    let many = client.tunnel_start(start(5, false)).await.unwrap_err();
    assert_eq!(many.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_retry_over_another_connection_is_the_same_call() {
    let served = serve_one().await;
    let call = || {
        let mut request = Request::new(start(8000, true));
        request.metadata_mut().insert("x-idempotency-key", "one".parse().unwrap());
        request
    };
    let first = served.client().await.tunnel_start(call()).await.unwrap().into_inner();
    let retried = served.client().await.tunnel_start(call()).await.unwrap().into_inner();
    assert_eq!(first, retried);
}

#[tokio::test]
async fn strangers_are_refused() {
    let served = serve_one().await;
    // All of 127/8 is this machine, and one address of it is the container.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let stream = socket.connect(served.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://x/modal.client.ModalClient/ClientHello")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    body.send_data(vec![0; 5].into(), true).unwrap();
    let response = response.await.unwrap();
    let status = response.headers()["grpc-status"].to_str().unwrap();
    assert_eq!(status.parse::<i32>().unwrap(), Code::PermissionDenied as i32);
    connection.abort();
}

#[tokio::test]
async fn a_container_has_so_many_connections() {
    let served = serve_one().await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS_EACH {
        let mut client = served.client().await;
        client.client_hello(()).await.unwrap();
        clients.push(client);
    }
    let mut one_more = served.client().await;
    assert!(one_more.client_hello(()).await.is_err());
    clients[0].client_hello(()).await.unwrap();
}

/// Needs a Python with the `modal` package: `EDGE_MODAL_PYTHON=/path/to/python`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the modal package from PyPI; name its Python in EDGE_MODAL_PYTHON"]
async fn the_unmodified_package_forwards_ports() {
    let served = serve_one().await;
    served.run_python(include_str!("tests/package.py")).await;
    assert!(served.region.tunnels.list().is_empty(), "each was stopped at the end of its block");

    served.region.steering.fails.store(true, Ordering::SeqCst);
    served.run_python(include_str!("tests/unavailable.py")).await;
    let tries = served.region.steering.opened.load(Ordering::SeqCst);
    assert!(tries > 5, "the package tries again by itself");
    served.region.steering.fails.store(false, Ordering::SeqCst);

    // The first process dies with its tunnel open; the second takes it over.
    let dies =
        "import modal, os\nmodal.forward(8000).__enter__()\nprint('done', flush=True)\nos._exit(0)";
    served.run_python(dies).await;
    let orphan = served.region.tunnels.list();
    served.run_python(&format!(
        "import modal\nwith modal.forward(8000) as t:\n  assert t.host == '{}', t\nprint('done')",
        orphan[0].host
    ))
    .await;
}
