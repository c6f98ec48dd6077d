//! What happens on an open TLS connection: every byte arrives, each direction ends by itself,
//! and nothing outlives its tunnel.

use std::io::{Read as _, Write as _};

use tests::{
    edge,
    lab::{Lab, PATIENCE},
    process::{Start as _, wait_for},
    tls::{TlsClient, converse, finish, host, receive},
};

const ENCRYPTED: &[&str] = &["--encrypted-port", "8000"];

/// Reads to the end, then sends all of it back.
const MIRROR: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 8000))
print('listening', flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
        connection.sendall(b''.join(pieces))
";

/// Says all it has to say, and listens on.
const SPEAKER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 8000))
print('listening', flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b'220 ready\\r\\n')
        connection.shutdown(socket.SHUT_WR)
        count = 0
        while piece := connection.recv(65536):
            count += len(piece)
        print('then came', count, flush=True)
";

/// Greets, then echoes; never ends by itself.
const ECHO: &str = "
import socket, threading
def serve(connection):
    connection.sendall(b'hello')
    while piece := connection.recv(65536):
        connection.sendall(piece)
listener = socket.create_server(('0.0.0.0', 8000))
print('listening', flush=True)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
";

#[test]
fn ports_of_clients_that_close_first_are_soon_used_again() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-u", "-c", MIRROR]);
    // Eight ports of the relay stand for all that it has.
    let service = lab.edge.folder().join("run/service.ns");
    let mut command = lab.machine.command("nsenter");
    command.arg(format!("--net={}", service.display()));
    command.args(["sh", "-c", "echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range"]);
    command.output_of().ok();
    let client = lab.tls();
    for _ in 0..24 {
        wait_for("a port of the relay", PATIENCE, || {
            let mut stream = client.try_connect(host(&tunnel.url)).ok()?;
            stream.write_all(b"hello").ok()?;
            finish(&mut stream);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok()?;
            (answer == b"hello").then_some(())
        });
    }
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let lab = Lab::new(&[]);
    let (mut container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-c", MIRROR]);
    container.wait_line("listening", PATIENCE);
    // More than any buffer on the way holds, and no two pieces alike.
    let bytes: Vec<u8> = (0..1 << 20).flat_map(|number: u32| number.to_be_bytes()).collect();
    let ca = lab.edge.folder().join("ca/ca.pem");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = TlsClient::with_versions(&lab.internet, &ca, &[version]);
        let answer = converse(&mut client.connect(host(&tunnel.url)), &bytes);
        assert!(answer == bytes, "{} of {} bytes came back", answer.len(), bytes.len());
    }
    let listed = &lab.edge.tunnels()[0];
    let amount = u64::try_from(2 * bytes.len()).expect("a length");
    assert_eq!((listed.connections, listed.bytes_in, listed.bytes_out), (2, amount, amount));
}

#[test]
fn a_program_that_has_said_all_still_hears_its_client() {
    let lab = Lab::new(&[]);
    let (mut container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-c", SPEAKER]);
    container.wait_line("listening", PATIENCE);
    let mut client = lab.tls().connect(host(&tunnel.url));
    // The server speaks first: the client has sent nothing yet.
    let mut greeting = Vec::new();
    client.read_to_end(&mut greeting).expect("a clean end of the program's side");
    assert_eq!(greeting, b"220 ready\r\n");
    client.write_all(&vec![7; 3_000_000]).expect("cannot send");
    finish(&mut client);
    container.wait_line("then came 3000000", PATIENCE);
}

#[test]
fn a_connection_is_reset_when_its_tunnel_ends() {
    let lab = Lab::new(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = folder.path().join("stop");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done", stop.display());
    let edge = edge::program().display().to_string();
    // The program outlives the tunnel: what ends the connection is not the program's end.
    let script =
        format!("python3 -c \"$0\" & {edge} forward 8000 -- sh -c '{wait}'; echo over; wait");
    let mut container = lab.edge.run(&["--", "sh", "-c", &script, ECHO]);
    container.wait_line("listening", PATIENCE);
    let tunnel = wait_for("the tunnel", PATIENCE, || lab.edge.tunnels().pop());

    let mut client = lab.tls().connect(host(&tunnel.url));
    assert_eq!(receive(&mut client, 5), b"hello");
    client.write_all(b"again").expect("cannot send");
    assert_eq!(receive(&mut client, 5), b"again");

    std::fs::write(&stop, "").expect("cannot write the file");
    let error = client.read(&mut [0]).expect_err("the connection should have been reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    container.wait_line("over", PATIENCE);
    assert!(container.ended().is_none(), "the program should live on");
}

#[test]
fn a_daemon_that_stops_resets_its_clients_and_leaves_the_program_alone() {
    let mut lab = Lab::new(&[]);
    let (mut container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-c", ECHO]);
    container.wait_line("listening", PATIENCE);
    let mut client = lab.tls().connect(host(&tunnel.url));
    assert_eq!(receive(&mut client, 5), b"hello");
    lab.edge.stop();
    let error = client.read(&mut [0]).expect_err("the connection should have been reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    wait_for("`edge run` to say so", PATIENCE, || {
        container.printed().contains("the program runs on").then_some(())
    });
    assert!(container.ended().is_none(), "the program should live on");
}

#[test]
fn a_program_that_dies_is_told_apart_from_one_that_ends() {
    let lab = Lab::new(&[]);
    // With bytes unread, the kernel closes the dead program's socket by a reset.
    let program = "
import socket, time
listener = socket.create_server(('0.0.0.0', 8000))
print('listening', flush=True)
connection, _ = listener.accept()
connection.sendall(b'half of')
connection.recv(1, socket.MSG_PEEK)
connection.close()
time.sleep(3600)
";
    let (mut container, tunnel) = lab.serve(ENCRYPTED, 8000, &["python3", "-c", program]);
    container.wait_line("listening", PATIENCE);
    let mut client = lab.tls().connect(host(&tunnel.url));
    assert_eq!(receive(&mut client, 7), b"half of");
    client.write_all(b"unread").expect("cannot send");
    // A truncated answer must not look like a whole one: TLS says which it is.
    let error = client.read_to_end(&mut Vec::new()).expect_err("an end without close_notify");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
}
