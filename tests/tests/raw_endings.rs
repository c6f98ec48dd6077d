//! The end of a raw tunnel is the end of its connections: at once, and said aloud.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tests::{
    echo::{Echo, dial},
    edge::{self, Tunnel},
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Start as _, wait_for},
    tenant::Tenant,
};

/// What a person calls at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);
/// A server that says when it listens, and holds every connection that it gets.
const HOLDER: &str = "
import socket
server = socket.create_server(('::', 8000), family=socket.AF_INET6, dualstack_ipv6=True)
held = []
while True:
    held.append(server.accept()[0])
    print('accepted', len(held), flush=True)
";

#[test]
fn a_stopped_tunnel_resets_its_connections_and_only_those() {
    let lab = Lab::new(&[]);
    let tenant = Tenant::new(&lab.edge, "server", &["--unencrypted-port", "9000", "--i6pn"]);
    let peer = Tenant::new(&lab.edge, "peer", &["--i6pn"]);
    let echo = Echo::serve(&tenant.netns, 8000);
    let other = Echo::serve(&tenant.netns, 9000);
    let mut command = tenant.netns.command(edge::program());
    let mut forward = command.args(["forward", "--unencrypted", "8000"]).running();
    forward.wait_line("tcp://", PATIENCE);
    let tunnels = lab.edge.tunnels();
    let on = |port| tunnels.iter().find(|tunnel| tunnel.port == port).expect("a tunnel");

    let mut kept = connections(&lab, on(9000));
    let ended = connections(&lab, on(8000));
    // To the same port, and none of the tunnel's.
    kept.push(half_a_request(&peer.netns, (tenant.i6pn(), 8000).into()));
    wait_accepted(&echo, ended.len() + 1);
    forward.signal(Signal::SIGTERM);
    all_are_reset(&lab, ended, on(8000));
    for (to, mut stream) in kept {
        stream.write_all(b", whole").unwrap_or_else(|error| panic!("{to}: {error}"));
        stream.shutdown(std::net::Shutdown::Write).expect("half-closing");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(answer, "half a request, whole");
    }
    assert_eq!(other.clients().len(), 3);
}

#[test]
fn a_detached_container_resets_its_connections_though_its_program_runs_on() {
    let lab = Lab::new(&[]);
    let options = ["--unencrypted-port", "8000", "--native-ipv6"];
    let tenant = Tenant::new(&lab.edge, "server", &options);
    let echo = Echo::serve(&tenant.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    let ended = connections(&lab, &tunnel);
    wait_accepted(&echo, ended.len());
    let _namespace = tenant.detach();
    all_are_reset(&lab, ended, &tunnel);
}

#[test]
fn a_killed_container_ends_its_connections() {
    let lab = Lab::new(&[]);
    let options = ["--unencrypted-port", "8000", "--native-ipv6"];
    let program = ["python3", "-u", "-c", HOLDER];
    let (mut container, tunnel) = lab.serve(&options, 8000, &program);
    wait_for("the server", PATIENCE, || {
        let to = SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), tunnel.raw_port());
        dial(&lab.internet, to).ok()
    });
    let ended = connections(&lab, &tunnel);
    container.wait_line("accepted 4", PATIENCE);

    let since = Instant::now();
    container.kill();
    for (to, mut stream) in ended {
        // The kernel closes what a killed program had, in order where nothing is unread.
        match stream.read(&mut [0; 64]) {
            Ok(0) => {}
            Ok(_) => panic!("{to} answered"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}: {error}"),
        }
        assert!(since.elapsed() < AT_ONCE, "{to} ended after {:?}", since.elapsed());
        // What is half open learns the rest as soon as it speaks.
        wait_for("a reset", AT_ONCE, || stream.write_all(b"anybody there?").err());
    }
    port_is_closed(&lab, &tunnel);
}

/// One connection of each kind: both families from the internet, and one from the machine.
#[track_caller]
fn connections(lab: &Lab, tunnel: &Tunnel) -> Vec<(SocketAddr, TcpStream)> {
    ways(lab, tunnel).map(|(from, to)| half_a_request(from, to)).into()
}

#[track_caller]
fn half_a_request(from: &NetNs, to: SocketAddr) -> (SocketAddr, TcpStream) {
    let mut stream = dial(from, to).unwrap_or_else(|error| panic!("{to}: {error}"));
    stream.write_all(b"half a request").expect("a live connection");
    (to, stream)
}

fn ways<'a>(lab: &'a Lab, tunnel: &Tunnel) -> [(&'a NetNs, SocketAddr); 3] {
    [(&lab.internet, Lab::PUBLIC), (&lab.internet, Lab::PUBLIC_V6), (&lab.machine, "127.0.0.1")]
        .map(|(from, address)| {
            (from, SocketAddr::new(address.parse().expect("an address"), tunnel.raw_port()))
        })
}

fn wait_accepted(echo: &Echo, connections: usize) {
    wait_for("the server to have all connections", PATIENCE, || {
        (echo.clients().len() >= connections).then_some(())
    });
}

/// Every connection is reset right now, and no other can be made.
#[track_caller]
fn all_are_reset(lab: &Lab, connections: Vec<(SocketAddr, TcpStream)>, tunnel: &Tunnel) {
    let since = Instant::now();
    for (to, mut stream) in connections {
        let error = stream.read(&mut [0; 64]);
        let error = error.err().unwrap_or_else(|| panic!("{to}: an orderly end, not a reset"));
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{to}: {error}");
        assert!(since.elapsed() < AT_ONCE, "{to} was reset after {:?}", since.elapsed());
    }
    port_is_closed(lab, tunnel);
}

/// A connection that comes while the rows go may still be let in; the next moment none is.
#[track_caller]
fn port_is_closed(lab: &Lab, tunnel: &Tunnel) {
    wait_for("the tunnel to be gone from the list", PATIENCE, || {
        lab.edge.tunnels().iter().all(|one| one.id != tunnel.id).then_some(())
    });
    for (from, to) in ways(lab, tunnel) {
        wait_for(&format!("{to} to refuse"), AT_ONCE, || match dial(from, to) {
            Ok(_) => None,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
                Some(())
            }
        });
    }
}
