//! The tunnel examples of Modal's guide and reference run as they are, with the `modal` package
//! from PyPI: what they print is where a client in the internet finds them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use tests::{
    edge,
    lab::{Lab, PATIENCE},
    process::{Running, Start as _, wait_for},
    tls::{host, receive},
};

/// Importing the package takes seconds where processors are shared.
const SLOWLY: Duration = Duration::from_secs(40);

/// Runs one of the examples in a container.
fn example(lab: &Lab, name: &str, arguments: &[&str]) -> Running {
    let python = edge::venv().join("bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("modal").join(name);
    let [python, script] = [&python, &script].map(|path| path.to_str().expect("a readable path"));
    lab.edge.run(&[&["--", python, "-u", script], arguments].concat())
}

/// What an example printed after these words.
fn printed(example: &mut Running, words: &str) -> String {
    let line = example.wait_line(words, SLOWLY);
    let (_, rest) = line.split_once(words).expect("the words");
    rest.trim().to_owned()
}

/// The two values of a Python tuple like `('name', 443)`.
fn socket(tuple: &str) -> (String, u16) {
    let inner = tuple.trim_start_matches('(').trim_end_matches(')');
    let (host, port) = inner.split_once(", ").expect("a tuple of two");
    (host.trim_matches('\'').to_owned(), port.parse().expect("a port"))
}

#[test]
fn a_web_server_answers_at_the_url_that_was_printed() {
    let lab = Lab::new(&[]);
    let mut program = example(&lab, "web_server.py", &[]);
    let url = printed(&mut program, "tunnel.url        = ");
    let tls_socket = printed(&mut program, "tunnel.tls_socket = ");
    assert_eq!(socket(&tls_socket), (host(&url).to_owned(), 443));
    assert!(host(&url).ends_with(".r1.localhost"), "{url}");

    // The server begins to listen when it likes; until then there is a page that says so.
    let page = lab.https(&["--fail", &format!("{url}/a?b=c"), "-H", "User-Agent: test"]);
    let name = host(&url);
    // Bytes are relayed, not requests: the program sees the client's headers and no others.
    let whole = format!(
        "served /a?b=c\nheader host: {name}\nheader accept: */*\nheader user-agent: test\n"
    );
    assert_eq!(page.stdout, whole);
}

#[test]
fn tcp_echo_is_reached_with_and_without_tls() {
    let lab = Lab::new(&[]);
    let mut program = example(&lab, "tcp_echo.py", &[]);
    let (address, port) = socket(&printed(&mut program, "TCP tunnel listening at:"));
    assert_eq!(address, Lab::PUBLIC);
    let connect = || lab.internet.enter(|| TcpStream::connect((address.as_str(), port)));
    let mut client = wait_for("the echo server", PATIENCE, || connect().ok());
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(b"over raw TCP").expect("cannot send");
    assert_eq!(receive(&mut client, 12), b"over raw TCP");
    // Through the kernel: the program sees who its client is.
    let seen = format!("Connection from: ('{}', {})", Lab::CLIENT, own_port(&client));
    program.wait_line(&seen, PATIENCE);

    let tunnel = &lab.edge.tunnels()[0];
    let mut client = lab.tls().connect(host(&tunnel.url));
    client.write_all(b"over TLS").expect("cannot send");
    assert_eq!(receive(&mut client, 8), b"over TLS");
}

fn own_port(client: &TcpStream) -> u16 {
    client.local_addr().expect("an address").port()
}

#[test]
fn ssh_logs_in_through_a_raw_tunnel() {
    let lab = Lab::new(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Sshd::prepare(folder.path());
    let config = server.config.to_str().expect("a readable path");
    let mut program = example(&lab, "ssh.py", &[config]);
    let typed = printed(&mut program, "ssh into container using:");
    let words: Vec<&str> = typed.split_whitespace().collect();
    let ["ssh", "-p", port, login] = words[..] else { panic!("not a command: {typed}") };
    server.trust(Lab::PUBLIC, port);

    let hello = wait_for("a login over SSH", PATIENCE, || {
        let mut ssh = lab.internet.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
        ssh.args(["-o", "ConnectTimeout=5"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", server.known_hosts.display()));
        ssh.arg("-i").arg(&server.client_key).args(["-p", port, login]);
        let output = ssh.args(["echo hello; hostname"]).output_of();
        output.status.success().then_some(output)
    });
    let container = lab.edge.containers().remove(0).name;
    assert_eq!(hello.stdout, format!("hello\n{container}\n"));
}

/// The files that the example's image has, and those of its user.
struct Sshd {
    config: PathBuf,
    host_key: PathBuf,
    client_key: PathBuf,
    known_hosts: PathBuf,
}

impl Sshd {
    fn prepare(folder: &Path) -> Self {
        let [host_key, client_key] = ["host_key", "client_key"].map(|name| folder.join(name));
        for key in [&host_key, &client_key] {
            let mut keygen = std::process::Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).output_of().ok();
        }
        // Where Debian's sshd locks away its network half; an image has it, too.
        std::fs::create_dir_all("/run/sshd").expect("cannot make /run/sshd");
        let config = folder.join("sshd_config");
        let lines = format!(
            "HostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n",
            host_key.display(),
            client_key.display()
        );
        std::fs::write(&config, lines).expect("cannot write sshd's settings");
        Self { config, host_key, client_key, known_hosts: folder.join("known_hosts") }
    }

    /// Writes down which key the server must show.
    fn trust(&self, address: &str, port: &str) {
        let key = std::fs::read_to_string(self.host_key.with_extension("pub"));
        let line = format!("[{address}]:{port} {}", key.expect("the server's public key"));
        std::fs::write(&self.known_hosts, line).expect("cannot write known_hosts");
    }
}

#[test]
fn a_notebook_serves_pages_and_a_web_socket() {
    let lab = Lab::new(&[]);
    let mut program = example(&lab, "notebook.py", &[]);
    let url = printed(&mut program, "Starting the notebook at ");
    assert_eq!(lab.https(&["--fail", &url]).stdout, "a notebook\n");

    let mut client = lab.tls().connect(host(&url));
    let (_, query) = url.split_once('?').expect("a token");
    let name = host(&url);
    // The key and its answer are those of RFC 6455, section 1.3.
    write!(
        client,
        "GET /?{query} HTTP/1.1\r\nHost: {name}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("cannot ask for a web socket");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(receive(&mut client, 1));
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    for text in ["one", "two"] {
        client.write_all(&frame(0x81, text.as_bytes())).expect("cannot send a frame");
        assert_eq!(receive(&mut client, 5), [&[0x81, 3], text.as_bytes()].concat());
    }
    client.write_all(&frame(0x88, &[])).expect("cannot send the last frame");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("a clean end");
    assert_eq!(rest, [0x88, 0]);
}

/// A frame as clients send it: masked.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 1, 2, 3];
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let length = u8::try_from(payload.len()).expect("a short frame");
    [kind, 0x80 | length].into_iter().chain(mask).chain(masked).collect()
}

#[test]
fn http2_is_spoken_to_the_program_when_it_was_asked_for() {
    let lab = Lab::new(&[]);
    let mut program = example(&lab, "http2.py", &[env!("CARGO_BIN_EXE_h2c_server")]);
    let url = printed(&mut program, "tunnel.url = ");
    let asked = format!("{url}/x");
    let answer = lab.https(&["--http2", "--write-out", "%{http_version}", &asked]);
    assert_eq!(answer.stdout, format!("GET {asked}\n2"));
    program.wait_line(&format!("GET {asked}"), PATIENCE);
}

#[test]
fn a_tunnel_made_at_a_containers_start_serves_all_calls() {
    let lab = Lab::new(&[]);
    let mut program = example(&lab, "lifecycle.py", &[]);
    let first = printed(&mut program, "first ");
    assert_eq!(printed(&mut program, "second "), first);
    let page = lab.https(&["--fail", &first]);
    assert!(page.stdout.contains("Directory listing"), "{page}");
}
