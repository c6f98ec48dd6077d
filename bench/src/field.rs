//! Every way from a client to a server: the same two namespaces, and between them edge, a plain
//! router, a router with DNAT, or a program on the plain router.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;
use tests::{
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Running, Start as _, wait_for},
    tenant::Tenant,
    wire::Wire,
};

use crate::{
    cpu,
    load::{Server, Target},
    peers::{PEERS, Peer, Place},
    report::Measure,
};

/// Where iperf3 listens.
pub(crate) const BULK: u16 = 8000;
/// Where [`Server`] does.
pub(crate) const ECHO: u16 = 8001;
/// The first public port of the first peer; each has ten.
const BASE: u16 = 9100;

/// The first path: what all others are compared with.
pub(crate) const ROUTED: &str = "kernel routed, no tunnel";

/// One way from client to server.
pub(crate) struct Path {
    pub(crate) name: String,
    /// Where the client runs.
    pub(crate) from: NetNs,
    /// Where it finds iperf3.
    pub(crate) bulk: SocketAddr,
    /// Where it finds the echo.
    pub(crate) echo: SocketAddr,
    /// The SOCKS server on the way, if there is one.
    pub(crate) socks: Option<SocketAddr>,
}

/// All of it; it goes with this guard.
pub(crate) struct Field {
    pub(crate) paths: Vec<Path>,
    _peers: Vec<Peer>,
    _servers: (Running, Server),
    _routers: [Router; 2],
    _tenant: Tenant,
    _lab: Lab,
}

impl Field {
    /// Builds every path and waits until each answers.
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new(&[]);
        let ports = [BULK, ECHO].map(|port| port.to_string());
        // Nobody else bounds one client's connections, so edge does not here.
        let bounds = ["--new-connections-per-source", "none"];
        let ports_of = ["--unencrypted-port", &ports[0], "--unencrypted-port", &ports[1]];
        let options = [ports_of.as_slice(), &bounds].concat();
        let tenant = Tenant::new(&lab.edge, "server", &options);
        let (client, server) = (&lab.internet, &tenant.netns);
        for netns in [&lab.machine, client, server] {
            tune(netns);
        }
        let plain = Router::between(client, server, "plain", 1);
        let dnat = Router::between(client, server, "dnat", 3);
        dnat.translate()?;

        let servers = servers(server)?;
        let mut paths =
            vec![Path::to(ROUTED, client, [(&plain.server, BULK), (&plain.server, ECHO)])?];
        let raw = tunnels(&lab)?;
        let public = |address| [(address, raw[0]), (address, raw[1])];
        paths.push(Path::to("edge, raw tunnel", client, public(Lab::PUBLIC))?);
        paths.push(Path::to(
            "nftables DNAT",
            client,
            [(&dnat.outside, BASE), (&dnat.outside, BASE + 1)],
        )?);
        let place = Place {
            router: &plain.netns,
            outside: &plain.outside,
            inside: &plain.inside,
            server,
            address: &plain.server,
            ports: [BULK, ECHO],
        };
        let mut peers = Vec::new();
        for ((name, start), base) in PEERS.iter().zip((BASE..).step_by(10)) {
            peers.push(start(&place, base)?);
            paths.push(Path::to(
                name,
                client,
                [(&plain.outside, base), (&plain.outside, base + 1)],
            )?);
        }
        paths.push(Path::to("edge, userspace listener", &lab.machine, public("127.0.0.1"))?);
        for path in &paths {
            path.wait()?;
        }
        let routers = [plain, dnat];
        Ok(Self {
            paths,
            _peers: peers,
            _servers: servers,
            _routers: routers,
            _tenant: tenant,
            _lab: lab,
        })
    }
}

impl Path {
    fn to(name: &str, from: &NetNs, [bulk, echo]: [(&str, u16); 2]) -> Result<Self> {
        let at = |(address, port): (&str, u16)| -> Result<SocketAddr> {
            Ok(SocketAddr::new(address.parse()?, port))
        };
        let (name, from) = (name.to_owned(), from.clone());
        Ok(Self { name, from, bulk: at(bulk)?, echo: at(echo)?, socks: None })
    }

    /// Its echo.
    pub(crate) fn echo(&self) -> Target {
        Target { address: self.echo, socks: self.socks }
    }

    /// iperf3 where the client is, and the configuration that must stay as long as it runs.
    pub(crate) fn iperf3(&self) -> Result<(Command, Option<NamedTempFile>)> {
        let Some(socks) = self.socks else { return Ok((self.from.command("iperf3"), None)) };
        let (address, port) = (socks.ip(), socks.port());
        let text = format!("strict_chain\n[ProxyList]\nsocks5 {address} {port}\n");
        let file = with_text(&text)?;
        let mut command = self.from.command("proxychains4");
        command.args(["-q", "-f"]).arg(file.path()).arg("iperf3");
        Ok((command, Some(file)))
    }

    /// Waits until its echo answers.
    pub(crate) fn wait(&self) -> Result<()> {
        wait_for(&format!("{} to answer", self.name), PATIENCE, || {
            let short = std::time::Duration::from_millis(1);
            crate::load::round_trips(&self.from, self.echo(), 1, short).ok()
        });
        Ok(())
    }
}

/// The public ports of both tunnels.
fn tunnels(lab: &Lab) -> Result<[u16; 2]> {
    let tunnels = lab.edge.tunnels();
    let port = |inner: u16| {
        let tunnel = tunnels.iter().find(|tunnel| tunnel.port == inner);
        tunnel.map(tests::edge::Tunnel::raw_port).with_context(|| format!("no tunnel to {inner}"))
    };
    Ok([port(BULK)?, port(ECHO)?])
}

/// A namespace that routes between client and server, without edge.
struct Router {
    netns: NetNs,
    outside: String,
    inside: String,
    server: String,
    _wires: [Wire; 2],
}

impl Router {
    /// In 198.18.N.0/24 towards the client and the next network towards the server (RFC 2544's
    /// range for benchmarks).
    fn between(client: &NetNs, server: &NetNs, name: &str, number: u8) -> Self {
        let netns = NetNs::new(name);
        tune(&netns);
        netns.sysctl("net/ipv4/ip_forward", "1");
        let link = format!("{name}0");
        let wire = |outer: &NetNs, end: &str, number: u8, side: &str| {
            let [own, other] = [1, 2].map(|last| format!("198.18.{number}.{last}/24"));
            Wire::new(&netns, side, &[&own], outer, end, &[&other])
        };
        let wires = [wire(client, &link, number, "out0"), wire(server, &link, number + 1, "in0")];
        let (outside, inside) = (format!("198.18.{number}.1"), format!("198.18.{}.1", number + 1));
        let (near, far) = (format!("198.18.{number}.0/24"), format!("198.18.{}.0/24", number + 1));
        client.ip(&["route", "add", &far, "via", &outside]);
        server.ip(&["route", "add", &near, "via", &inside]);
        let server = format!("198.18.{}.2", number + 1);
        Self { netns, outside, inside, server, _wires: wires }
    }

    /// The first public ports lead to the server.
    fn translate(&self) -> Result<()> {
        let next = BASE + 1;
        let server = &self.server;
        let text = format!(
            "table ip translation {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        tcp dport {BASE} dnat to {server}:{BULK}
        tcp dport {next} dnat to {server}:{ECHO}
    }}
}}
"
        );
        nft(&self.netns, &text)
    }
}

/// What all paths lead to.
pub(crate) fn servers(netns: &NetNs) -> Result<(Running, Server)> {
    let (port, cpu) = (BULK.to_string(), cpu::SERVER.to_string());
    let mut iperf3 = netns.command("iperf3");
    iperf3.args(["--server", "--port", &port, "--affinity", &cpu]);
    Ok((iperf3.running(), Server::start(netns, ECHO)?))
}

/// Gives nftables of a namespace a script.
pub(crate) fn nft(netns: &NetNs, script: &str) -> Result<()> {
    let file = with_text(script)?;
    netns.command("nft").arg("-f").arg(file.path()).output_of().ok();
    Ok(())
}

fn with_text(text: &str) -> Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    fs::write(&file, text)?;
    Ok(file)
}

/// Asks the same of every path, round by round, in the order of the measures.
pub(crate) fn interleaved<'p, const N: usize>(
    rounds: usize,
    paths: impl Iterator<Item = &'p Path> + Clone,
    measures: &mut [Measure; N],
    once: impl Fn(&Path) -> Result<[f64; N]>,
) -> Result<()> {
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for path in paths.clone() {
            let values = once(path).with_context(|| path.name.clone())?;
            for (measure, value) in measures.iter_mut().zip(values) {
                measure.push(&path.name, value);
            }
        }
    }
    Ok(())
}

/// The same TCP everywhere. Reno is the one algorithm that every kernel lets a namespace choose;
/// the machine's own may pace.
pub(crate) fn tune(netns: &NetNs) {
    netns.sysctl("net/ipv4/tcp_congestion_control", "reno");
    netns.sysctl("net/ipv4/ip_local_port_range", "10240 65535");
    netns.sysctl("net/ipv4/tcp_tw_reuse", "1");
}
