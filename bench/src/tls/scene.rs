//! The scene of the TLS questions: four servers that end TLS with one certificate and one worker
//! on one core, a backend apiece in a namespace of its own, and a client on the other core.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tests::{edge::Edge, lab::Lab, netns::NetNs, process::wait_for, tenant::Tenant, wire::Wire};

use super::{
    backend::Backend,
    client::{Client, Target},
    cores::on,
    peers::{Peer, Peers},
    usage::Usage,
};
use crate::cpu;

/// The domain that the certificate covers.
const DOMAIN: &str = "r1.example.com";
/// The backend that the peers dial by plain routing.
const ROUTED: &str = "198.18.0.2";

/// Four servers, ready. Everything goes with this guard.
pub(super) struct Scene {
    /// The client in the internet.
    pub(super) client: Client,
    /// edge first.
    pub(super) servers: Vec<Server>,
    _peers: Peers,
    _backends: [Backend; 2],
    _tenant: Tenant,
    _wire: Wire,
    _routed: NetNs,
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

        let routed = NetNs::new("routed");
        let own = format!("{ROUTED}/24");
        let wire = Wire::new(&lab.machine, "plain0", &["198.18.0.1/24"], &routed, "eth0", &[&own]);
        routed.ip(&["route", "add", "default", "via", "198.18.0.1"]);
        let backends = [Backend::start(&tenant.netns)?, Backend::start(&routed)?];
        let backend = SocketAddr::new(ROUTED.parse()?, Backend::PORT);

        let peers = on(cpu::SERVER, || Peers::start(&lab.machine, files.path(), backend))?;
        let client = Client::new(&lab.internet, &files.path().join("ca.pem"))?;
        let target = |port| {
            let address = SocketAddr::new(Lab::PUBLIC.parse()?, port);
            Target::new(address, &host)
        };
        let mut lab = lab;
        let edge = Server { name: "edge", target: target(443)?, pid: lab.edge.daemon().pid() };
        let mut servers = vec![edge];
        for peer in Peer::ALL {
            let target = target(peer.port())?;
            wait_for(peer.name(), tests::lab::PATIENCE, || client.reaches(&target).then_some(()));
            servers.push(Server { name: peer.name(), target, pid: peers.pid(peer) });
        }
        Ok(Self {
            client,
            servers,
            _peers: peers,
            _backends: backends,
            _tenant: tenant,
            _wire: wire,
            _routed: routed,
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
    Ok(Lab::new(&["--domain", DOMAIN, "--cert", &cert, "--key", &key]))
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
