//! TLS clients of tunnels: curl for what a user types, rustls for what curl does not show.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{lab::Lab, netns::NetNs, process::Output};

/// No read and no write of a client takes longer, so that no test hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// A connection whose handshake is done.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A client with its own idea of TLS. It finds the gateway by address, whatever name it asks for.
#[derive(Debug, Clone)]
pub struct TlsClient {
    netns: NetNs,
    gateway: SocketAddr,
    config: ClientConfig,
}

impl TlsClient {
    /// A client in this namespace that trusts the certificates of a PEM file.
    #[track_caller]
    pub fn new(netns: &NetNs, trusted: &Path) -> Self {
        Self::with_versions(netns, trusted, rustls::DEFAULT_VERSIONS)
    }

    /// The same, of these versions of TLS only.
    #[track_caller]
    pub fn with_versions(
        netns: &NetNs,
        trusted: &Path,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(trusted).expect("a PEM file") {
            roots.add(certificate.expect("a certificate")).expect("a usable certificate");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let gateway = SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), 443);
        Self { netns: netns.clone(), gateway, config }
    }

    /// Dials another of the gateway's addresses.
    pub fn to(mut self, address: &str) -> Self {
        self.gateway.set_ip(address.parse().expect("an address"));
        self
    }

    /// Sends no name.
    pub fn nameless(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// What a user of an asynchronous library would configure.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::new(self.config.clone())
    }

    /// A TCP connection to the gateway, without TLS.
    ///
    /// # Errors
    /// As the system says.
    pub fn tcp(&self) -> io::Result<TcpStream> {
        let stream = self.netns.enter(|| TcpStream::connect_timeout(&self.gateway, DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// What the gateway did instead; an alert is a [`rustls::Error`] inside.
    pub fn try_connect(&self, name: &str) -> io::Result<TlsStream> {
        self.greet(self.tcp()?, name)
    }

    /// Shakes hands over a connection that is there.
    ///
    /// # Errors
    /// As [`Self::try_connect`].
    pub fn greet(&self, mut tcp: TcpStream, name: &str) -> io::Result<TlsStream> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(self.config(), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(tls, tcp))
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn connect(&self, name: &str) -> TlsStream {
        let stream = self.try_connect(name);
        stream.unwrap_or_else(|error| panic!("no TLS with {name}: {error}"))
    }

    /// The alert that the gateway answers a greeting with; it must answer with one.
    #[track_caller]
    pub fn refusal(&self, name: &str) -> rustls::AlertDescription {
        let error = self.try_connect(name).expect_err("the handshake should have been refused");
        alert(&error).unwrap_or_else(|| {
            panic!("{name} should have been refused by an alert, not by: {error}")
        })
    }
}

/// The alert that ended a handshake, if one did.
pub fn alert(error: &io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Sends bytes and an end of stream; returns all that comes back before the other side's end.
#[track_caller]
pub fn converse(stream: &mut TlsStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).expect("cannot send");
    finish(stream);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("cannot read to the end");
    answer
}

/// Says that this side has no more, as a half-close does for TCP.
#[track_caller]
pub fn finish(stream: &mut TlsStream) {
    try_finish(stream).expect("cannot send the end of the stream");
}

/// The same.
///
/// # Errors
/// If the other side is gone.
pub fn try_finish(stream: &mut TlsStream) -> io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(std::net::Shutdown::Write)
}

/// Reads exactly as many bytes.
#[track_caller]
pub fn receive(stream: &mut impl io::Read, amount: usize) -> Vec<u8> {
    let mut bytes = vec![0; amount];
    stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("no {amount} bytes: {error}"));
    bytes
}

impl Lab {
    /// A TLS client in the internet that trusts the region's own authority.
    #[track_caller]
    pub fn tls(&self) -> TlsClient {
        TlsClient::new(&self.internet, &self.edge.folder().join("ca/ca.pem"))
    }

    /// Asks for a URL by curl from the internet, once, as if its name led to the machine.
    pub fn try_https(&self, arguments: &[&str]) -> Output {
        let to = format!("::{}:", Self::PUBLIC);
        self.try_curl(&self.internet, &[&["--connect-to", &to], arguments].concat())
    }

    /// The same, until it answers.
    #[track_caller]
    pub fn https(&self, arguments: &[&str]) -> Output {
        let to = format!("::{}:", Self::PUBLIC);
        self.curl(&self.internet, &[&["--connect-to", &to], arguments].concat())
    }
}

/// The host of a tunnel's URL.
#[track_caller]
pub fn host(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or_else(|| panic!("no https URL: {url}"));
    rest.split(['/', ':']).next().unwrap_or(rest)
}
