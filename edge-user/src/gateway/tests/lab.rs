//! A gateway on loopback, with sockets of this process in place of containers.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::{Encoder, Registry, TextEncoder};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    gateway::{
        Gateway, Limits, authority::Authority, certificates::Certificates, metrics::Metrics,
    },
    region::tunnel::{Container, Dial, DialError, Directory, RawSocket, Tunnel, TunnelOptions},
};

pub(super) const DOMAIN: &str = "r1.example.com";

/// Everything a test may wait for comes much sooner.
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) struct Lab {
    pub(super) gateway: Arc<Gateway<Names, Containers>>,
    pub(super) tls: SocketAddr,
    pub(super) raw: SocketAddr,
    pub(super) redirect: SocketAddr,
    pub(super) names: Arc<Names>,
    pub(super) containers: Arc<Containers>,
    pub(super) roots: RootCertStore,
    registry: Registry,
    _folder: tempfile::TempDir,
    _shutdown: DropGuard,
}

#[derive(Default)]
pub(super) struct Names {
    tunnels: RwLock<Vec<Arc<Tunnel>>>,
}

#[derive(Default)]
pub(super) struct Containers {
    ports: Mutex<HashMap<String, SocketAddr>>,
    pub(super) delay: Mutex<Duration>,
    pub(super) dialled: AtomicUsize,
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default(), false).await
    }

    /// `shared`: one wildcard certificate for all tunnels, as an operator would bring it.
    pub(super) async fn with(limits: Limits, shared: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), DOMAIN).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap()).unwrap();
        let certificates = if shared {
            let (certificate, key) = ("wildcard.pem", "wildcard-key.pem");
            let folder = folder.path();
            Certificates::from_files(&folder.join(certificate), &folder.join(key), DOMAIN).unwrap()
        } else {
            Certificates::own(authority)
        };
        let registry = Registry::new();
        let names = Arc::new(Names::default());
        let containers = Arc::new(Containers::default());
        let gateway = Gateway::new(
            names.clone(),
            containers.clone(),
            certificates,
            Metrics::new(&registry).unwrap(),
            limits,
        );
        let shutdown = CancellationToken::new();
        let mut addresses = Vec::new();
        for kind in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
            match kind {
                0 => tokio::spawn(gateway.serve_tls(listener, shutdown)),
                1 => tokio::spawn(gateway.serve_raw(listener, shutdown)),
                _ => tokio::spawn(gateway.serve_redirect(listener, shutdown)),
            };
        }
        Self {
            gateway,
            tls: addresses[0],
            raw: addresses[1],
            redirect: addresses[2],
            names,
            containers,
            roots,
            registry,
            _folder: folder,
            _shutdown: shutdown.drop_guard(),
        }
    }

    /// A tunnel `<label>.<DOMAIN>` to a new socket, which is returned with it.
    pub(super) async fn tunnel(
        &self,
        label: &str,
        options: TunnelOptions,
    ) -> (Arc<Tunnel>, TcpListener) {
        let tunnel = self.closed_tunnel(label, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.containers.ports.lock().unwrap().insert(tunnel.id.clone(), address);
        (tunnel, listener)
    }

    /// A tunnel to a port where nothing listens.
    pub(super) fn closed_tunnel(&self, label: &str, options: TunnelOptions) -> Arc<Tunnel> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let raw = RawSocket { host: "127.0.0.1".into(), port: self.raw.port(), gateway: 0 };
        let tunnel = Arc::new(Tunnel {
            id: format!("tu-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            container: Arc::new(Container {
                id: "co-000000000000".into(),
                name: "test".into(),
                workspace: "default".into(),
                ipv4: Ipv4Addr::LOCALHOST,
                i6pn: Ipv6Addr::LOCALHOST,
            }),
            port: 8000,
            host: format!("{label}.{DOMAIN}"),
            tls_port: self.tls.port(),
            raw: options.unencrypted.then_some(raw),
            options,
            stats: Arc::default(),
            ended: CancellationToken::new(),
        });
        self.names.tunnels.write().unwrap().push(tunnel.clone());
        tunnel
    }

    pub(super) fn client_config(&self, alpn: &[&str]) -> ClientConfig {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    pub(super) async fn connect(&self, label: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.connect_with(label, Arc::new(self.client_config(alpn))).await.unwrap()
    }

    pub(super) async fn connect_with(
        &self,
        label: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(format!("{label}.{DOMAIN}")).unwrap();
        let stream = TcpStream::connect(self.tls).await?;
        TlsConnector::from(config).connect(name, stream).await
    }

    /// The metrics, as they are scraped.
    pub(super) fn metrics(&self) -> String {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Waits until the metrics, as they are scraped, contain `line`.
    pub(super) async fn counted(&self, line: &str) {
        let mut text = String::new();
        for _ in 0..500 {
            text = self.metrics();
            if text.lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never counted {line:?}; at last:\n{text}");
    }
}

impl Directory for Names {
    fn by_name(&self, name: &str) -> Option<Arc<Tunnel>> {
        let tunnels = self.tunnels.read().unwrap();
        tunnels.iter().rfind(|tunnel| tunnel.host.eq_ignore_ascii_case(name)).cloned()
    }

    fn by_raw_port(&self, port: u16) -> Option<Arc<Tunnel>> {
        let tunnels = self.tunnels.read().unwrap();
        let on_port =
            |tunnel: &&Arc<Tunnel>| tunnel.raw.as_ref().is_some_and(|raw| raw.port == port);
        tunnels.iter().rfind(on_port).cloned()
    }
}

impl Dial for Containers {
    async fn dial(&self, tunnel: Arc<Tunnel>) -> Result<TcpStream, DialError> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let address = self.ports.lock().unwrap().get(&tunnel.id).copied();
        let address = address.ok_or(DialError::NotListening(tunnel.port))?;
        TcpStream::connect(address).await.map_err(|error| DialError::Io(tunnel.port, error))
    }
}

/// Whether an error says that the peer reset the connection.
pub(super) fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionReset
}
