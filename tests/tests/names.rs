//! What names mean in a container: its own address, tunnels, and all the others as the machine's
//! resolvers know them.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tests::{
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::Start as _,
};

const DOMAIN: &str = "r5.example.test";
/// What the upstream resolver of these tests knows: the address of every name but two.
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The machine's resolver, answering in a namespace on the addresses where it is expected.
struct Resolver(Arc<AtomicBool>);

impl Resolver {
    fn new(machine: &NetNs) -> Self {
        let settings = fs::read_to_string("/etc/resolv.conf").expect("/etc/resolv.conf");
        let named = settings.lines().filter_map(|line| line.strip_prefix("nameserver"));
        let mut addresses: Vec<IpAddr> =
            named.map(|address| address.trim().parse().expect("an address")).collect();
        if addresses.is_empty() {
            addresses.push(Ipv4Addr::LOCALHOST.into());
        }
        let ended = Arc::new(AtomicBool::new(false));
        for address in addresses {
            if !address.is_loopback() {
                let length = if address.is_ipv4() { 32 } else { 128 };
                machine.ip(&["address", "add", &format!("{address}/{length}"), "dev", "lo"]);
            }
            let socket = machine.enter(|| UdpSocket::bind((address, 53))).expect("port 53");
            // Often enough to notice the end.
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            let ended = ended.clone();
            thread::spawn(move || serve(&socket, &ended));
        }
        Self(ended)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, ended: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&reply(&buffer[..length]), peer).expect("cannot reply");
        }
    }
}

/// A reply to a query of one question: an address record, if that was asked for.
fn reply(query: &[u8]) -> Vec<u8> {
    let question = &query[12..];
    let name = question.iter().position(|byte| *byte == 0).expect("a whole name");
    let question = &question[..name + 5];
    let first = &question[1..=usize::from(question[0])];
    let (code, answers) = match first {
        b"nobody" => (3, 0),
        b"broken" => (2, 0),
        _ => (0, u8::from(question[name + 2] == 1)),
    };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(question);
    if answers == 1 {
        // The name is the question's; class IN, a minute, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(EVERYBODY.octets());
    }
    reply
}

/// What names resolve to in a container: by name and record type.
fn resolved(lab: &Lab, names: &[&str]) -> BTreeMap<(String, String), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/resolve.py");
    let script = script.display().to_string();
    let words = ["run", "--name", "asker", "--", "python3", "-u", &script];
    let output = lab.edge.command().args(words).args(names).output_of().ok();
    let lines = output.stdout.lines().filter_map(|line| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(((words.next()?, words.next()?), words.next()?))
    });
    lines.collect()
}

#[test]
fn the_private_name_is_the_containers_own_address() {
    let lab = Lab::new(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/resolve.py");
    let script = script.display().to_string();
    for name in ["one", "two"] {
        let program = format!("python3 -u {script} i6pn.modal.local; exec sleep 3600");
        let mut running = lab.edge.run(&["--name", name, "--i6pn", "--", "sh", "-c", &program]);
        let line = running.wait_line("i6pn.modal.local AAAA ", PATIENCE);
        let containers = lab.edge.containers();
        assert_eq!(line, format!("i6pn.modal.local AAAA {}", containers[0].i6pn));
        assert!(containers[0].i6pn.starts_with("fdaa:"), "{containers:?}");
        // It has no IPv4 address by that name: programs must not mistake it for a public one.
        running.wait_line("i6pn.modal.local A nothing", PATIENCE);
        running.kill();
        tests::process::wait_for("the container to go", PATIENCE, || {
            lab.edge.containers().is_empty().then_some(())
        });
    }
}

#[test]
fn without_i6pn_there_is_no_private_name() {
    let lab = Lab::new(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/resolve.py");
    let script = script.display().to_string();
    let words = ["run", "--", "python3", "-u", &script, "i6pn.modal.local"];
    let output = lab.edge.command().args(words).output_of().ok();
    for kind in ["AAAA", "A"] {
        let line = format!("i6pn.modal.local {kind} nothing");
        assert!(output.stdout.lines().any(|said| said == line), "{}", output.stdout);
    }
}

#[test]
fn other_names_are_the_machines_resolvers_business() {
    let lab = Lab::new(&["--domain", DOMAIN]);
    let _resolver = Resolver::new(&lab.machine);
    let asked = ["www.example.com", "nobody.example.com", "broken.example.com", "x.modal.local"];
    let found = resolved(&lab, &asked);
    let is = |name: &str, kind: &str, expected: &str| {
        let found = found.get(&(name.to_owned(), kind.to_owned())).map(String::as_str);
        assert_eq!(found, Some(expected), "{name} {kind}");
    };
    is("www.example.com", "A", &EVERYBODY.to_string());
    is("www.example.com", "AAAA", "nothing");
    is("nobody.example.com", "A", "nothing");
    is("broken.example.com", "A", "again");
    // The zone of the private name never leaves the machine: upstream would have answered.
    is("x.modal.local", "A", "nothing");
}

#[test]
fn a_tunnels_name_leads_to_the_gateway() {
    let lab = Lab::new(&["--domain", DOMAIN]);
    let _resolver = Resolver::new(&lab.machine);
    let server = ["python3", "-u", "-m", "http.server", "8000"];
    let (_container, tunnel) = lab.serve(&["--encrypted-port", "8000"], 8000, &server);
    let name = tests::tls::host(&tunnel.url);
    let other = format!("other.{DOMAIN}");
    let found = resolved(&lab, &[name, &other]);
    let of = |name: &str, kind: &str| found[&(name.to_owned(), kind.to_owned())].clone();
    assert_eq!(of(name, "A"), Lab::PUBLIC);
    assert_eq!(of(name, "AAAA"), Lab::PUBLIC_V6);
    // Whatever else the domain has is in the public DNS.
    assert_eq!(of(&other, "A"), EVERYBODY.to_string());

    // And the way is open: a container is a client like any other.
    // Containers do not see the daemon's own folder; a person would give them a copy.
    let copy = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::copy(lab.edge.folder().join("ca/ca.pem"), copy.path()).expect("the authority");
    let ca = copy.path().display().to_string();
    let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--cacert", &ca];
    let page = lab.edge.cli(&[&["run", "--"], &curl[..], &[&tunnel.url]].concat()).ok();
    assert!(page.stdout.contains("Directory listing"), "{page}");
}
