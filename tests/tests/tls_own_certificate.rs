//! A wildcard certificate that the operator brings: served, followed as its files change, and
//! no way for a browser that coalesces connections to reach another tenant.

use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair};
use tests::{
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    process::{Running, wait_for},
    tls::{TlsClient, TlsStream, host},
};
use tokio_rustls::TlsConnector;

const DOMAIN: &str = "r5.example.test";
/// Greets each client and closes.
const GREETER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 8000))
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b'hello')
";
/// 2040-01-01 in seconds since 1970: when the certificates below expire.
const EXPIRY: f64 = 2_208_988_800.0;
const H2C_SERVER: &str = env!("CARGO_BIN_EXE_h2c_server");

/// A folder with a certificate and its key, as a renewal tool would leave them.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary folder"));
        files.renew();
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Puts another pair in place, each file at once.
    fn renew(&self) {
        let names = vec![format!("*.{DOMAIN}")];
        let signing_key = KeyPair::generate().expect("a key");
        let mut wanted = CertificateParams::new(names).expect("names");
        wanted.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let cert = wanted.self_signed(&signing_key).expect("a certificate");
        self.place("cert.pem", &cert.pem());
        self.place("key.pem", &signing_key.serialize_pem());
    }

    fn place(&self, name: &str, text: &str) {
        let draft = self.path("draft");
        std::fs::write(&draft, text).expect("cannot write a file");
        std::fs::rename(&draft, self.path(name)).expect("cannot rename a file");
    }

    fn lab(&self) -> Lab {
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| self.path(name).display().to_string());
        Lab::new(&["--domain", DOMAIN, "--cert", &cert, "--key", &key])
    }

    /// A client that trusts the certificate that was placed last, and no other.
    fn client(&self, lab: &Lab) -> TlsClient {
        TlsClient::new(&lab.internet, &self.path("cert.pem"))
    }
}

#[test]
fn renewed_files_are_served_and_broken_ones_are_not() {
    let files = Files::new();
    let mut lab = files.lab();
    assert!(!lab.edge.folder().join("ca").exists(), "an authority of its own was made");
    let (_container, tunnel) =
        lab.serve(&["--encrypted-port", "8000"], 8000, &["python3", "-c", GREETER]);
    assert!(tunnel.url.ends_with(&format!(".{DOMAIN}")), "{}", tunnel.url);
    let expiry = lab.edge.metrics().value("edge_certificate_expiry_timestamp_seconds");
    assert_eq!(expiry, EXPIRY);
    let served = |client: &TlsClient| served(client, &tunnel);
    let (first, forgetful) = (files.client(&lab), files.client(&lab));
    wait_for("a page under the first certificate", PATIENCE, || served(&first));

    files.renew();
    let second = files.client(&lab);
    wait_for("a page under the second certificate", PATIENCE, || served(&second));
    // The first client would resume its session, which takes no certificate.
    let error = forgetful.try_connect(host(&tunnel.url)).expect_err("the first one is history");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");

    files.place("cert.pem", "no certificate\n");
    wait_for("the complaint", PATIENCE, || {
        let log = lab.edge.daemon().printed();
        log.contains("the new certificate is not served; the old one stays").then_some(())
    });
    second.connect(host(&tunnel.url));
}

fn served(client: &TlsClient, tunnel: &Tunnel) -> Option<TlsStream> {
    let mut stream = client.try_connect(host(&tunnel.url)).ok()?;
    std::io::Read::read_exact(&mut stream, &mut [0; 5]).ok()?;
    Some(stream)
}

#[test]
fn a_coalesced_request_reaches_neither_tenant() {
    let files = Files::new();
    let lab = files.lab();
    let tenant = |workspace, port: u16| -> (Running, Tunnel) {
        let number = port.to_string();
        let options = ["--workspace", workspace, "--h2-port", &number];
        let (mut running, tunnel) = lab.serve(&options, port, &[H2C_SERVER, &number]);
        running.wait_line("listening", PATIENCE);
        (running, tunnel)
    };
    let (mut a, a_tunnel) = tenant("a", 8000);
    let (mut b, b_tunnel) = tenant("b", 8001);
    let (a_url, b_url) = (a_tunnel.url.as_str(), b_tunnel.url.as_str());
    let client = files.client(&lab).alpn(&["h2"]);

    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let (mut requests, connection) = h2_client(&client, host(a_url)).await;
        let own = get(&mut requests, &format!("{a_url}/own")).await.expect("its own page");
        assert_eq!(own, format!("GET {a_url}/own\n"));

        let refused = get(&mut requests, &format!("{b_url}/foreign")).await;
        let refused = refused.expect_err("a request for another tenant");
        assert!(refused.is_go_away() && refused.is_remote(), "{refused:?}");
        // Browsers then repeat it on a connection of its own.
        assert_eq!(refused.reason(), Some(h2::Reason::NO_ERROR), "{refused:?}");
        let ended = tokio::time::timeout(PATIENCE, connection).await;
        ended.expect("the connection should have been closed").expect("no panic");

        let (mut requests, _connection) = h2_client(&client, host(b_url)).await;
        let own = get(&mut requests, &format!("{b_url}/repeated")).await.expect("its own page");
        assert_eq!(own, format!("GET {b_url}/repeated\n"));
    });

    a.wait_line("/own", PATIENCE);
    b.wait_line("/repeated", PATIENCE);
    for tenant in [&a, &b] {
        assert!(!tenant.printed().contains("/foreign"), "{}", tenant.printed());
    }
    let tunnels = lab.edge.tunnels();
    let error = tunnels.iter().find(|tunnel| tunnel.id == a_tunnel.id).expect("A's tunnel");
    let error = error.last_error.as_deref().expect("the reason in the listing");
    assert!(error.contains(host(b_url)) && error.contains(host(a_url)), "{error}");
}

type Requests = h2::client::SendRequest<Bytes>;

async fn h2_client(client: &TlsClient, name: &str) -> (Requests, tokio::task::JoinHandle<()>) {
    let tcp = client.tcp().expect("a connection");
    tcp.set_nonblocking(true).expect("a socket that does not block");
    let tcp = tokio::net::TcpStream::from_std(tcp).expect("a socket of the runtime");
    let name = name.to_owned().try_into().expect("a name");
    let tls = TlsConnector::from(client.config()).connect(name, tcp).await.expect("a handshake");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (requests, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        // How it ends is what the requests are told.
        connection.await.ok();
    });
    (requests, driver)
}

async fn get(requests: &mut Requests, url: &str) -> Result<String, h2::Error> {
    let asked = async {
        let request = http::Request::get(url).body(()).expect("a request");
        let (response, _) = requests.send_request(request, true)?;
        let mut body = response.await?.into_body();
        let mut text = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            text.extend(piece);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time")
}
