//! A client that shakes hands as it is told to and makes sure that it was so.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tests::netns::NetNs;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    backend::{PIECE, Request},
    cores::on,
};
use crate::cpu;

/// A connection whose handshake is done.
pub(super) type Connection = TlsStream<TcpStream>;

/// The client's side of the wire.
pub(super) struct Client {
    netns: NetNs,
    roots: Arc<RootCertStore>,
}

/// Whom to dial and what name to ask for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    address: SocketAddr,
    name: ServerName<'static>,
}

impl Target {
    pub(super) fn new(address: SocketAddr, name: &str) -> Result<Self> {
        Ok(Self { address, name: ServerName::try_from(name.to_owned())? })
    }
}

impl Client {
    /// Of a namespace; it trusts an authority.
    pub(super) fn new(netns: &NetNs, authority: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority)?)?;
        Ok(Self { netns: netns.clone(), roots: Arc::new(roots) })
    }

    /// Whether the server takes a connection.
    pub(super) fn reaches(&self, target: &Target) -> bool {
        self.netns.enter(|| std::net::TcpStream::connect(target.address).is_ok())
    }

    /// Runs a job on the client's core, in its namespace, on a runtime of one thread.
    pub(super) fn run<T: Send>(&self, job: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.enter(|| {
            on(cpu::CLIENT, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(job())
            })
        })
    }

    /// A visitor that begins every session anew.
    pub(super) fn full(&self, exchange: Exchange) -> Result<Visitor> {
        let mut config = self.config(exchange)?;
        config.resumption = Resumption::disabled();
        Ok(Visitor { connector: TlsConnector::from(Arc::new(config)), exchange })
    }

    /// A visitor that resumes its last session, once it has one.
    pub(super) fn resuming(&self) -> Result<Visitor> {
        let exchange = Exchange::X25519;
        let config = self.config(exchange)?;
        Ok(Visitor { connector: TlsConnector::from(Arc::new(config)), exchange })
    }

    fn config(&self, exchange: Exchange) -> Result<ClientConfig> {
        let mut provider: CryptoProvider = aws_lc_rs::default_provider();
        provider.kx_groups.retain(|group| group.name() == exchange.group());
        provider.cipher_suites.retain(|suite| suite.suite() == SUITE);
        Ok(ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth())
    }
}

/// What is spoken with all servers.
const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

/// How keys are agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Exchange {
    /// What all servers know.
    X25519,
    /// What edge prefers: the same with ML-KEM-768 beside it.
    PostQuantum,
}

impl Exchange {
    fn group(self) -> NamedGroup {
        match self {
            Self::X25519 => NamedGroup::X25519,
            Self::PostQuantum => NamedGroup::X25519MLKEM768,
        }
    }
}

/// Connects, one connection after the other.
#[derive(Clone)]
pub(super) struct Visitor {
    connector: TlsConnector,
    exchange: Exchange,
}

impl Visitor {
    /// Connects; fails unless the handshake was of this kind, in TLS 1.3, with the one suite and
    /// the one key exchange.
    pub(super) async fn connect(&self, to: &Target, kind: HandshakeKind) -> Result<Connection> {
        let tcp = TcpStream::connect(to.address).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(to.name.clone(), tcp).await.context("no handshake")?;
        let (_, session) = tls.get_ref();
        let found = session.handshake_kind();
        ensure!(found == Some(kind), "the handshake was {found:?}, not {kind:?}");
        ensure!(session.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
        let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
        ensure!(suite == Some(SUITE), "the cipher suite was {suite:?}");
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        ensure!(group == Some(self.exchange.group()), "keys were agreed on by {group:?}");
        Ok(tls)
    }

    /// Connects, asks for one byte, and lets the backend close.
    pub(super) async fn visit(&self, to: &Target, kind: HandshakeKind) -> Result<()> {
        let mut tls = self.connect(to, kind).await?;
        ask(&mut tls, Request { upload: 0, answer: 1, last: true }).await?;
        match tls.read(&mut [0; 1]).await {
            Ok(0) => {}
            // Not every server says close_notify.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Ok(_) => anyhow::bail!("more than was asked for"),
            Err(error) => return Err(error).context("the close"),
        }
        tls.shutdown().await.ok();
        Ok(())
    }
}

/// Sends a request without an upload and reads the answer.
pub(super) async fn ask(tls: &mut Connection, request: Request) -> Result<()> {
    tls.write_all(&request.bytes()).await.context("the request")?;
    receive(tls, request.answer).await
}

/// Reads so many bytes and drops them.
pub(super) async fn receive(tls: &mut Connection, mut amount: u64) -> Result<()> {
    let mut room = vec![0; usize::try_from(amount)?.min(PIECE)];
    while amount > 0 {
        let wanted = room.len().min(usize::try_from(amount)?);
        let read = tls.read(&mut room[..wanted]).await.context("the answer")?;
        ensure!(read > 0, "the answer lacks {amount} bytes");
        amount -= read as u64;
    }
    Ok(())
}
