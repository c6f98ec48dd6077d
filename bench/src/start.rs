//! How long does a tunnel's start take, as a program in a container sees it? A raw tunnel over an
//! open connection to the API, while no other tunnel lives and while ten thousand do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edge_user::{
    region::tunnels::TunnelSettings,
    wire::{
        admin::{AttachEvent, AttachRequest, admin_client::AdminClient},
        modal::{TunnelStartRequest, TunnelStopRequest, modal_client_client::ModalClientClient},
    },
};
use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    tenant::Tenant,
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Streaming, transport::Endpoint};

use crate::{
    load::Server,
    machine::Machine,
    report::{Better, Measure, Report},
    summary::{median, percentile},
};

/// Starts in one round.
const STARTS: usize = 200;
/// Tunnels that live meanwhile.
const CROWD: usize = 10_000;
/// Every start takes a port, which then rests for minutes.
const PORTS: &str = "10000-59999";
/// Where the program listens.
const PORT: u16 = 8000;
const API: &str = "http://169.254.20.10:80";

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let alone = Scene::new()?;
    let among = Scene::new()?;
    let crowd = Crowd::gather(&among.lab.edge)?;
    ensure!(among.lab.edge.tunnels().len() == CROWD, "not all tunnels live");
    let mut measures = [
        Measure::new("TunnelStart, p50", "ms", Better::Less),
        Measure::new("TunnelStart, p99", "ms", Better::Less),
    ];
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for (name, scene) in [("no live tunnel", &alone), ("10,000 live tunnels", &among)] {
            let mut times = scene.starts()?;
            measures[0].push(name, median(&times));
            measures[1].push(name, percentile(&mut times, 0.99));
        }
    }
    drop(crowd);
    Ok(Report {
        question: "How long does a tunnel's start take?".to_owned(),
        machine,
        measures: measures.into(),
    })
}

/// A daemon, and a container with a program that listens.
struct Scene {
    _server: Server,
    tenant: Tenant,
    lab: Lab,
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Lab::new(&["--raw-ports", PORTS]);
        let tenant = Tenant::new(&lab.edge, "asker", &[]);
        Ok(Self { _server: Server::start(&tenant.netns, PORT)?, tenant, lab })
    }

    /// Milliseconds of each start.
    fn starts(&self) -> Result<Vec<f64>> {
        self.tenant.netns.enter(|| Runtime::new()?.block_on(starts()))
    }
}

async fn starts() -> Result<Vec<f64>> {
    let channel = Endpoint::from_static(API).connect().await?;
    let mut client = ModalClientClient::new(channel);
    let port = PORT.into();
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let request = TunnelStartRequest { port, unencrypted: true, ..Default::default() };
        let begun = Instant::now();
        client.tunnel_start(request).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        client.tunnel_stop(TunnelStopRequest { port }).await?;
    }
    Ok(times)
}

/// Containers full of tunnels; they go with this guard.
struct Crowd {
    runtime: Option<Runtime>,
    _attached: Vec<Streaming<AttachEvent>>,
    _namespaces: Vec<NetNs>,
}

impl Crowd {
    fn gather(edge: &Edge) -> Result<Self> {
        let runtime = Runtime::new()?;
        let socket = edge.folder().join("run/edge.sock");
        let address = format!("unix://{}", socket.display());
        let mut attached = Vec::new();
        let mut namespaces = Vec::new();
        let mut missing = CROWD;
        while missing > 0 {
            let count = missing.min(TunnelSettings::PER_CONTAINER);
            let netns = NetNs::new("crowd");
            let ports = (PORT..).take(count).map(u32::from).collect();
            let request = AttachRequest {
                workspace: "main".to_owned(),
                netns: netns.path().display().to_string(),
                unencrypted_ports: ports,
                ..Default::default()
            };
            attached.push(runtime.block_on(attach(&address, request, count))?);
            namespaces.push(netns);
            missing -= count;
        }
        Ok(Self { runtime: Some(runtime), _attached: attached, _namespaces: namespaces })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Attaches one namespace and waits for all its tunnels.
async fn attach(
    address: &str,
    request: AttachRequest,
    tunnels: usize,
) -> Result<Streaming<AttachEvent>> {
    let channel = Endpoint::from_shared(address.to_owned())?.connect().await?;
    let mut events = AdminClient::new(channel).attach(request).await?.into_inner();
    // The first tells of the container itself.
    for _ in 0..=tunnels {
        let event = timeout(PATIENCE, events.message()).await.context("no word of a tunnel")?;
        event?.context("the daemon ended the attachment")?;
    }
    Ok(events)
}
