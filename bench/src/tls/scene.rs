//! The scene of the TLS questions: four servers that end TLS with one certificate and one worker
//! on one core, edge on its machine and the others on one without edge's rules and programs, each
//! machine with a backend in a namespace of its own; and a client on the other core.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tests::{edge::Edge, lab::Lab, netns::NetNs, process::wait_for, tenant::Tenant, wire::Wire};

use super::{
    backend::Backend,
    client::{Client, Target},
    cores::on,
    peers::{Peer, Peers, Place},
    usage::Usage,
};
use crate::{cpu, field::tune};

/// The domain that the certificate covers.
const DOMAIN: &str = "r1.example.com";
/// The machine without edge, towards the client (RFC 2544's range for benchmarks).
const PLAIN: &str = "198.18.0.1";
/// The backend that the peers dial.
const ROUTED: &str = "198.18.1.2";

/// Four servers, ready. Everything goes with this guard.
pub(super) struct Scene {
    /// The client in the internet.
    pub(super) client: Client,
    /// edge first.
    pub(super) servers: Vec<Server>,
    _peers: Peers,
    _backends: [Backend; 2],
    _tenant: Tenant,
    _wires: [Wire; 2],
    _machines: [NetNs; 2],
    _lab: Lab,
    _files: TempDir,
}

/// One that ends TLS.
pub(super) struct Server {
    /// Its name.
    pub(super) name: &'static str,
    /// What clients dial and ask for.
    pub(super) target: Target,
    pid: u32,
}

impl Server {
    /// What its processes have used so far.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }
}

impl Scene {
    /// Starts everything.
    pub(super) fn new() -> Result<Self> {
        let files = tempfile::tempdir()?;
        certificate(files.path())?;
        let lab = on(cpu::SERVER, || start_edge(files.path()))?;
        let tenant = Tenant::new(&lab.edge, "backend", &["--encrypted-port", "8000"]);
        let host = host(&lab.edge)?;

        let plain = NetNs::new("plain");
        let routed = NetNs::new("routed");
        let wire = |other: &NetNs, names: [&str; 2], addresses: [&str; 2]| {
            let [own, others] = addresses.map(|address| format!("{address}/24"));
            Wire::new(&plain, names[0], &[&own], other, names[1], &[&others])
        };
        let wires = [
            wire(&lab.internet, ["out0", "plain0"], [PLAIN, "198.18.0.2"]),
            wire(&routed, ["in0", "eth0"], ["198.18.1.1", ROUTED]),
        ];
        for netns in [&lab.machine, &lab.internet, &tenant.netns, &plain, &routed] {
            tune(netns);
        }
        let backends = [Backend::start(&tenant.netns)?, Backend::start(&routed)?];
        let place = Place {
            netns: &plain,
            files: files.path(),
            front: PLAIN.parse()?,
            backend: SocketAddr::new(ROUTED.parse()?, Backend::PORT),
        };
        let peers = on(cpu::SERVER, || Peers::start(&place))?;
        let client = Client::new(&lab.internet, &files.path().join("ca.pem"))?;
        let target =
            |address: &str, port| Target::new(SocketAddr::new(address.parse()?, port), &host);
        let mut lab = lab;
        let pid = lab.edge.daemon().pid();
        let edge = Server { name: "edge", target: target(Lab::PUBLIC, 443)?, pid };
        let mut servers = vec![edge];
        for peer in Peer::ALL {
            let target = target(PLAIN, peer.port())?;
            wait_for(peer.name(), tests::lab::PATIENCE, || client.reaches(&target).then_some(()));
            servers.push(Server { name: peer.name(), target, pid: peers.pid(peer) });
        }
        Ok(Self {
            client,
            servers,
            _peers: peers,
            _backends: backends,
            _tenant: tenant,
            _wires: wires,
            _machines: [plain, routed],
            _lab: lab,
            _files: files,
        })
    }

    /// Asks each server in turn.
    pub(super) fn each(&self, mut ask: impl FnMut(&Client, &Server) -> Result<()>) -> Result<()> {
        self.servers.iter().try_for_each(|server| ask(&self.client, server).context(server.name))
    }
}

fn start_edge(files: &Path) -> Result<Lab> {
    let path = |name: &str| {
        let path = files.join(name).into_os_string().into_string();
        path.map_err(|path| anyhow::anyhow!("not UTF-8: {}", path.display()))
    };
    let (cert, key) = (path("cert.pem")?, path("key.pem")?);
    // One client stands for many: bounds are counted, but not reached.
    let names = ["--domain", DOMAIN, "--cert", &cert, "--key", &key];
    let most = ["--max-connections=9000", "--max-connections-per-source=9000"];
    let rates = ["--new-connections=100000", "--new-connections-per-source=100000"];
    Ok(Lab::new(&[&names[..], &most, &rates].concat()))
}

fn host(edge: &Edge) -> Result<String> {
    let tunnel = edge.tunnels().into_iter().next().context("no tunnel")?;
    Ok(tests::tls::host(&tunnel.url).to_owned())
}

/// An authority, and a P-256 certificate for the domain's names: as files of their own, and as
/// the one file that haproxy and hitch want.
fn certificate(files: &Path) -> Result<()> {
    let authority_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let names = vec![format!("*.{DOMAIN}"), DOMAIN.to_owned()];
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    fs::write(files.join("ca.pem"), authority.pem())?;
    fs::write(files.join("cert.pem"), leaf.pem())?;
    fs::write(files.join("key.pem"), key.serialize_pem())?;
    fs::write(files.join("both.pem"), leaf.pem() + &key.serialize_pem())?;
    Ok(())
}
