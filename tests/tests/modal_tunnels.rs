//! What `modal.forward` promises beside its examples: the tunnel's properties, the errors, and
//! the end with the `with` block.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use rustls::AlertDescription;
use tests::{
    edge,
    lab::{Lab, PATIENCE},
    process::{Start as _, wait_for},
    tls::host,
};

/// Importing the package takes seconds where processors are shared.
const SLOWLY: Duration = Duration::from_secs(40);

fn script(name: &str) -> [String; 3] {
    let python = edge::venv().join("bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("modal").join(name);
    [python.display().to_string(), "-u".to_owned(), script.display().to_string()]
}

#[test]
fn properties_and_errors_are_modals_own() {
    let lab = Lab::new(&[]);
    let words = script("properties.py");
    let mut program = lab.edge.run(&["--", &words[0], &words[1], &words[2]]);
    program.wait_line("done", SLOWLY);
    assert!(program.wait(PATIENCE).success(), "{}", program.printed());
    let lines = program.stdout();
    let said: BTreeMap<&str, &str> =
        lines.iter().filter_map(|line| line.split_once('\t')).collect();
    let is = |label: &str, expected: &str| assert_eq!(said.get(label), Some(&expected), "{label}");

    let url = said["encrypted url"];
    let name = host(url);
    assert_eq!(url, format!("https://{name}"));
    is("encrypted tls_socket", &format!("('{name}', 443)"));
    let not_raw = "InvalidError: This tunnel is not configured for unencrypted TCP. Please use \
                   `forward(..., unencrypted=True)`.";
    is("encrypted tcp_socket", not_raw);
    is("again", "InvalidError: Port 8000 is already forwarded");
    is("still", url);

    // The tunnel before has ended, so this is another one.
    assert!(!said["unencrypted tls_socket"].contains(name), "{said:?}");
    assert!(said["unencrypted tls_socket"].ends_with(".r1.localhost', 443)"), "{said:?}");
    let raw = said["unencrypted tcp_socket"].strip_prefix(&format!("('{}', ", Lab::PUBLIC));
    let raw: u16 = raw.and_then(|rest| rest.strip_suffix(')')?.parse().ok()).expect("a raw port");
    assert!((20000..30000).contains(&raw), "{raw}");
    assert!(said["h2 url"].starts_with("https://"), "{said:?}");
    is("h2 tcp_socket", not_raw);

    is("port 0", "InvalidError: Invalid port number 0");
    is("port 70000", "InvalidError: Invalid port number 70000");
    is("port x", "InvalidError: The port argument should be an int, not 'x'");
    is("h2 and unencrypted", "InvalidError: H2 can only be used with encrypted ports");
}

#[test]
fn outside_a_container_nothing_is_forwarded_and_the_reason_is_named() {
    let lab = Lab::new(&[]);
    let words = script("properties.py");
    let mut python = lab.machine.command(&words[0]);
    // As for a user with an account. The package connects before it looks where it is.
    let server = lab.machine.enter(|| TcpListener::bind("127.0.0.1:0")).expect("a server");
    let url = format!("http://{}", server.local_addr().expect("an address"));
    python.args(&words[1..]).env("MODAL_SERVER_URL", url);
    python.env("MODAL_TOKEN_ID", "ak-test").env("MODAL_TOKEN_SECRET", "as-test");
    let output = python.output_of().refused();
    assert!(output.stderr.contains("Forwarding ports only works inside"), "{output}");

    let output = lab.edge.cli(&["forward", "8000"]).refused();
    assert!(output.stderr.contains("works only inside a container"), "{output}");
    assert!(output.stderr.contains("edge run"), "{output}");
}

#[test]
fn the_tunnel_ends_with_its_block_and_not_before() {
    let lab = Lab::new(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = folder.path().join("stop");
    let words = script("until.py");
    let stop_word = stop.to_str().expect("a readable path");
    let mut program = lab.edge.run(&["--", &words[0], &words[1], &words[2], stop_word]);
    let line = program.wait_line("open ", SLOWLY);
    let words: Vec<&str> = line.split(' ').collect();
    let ["open", name, "443", address, port] = words[..] else { panic!("unexpected: {line}") };
    lab.tls().connect(name);
    let raw = || {
        let address = format!("{address}:{port}").parse().expect("an address");
        lab.internet.enter(|| TcpStream::connect_timeout(&address, PATIENCE))
    };
    // Nothing listens on the port; yet it is the container that says so.
    let refused =
        |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let replies = || lab.edge.metrics().sum("edge_verdict_packets_total", &["verdict=\"reply\""]);
    let before = replies();
    refused(raw().expect_err("nothing listens"));
    wait_for("the container's own refusal", PATIENCE, || (replies() > before).then_some(()));

    std::fs::write(&stop, "").expect("cannot write the file");
    program.wait_line("closed", PATIENCE);
    assert!(lab.edge.tunnels().is_empty(), "{:?}", lab.edge.tunnels());
    assert_eq!(lab.tls().refusal(name), AlertDescription::UnrecognisedName);
    let before = replies();
    refused(raw().expect_err("the port is nobody's"));
    assert_eq!(replies(), before, "the container was still reached");
    assert_eq!(lab.edge.containers().len(), 1, "the container should live on");
}

#[test]
fn with_no_raw_port_left_the_reason_is_named_and_the_rest_works() {
    let lab = Lab::new(&["--raw-ports", "20000-20000"]);
    let words = script("limits.py");
    let mut program = lab.edge.run(&["--", &words[0], &words[1], &words[2]]);
    let refused = program.wait_line("refused ", SLOWLY);
    assert!(refused.starts_with("refused ResourceExhaustedError "), "{refused}");
    assert!(refused.contains("20000"), "{refused}");
    program.wait_line("url https://", SLOWLY);
    assert!(program.wait(PATIENCE).success(), "{}", program.printed());
}
