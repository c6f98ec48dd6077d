//! What Prometheus scrapes, and whether the daemon lives and is ready: on a thread of its own, so
//! that it answers when everything else is busy.

mod daemon;
mod paths;
mod proxies;
mod region;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::Response,
    routing::get,
};
use prometheus::{
    IntCounterVec, IntGaugeVec, Opts, PullingGauge, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    daemon::register as register_daemon, paths::Paths, proxies::Addresses, region::Membership,
};
use crate::{
    datapath::{Datapath, DatapathError, Tally, Whose},
    places::Turnover,
    watched::Watched,
};

/// Connections to the admin address at a time; with one more the oldest goes.
const CONNECTIONS: usize = 64;
/// How long such a connection may last: a scrape takes milliseconds, and who comes again dials
/// again.
const LIFE: Duration = Duration::from_secs(30);

/// What answers `/metrics`, `/livez` and `/readyz` on one socket.
pub struct Exposition {
    /// None once it is served.
    listener: Option<TcpListener>,
    registry: Registry,
    ready: Arc<AtomicBool>,
    leave: CancellationToken,
}

impl Exposition {
    /// Of this registry, which is told as well whether it is ready; not ready yet.
    ///
    /// # Errors
    /// If the registry is another exposition's.
    pub fn new(listener: TcpListener, registry: Registry) -> prometheus::Result<Self> {
        let (ready, leave): (Arc<AtomicBool>, _) = Default::default();
        let asked = ready.clone();
        registry.register(Box::new(PullingGauge::new(
            "edge_ready",
            "Whether clients and commands are served, as /readyz says.",
            Box::new(move || f64::from(u8::from(asked.load(Ordering::Acquire)))),
        )?))?;
        Ok(Self { listener: Some(listener), registry, ready, leave })
    }

    /// Begins to answer, until the process ends or [`Self::leave`].
    ///
    /// # Errors
    /// If the kernel refuses a thread or what it needs.
    pub fn serve(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (registry, ready) = (self.registry.clone(), self.ready.clone());
        let app = Router::new()
            .route("/metrics", get(move || async move { exposition(&registry) }))
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(move || async move { readiness(&ready) }))
            .layer(map_response(one_answer));
        let leave = self.leave.clone().cancelled_owned();
        std::thread::Builder::new().name("edge-metrics".into()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let turnover = Turnover::new(CONNECTIONS, CONNECTIONS);
                let visitors = Visitors { listener, turnover };
                axum::serve(visitors, app).with_graceful_shutdown(leave).await
            });
            if let Err(error) = served {
                tracing::error!(%error, "metrics are no longer served");
            }
        })?;
        Ok(())
    }

    /// Whether clients and commands are served.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Another process answers on the same socket from now on.
    pub fn leave(&self) {
        self.leave.cancel();
    }
}

/// Ends a connection with its first answer: a row of requests sent ahead would keep the one thread
/// busy for longer than others wait.
async fn one_answer(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whoever comes to the admin address: neither a slow reader nor one that says nothing keeps
/// another out.
struct Visitors {
    listener: tokio::net::TcpListener,
    turnover: Turnover<()>,
}

impl axum::serve::Listener for Visitors {
    type Io = Watched<tokio::net::TcpStream, ()>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // It waits out a lack of open files.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        (Watched::passing(stream, LIFE, self.turnover.enter(()), ()), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Opens the admin address, unless an earlier daemon's socket has it.
pub fn bind(address: SocketAddr, inherited: Option<OwnedFd>) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    let inherited = inherited.map(TcpListener::from);
    if let Some(listener) = inherited.filter(|own| own.local_addr().is_ok_and(|at| at == address)) {
        return Ok(listener);
    }
    TcpListener::bind(address).with_context(|| {
        format!("metrics address {address}: cannot be used; choose another with --admin")
    })
}

fn exposition(registry: &Registry) -> (StatusCode, String) {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")),
    }
}

fn readiness(ready: &AtomicBool) -> (StatusCode, &'static str) {
    if ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// The kernel's counters, read when they are scraped.
pub struct KernelCounters {
    datapath: Arc<Datapath>,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    rows: IntGaugeVec,
    workspace_packets: IntCounterVec,
    workspace_bytes: IntCounterVec,
}

/// Labels of what is counted for workspaces. How a packet travels between machines is its path.
const OF_WORKSPACES: [&str; 4] = ["workspace", "path", "hook", "verdict"];
/// What stands for the workspaces for which no counter is left; no workspace has such a name.
const OTHERS: &str = "(others)";

impl KernelCounters {
    /// For the tables of this daemon.
    pub fn new(datapath: Arc<Datapath>) -> prometheus::Result<Self> {
        let labels = &["hook", "verdict"];
        Ok(Self {
            datapath,
            packets: IntCounterVec::new(
                Opts::new(
                    "edge_verdict_packets_total",
                    "Packets by hook and verdict: XDP counts frames, TCX what GRO has merged.",
                ),
                labels,
            )?,
            bytes: IntCounterVec::new(
                Opts::new(
                    "edge_verdict_bytes_total",
                    "Bytes by hook and verdict, link headers included.",
                ),
                labels,
            )?,
            rows: IntGaugeVec::new(
                Opts::new("edge_table_rows", "Rows in the kernel's tables."),
                &["table"],
            )?,
            workspace_packets: IntCounterVec::new(
                Opts::new(
                    "edge_workspace_packets_total",
                    "Packets of each workspace, by path between machines, hook and verdict.",
                ),
                &OF_WORKSPACES,
            )?,
            workspace_bytes: IntCounterVec::new(
                Opts::new(
                    "edge_workspace_bytes_total",
                    "Bytes of each workspace, by path between machines, hook and verdict.",
                ),
                &OF_WORKSPACES,
            )?,
        })
    }

    fn read(&self) -> Result<(), DatapathError> {
        let (sums, tallies) = self.datapath.verdicts_and_tallies()?;
        for (hook, verdict, count) in sums {
            let labels = &[hook.label(), verdict.label()];
            raise(&self.packets.with_label_values(labels), count.packets);
            raise(&self.bytes.with_label_values(labels), count.bytes);
        }
        // Anew each time: workspaces go, and one that comes back begins at zero.
        self.workspace_packets.reset();
        self.workspace_bytes.reset();
        for Tally { whose, lane, hook, verdict, count } in tallies {
            let workspace = match &whose {
                Whose::Workspace(name) => name,
                Whose::Others => OTHERS,
                Whose::Nobody | Whose::Forgotten => continue,
            };
            let labels = [workspace, lane.label(), hook.label(), verdict.label()];
            self.workspace_packets.with_label_values(&labels).inc_by(count.packets);
            self.workspace_bytes.with_label_values(&labels).inc_by(count.bytes);
        }
        Ok(())
    }
}

impl Collector for KernelCounters {
    fn desc(&self) -> Vec<&Desc> {
        let verdicts = [&self.packets, &self.bytes, &self.workspace_packets, &self.workspace_bytes];
        let verdicts = verdicts.into_iter().flat_map(|counter| counter.desc());
        verdicts.chain(self.rows.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Err(error) = self.read() {
            tracing::warn!(%error, "kernel counters cannot be read");
        }
        for (table, rows) in self.datapath.occupancy() {
            self.rows.with_label_values(&[table]).set(i64::try_from(rows).unwrap_or(i64::MAX));
        }
        let verdicts = [&self.packets, &self.bytes, &self.workspace_packets, &self.workspace_bytes];
        let verdicts = verdicts.into_iter().flat_map(Collector::collect);
        verdicts.chain(self.rows.collect()).collect()
    }
}

/// The kernel's counters only rise, as Prometheus's do.
fn raise(counter: &prometheus::IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}
