//! TLS tunnels from the greeting to the first page: who is let in, who is sent on, and what
//! those are told whose container does not answer.

use rustls::AlertDescription;
use tests::{
    lab::{Lab, PATIENCE},
    process::wait_for,
    tls::{TlsClient, host},
};

const WEB: &[&str] = &["python3", "-u", "-m", "http.server", "8000"];
const ENCRYPTED: &[&str] = &["--encrypted-port", "8000"];

/// Listens on one address only and says when it does.
fn listener(address: &str) -> String {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    format!(
        "import socket, time\n\
         s = socket.create_server(('{address}', 8000), family=socket.{family})\n\
         print('listening', flush=True)\n\
         time.sleep(3600)"
    )
}

#[test]
fn tls_1_2_and_1_3_are_served_with_a_certificate_that_is_checked() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, WEB);
    for (version, name) in [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")] {
        let from = format!("--tlsv{version}");
        let words = ["--verbose", "--fail", &from, "--tls-max", version, &tunnel.url];
        let output = lab.https(&words);
        assert!(output.stderr.contains(&format!("SSL connection using {name} ")), "{output}");
    }
    // Another region's authority: the same certificate is no good.
    let stranger = Lab::new(&[]);
    let ca = stranger.edge.folder().join("ca/ca.pem");
    let error = TlsClient::new(&lab.internet, &ca).try_connect(host(&tunnel.url));
    let error = error.expect_err("a certificate of an unknown authority").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[test]
fn every_address_of_the_machine_serves_tls() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, WEB);
    let ca = lab.edge.folder().join("ca/ca.pem");
    for address in [Lab::PUBLIC, Lab::PUBLIC_V6] {
        TlsClient::new(&lab.internet, &ca).to(address).connect(host(&tunnel.url));
    }
    for address in ["127.0.0.1", "::1", Lab::PUBLIC, Lab::PUBLIC_V6] {
        TlsClient::new(&lab.machine, &ca).to(address).connect(host(&tunnel.url));
    }
}

#[test]
fn http2_is_offered_only_where_it_was_asked_for() {
    let lab = Lab::new(&[]);
    let options = ["--encrypted-port", "8000", "--h2-port", "8001"];
    let (_container, plain) = lab.serve(&options, 8000, WEB);
    let tunnels = lab.edge.tunnels();
    let h2 = tunnels.iter().find(|tunnel| tunnel.port == 8001).expect("the second tunnel");
    let agreed = |url: &str, offered: &[&str]| {
        let stream = lab.tls().alpn(offered).connect(host(url));
        stream.conn.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned())
    };
    let http1 = Some("http/1.1".to_owned());
    assert_eq!(agreed(&h2.url, &["h2", "http/1.1"]), Some("h2".to_owned()));
    assert_eq!(agreed(&h2.url, &["http/1.1"]), http1);
    assert_eq!(agreed(&plain.url, &["h2", "http/1.1"]), http1);
    // As PostgreSQL's clients do; without overlap nothing is agreed on, and nothing refused.
    assert_eq!(agreed(&plain.url, &["postgresql"]), None);
    assert_eq!(agreed(&plain.url, &[]), None);
}

#[test]
fn an_unknown_name_and_a_missing_one_are_refused_by_alert() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, WEB);
    let before = lab.edge.metrics();
    let refused = AlertDescription::UnrecognisedName;
    assert_eq!(lab.tls().refusal("nobody.r1.localhost"), refused);
    // The domain itself, and a name below a tunnel's, are nobody's either.
    assert_eq!(lab.tls().refusal("r1.localhost"), refused);
    assert_eq!(lab.tls().refusal(&format!("x.{}", host(&tunnel.url))), refused);
    assert_eq!(lab.tls().nameless().refusal(host(&tunnel.url)), refused);
    lab.tls().connect(&host(&tunnel.url).to_uppercase());

    let after = lab.edge.metrics();
    let counted = |outcome| {
        let label = format!("outcome=\"{outcome}\"");
        let sum =
            |metrics: &tests::metrics::Metrics| metrics.sum("edge_tls_handshakes_total", &[&label]);
        sum(&after) - sum(&before)
    };
    assert_eq!((counted("unknown_name"), counted("no_name")), (3.0, 1.0));
    assert_eq!(lab.edge.tunnels()[0].connections, 1, "refused clients are no connections");
}

#[test]
fn plain_http_is_sent_to_https() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, WEB);
    let asked = |url: &str| {
        let output = lab.try_https(&["--write-out", "\n%{http_code} %{redirect_url}", url]).ok();
        output.stdout.lines().last().unwrap_or_default().to_owned()
    };
    let name = host(&tunnel.url);
    assert_eq!(asked(&format!("http://{name}/a?b=c")), format!("308 https://{name}/a?b=c"));
    assert_eq!(asked("http://nobody.r1.localhost/").trim(), "404");
    // The way there and the page behind it are one.
    lab.https(&["--fail", "--location", &format!("http://{name}/")]);
}

#[test]
fn other_ports_are_part_of_what_users_are_told() {
    let lab = Lab::new(&["--tls-port", "9443", "--http-port", "9080"]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, WEB);
    let name = host(&tunnel.url);
    assert_eq!(tunnel.url, format!("https://{name}:9443"));
    assert_eq!(tunnel.tls, format!("{name}:9443"));
    lab.https(&["--fail", &tunnel.url]);
    let words = ["--write-out", "%{redirect_url}", "--output", "/dev/null"];
    let redirect = lab.try_https(&[&words[..], &[&format!("http://{name}:9080/x")]].concat()).ok();
    assert_eq!(redirect.stdout, format!("https://{name}:9443/x"));
}

#[test]
fn a_port_where_nothing_listens_is_named_to_everybody() {
    let mut lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, &["sleep", "3600"]);
    assert_eq!(tunnel.last_error, None);
    let page = lab.try_https(&["--write-out", "%{http_code}", &tunnel.url]).ok();
    assert!(page.stdout.ends_with("502"), "{page}");
    assert!(page.stdout.contains("nothing listens on port 8000"), "{page}");
    let error = lab.edge.tunnels()[0].last_error.clone().expect("the reason in the listing");
    assert!(error.contains("nothing listens on port 8000"), "{error}");
    wait_for("the reason in the log", PATIENCE, || {
        lab.edge.daemon().printed().contains("nothing listens on port 8000").then_some(())
    });
}

#[test]
fn a_program_that_listens_on_loopback_only_is_told_what_to_bind() {
    for address in ["127.0.0.1", "::1"] {
        let lab = Lab::new(&[]);
        let program = listener(address);
        let (mut container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-c", &program]);
        container.wait_line("listening", PATIENCE);
        let page = lab.try_https(&["--write-out", "%{http_code}", &tunnel.url]).ok();
        assert!(page.stdout.ends_with("502"), "{page}");
        let reason = format!("port 8000 listens on {address} only; make it bind 0.0.0.0");
        assert!(page.stdout.contains(&reason), "{page}");
        let error = lab.edge.tunnels()[0].last_error.clone().expect("the reason in the listing");
        assert!(error.contains(&reason), "{error}");
    }
}
