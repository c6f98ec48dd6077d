//! The API that programs in containers use, from Python and from a shell: whose a tunnel is,
//! how long it lives, and that edge's services take nothing from the programs.

use std::{io::Write as _, net::TcpStream, path::Path, time::Duration};

use rustls::AlertDescription;
use tests::{
    edge,
    lab::{Lab, PATIENCE},
    process::{Running, wait_for},
    tls::{host, receive},
};

/// Importing Modal's package takes seconds where processors are shared.
const SLOWLY: Duration = Duration::from_secs(40);
const WEB: &[&str] = &["python3", "-u", "-m", "http.server", "8000"];

fn edge_program() -> String {
    edge::program().display().to_string()
}

/// Runs a Python program of this package in a container.
fn python(lab: &Lab, program: &str, arguments: &[&str]) -> Running {
    let python = edge::venv().join("bin/python").display().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(program).display().to_string();
    lab.edge.run(&[&["--i6pn", "--", &python, "-u", &script], arguments].concat())
}

/// The rest of the line that begins with this word.
fn said(program: &mut Running, word: &str) -> String {
    let line = program.wait_line(&format!("{word} "), SLOWLY);
    line.trim_start_matches(word).trim().to_owned()
}

#[test]
fn a_program_may_have_ports_80_and_53_of_its_own() {
    let lab = Lab::new(&[]);
    let mut program = python(&lab, "programs/own_ports.py", &[&edge_program()]);
    let address = said(&mut program, "address");
    assert_eq!(address, lab.edge.containers()[0].i6pn, "DNS");
    let url = said(&mut program, "url");
    assert_eq!(lab.https(&[&url]).stdout, "the program's own page\n");
}

#[test]
fn forward_tells_its_command_where_it_is_and_ends_with_it() {
    let lab = Lab::new(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = folder.path().join("stop");
    let script = format!(
        "python3 -m http.server 8000 & \
         {} forward 8000 --unencrypted -- sh -c 'echo at $EDGE_URL $EDGE_TCP; \
         until [ -e {} ]; do sleep 0.02; done; exit 7'; \
         echo code $?; wait",
        edge_program(),
        stop.display()
    );
    let mut container = lab.edge.run(&["--", "sh", "-c", &script]);
    let at = said(&mut container, "at");
    let (url, tcp) = at.split_once(' ').expect("two values");
    lab.https(&["--fail", url]);
    lab.curl(&lab.internet, &["--fail", &format!("http://{tcp}/")]);
    let tunnel = &lab.edge.tunnels()[0];
    assert_eq!((tunnel.url.as_str(), tunnel.tcp.as_deref()), (url, Some(tcp)));

    std::fs::write(&stop, "").expect("cannot write the file");
    assert_eq!(said(&mut container, "code"), "7");
    assert!(lab.edge.tunnels().is_empty(), "{:?}", lab.edge.tunnels());
    assert_eq!(lab.tls().refusal(host(url)), AlertDescription::UnrecognisedName);
    assert_eq!(lab.edge.containers().len(), 1, "the container should live on");
}

#[test]
fn a_killed_containers_tunnels_vanish() {
    let lab = Lab::new(&[]);
    let options = ["--unencrypted-port", "8000"];
    for by in ["edge run", "its first process"] {
        let (mut container, tunnel) = lab.serve(&options, 8000, WEB);
        lab.https(&["--fail", &tunnel.url]);
        if by == "edge run" {
            container.kill();
        } else {
            let pid = lab.edge.containers()[0].pid.expect("a process");
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("cannot kill");
            assert_eq!(container.wait(PATIENCE).code(), Some(137));
        }
        wait_for(&format!("the tunnel to go with {by}"), PATIENCE, || {
            lab.edge.tunnels().is_empty().then_some(())
        });
        wait_for("the container to go", PATIENCE, || {
            lab.edge.containers().is_empty().then_some(())
        });
        assert_eq!(lab.tls().refusal(host(&tunnel.url)), AlertDescription::UnrecognisedName);
        let socket = tunnel.tcp.expect("a raw socket").parse().expect("an address");
        let raw = lab.internet.enter(|| TcpStream::connect_timeout(&socket, PATIENCE));
        let error = raw.expect_err("the raw port should be nobody's");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    }
}

#[test]
fn a_tunnel_outlives_its_owner_and_is_taken_over_as_it_was() {
    let lab = Lab::new(&[]);
    let mut program = python(&lab, "programs/takeover.py", &[&edge_program()]);
    let first = said(&mut program, "first");
    let (url, _) = first.split_once(' ').expect("two values");
    let mut client = lab.tls().connect(host(url));
    client.write_all(b"before").expect("cannot send");
    assert_eq!(receive(&mut client, 6), b"before");

    let rival = said(&mut program, "rival");
    assert!(rival.starts_with("69 ") && rival.contains("already forwarded"), "{rival}");
    assert_eq!(said(&mut program, "second"), first);
    // It is the same tunnel: who was connected has noticed nothing.
    client.write_all(b"after").expect("cannot send");
    assert_eq!(receive(&mut client, 5), b"after");
    assert_eq!(lab.edge.tunnels().len(), 1);
}

#[test]
fn what_is_not_networking_is_unimplemented() {
    let lab = Lab::new(&[]);
    let mut program = python(&lab, "modal/unimplemented.py", &[]);
    let refused = said(&mut program, "refused");
    assert!(refused.starts_with("UnimplementedError"), "{refused}");
    assert!(said(&mut program, "url").starts_with("https://"));
    assert!(program.wait(PATIENCE).success());
}

#[test]
fn a_container_starts_and_stops_its_own_tunnels_only() {
    let lab = Lab::new(&[]);
    let (_kept, kept) = lab.serve(&["--name", "kept", "--encrypted-port", "8000"], 8000, WEB);
    let script =
        format!("{} forward 8000 -- sh -c 'echo url $EDGE_URL'; echo over", edge_program());
    let mut other = lab.edge.run(&["--name", "other", "--", "sh", "-c", &script]);
    let url = said(&mut other, "url");
    other.wait_line("over", PATIENCE);
    assert_ne!(url, kept.url);
    let left: Vec<_> = lab.edge.tunnels().into_iter().map(|tunnel| tunnel.url).collect();
    assert_eq!(left, [kept.url]);
}

#[test]
fn no_container_speaks_for_another() {
    const EACH: u32 = 20;
    let lab = Lab::new(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ask = folder.path().join("ask").display().to_string();
    let mut victim = python(&lab, "programs/sniff.py", &[&ask]);
    victim.wait_line("sniffing", SLOWLY);
    let address = lab.edge.containers()[0].ipv4.clone();
    let forged = || {
        let labels = ["hook=\"tc_container\"", "verdict=\"forged_source\""];
        lab.edge.metrics().sum("edge_verdict_packets_total", &labels)
    };
    assert_eq!(forged(), 0.0);

    let mut forger = python(&lab, "programs/forge.py", &[&address, &EACH.to_string()]);
    forger.wait_line("sent", PATIENCE);
    // Two kinds of packet through two kinds of socket: every one of them was caught.
    let sent = f64::from(EACH * 4);
    wait_for("every packet to be counted", PATIENCE, || (forged() == sent).then_some(()));
    std::fs::write(&ask, "").expect("cannot write the file");
    assert_eq!(said(&mut victim, "unasked"), "0");
    // It would have seen an answer: it sees the one to its own question.
    victim.wait_line("asked", PATIENCE);
    assert_eq!(forged(), sent, "an honest question was taken for a forged one");
}
