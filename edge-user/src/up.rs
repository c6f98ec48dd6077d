//! `edge up`: gateway, host agent and an embedded store in one process, the region of one machine.

mod adopt;
mod announce;
pub(crate) mod listeners;
pub(crate) mod machine;
mod open_files;

use std::{
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use edge_common::tables::{ListenerRow, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use self::{adopt::Left, machine::Machine};
use crate::{
    admin::{self, AdminService, Lives},
    cli::{Place, UpArgs},
    gateway::{self, Gateway, Limits, authority::Authority, certificates::Certificates},
    host::{
        api,
        containers::Containers,
        dns::{self, DnsSettings},
        netns::NetNs,
        service::Service,
        steering::KernelSteering,
        uplink::{self, Uplink},
        wiring::Wiring,
    },
    metrics::{self, KernelCounters},
    region::{
        addresses::{AddressPlan, Addresses},
        bounds::Defaults,
        embedded::Embedded,
        ports::Ports,
        rest::REST,
        store::Store,
        tunnel::Directory as _,
        tunnels::{TunnelSettings, Tunnels},
        workspaces::Workspaces,
    },
};

/// The one region of a machine, and its one host.
const REGION: u16 = 1;
const HOST: u16 = 1;
/// Bytes of an IP packet where nothing says otherwise.
const MTU: u32 = 1500;
/// How long relayed connections may go on after the daemon was told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
pub async fn run(place: Place, args: UpArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("EDGE_LOG")
                .unwrap_or_else(|_unset| "info".into()),
        )
        .init();
    open_files::raise();
    // First of all, so that a second daemon is told what it is.
    let lock = machine::lock(&place)?;
    let metrics_listener = metrics::bind(args.admin)?;
    // Before anything is touched: what cannot be read is left to the version that wrote it.
    let leased: Arc<dyn Store> = Arc::new(Embedded::open_leased(&place.run_dir())?);
    let outcome = serve(&place, &args, &leased, metrics_listener).await;
    // A daemon that fails to start must not take down what runs without it.
    let stays = !matches!(outcome, Ok(Stop::End)) && !leased.list("container/").await?.is_empty();
    if stays {
        tracing::info!("containers and raw tunnels go on, for the next daemon to take up");
    } else {
        for error in machine::undo(&place).await {
            tracing::warn!(error = format!("{error:#}"), "something of edge stays on the machine");
        }
    }
    drop(lock);
    outcome.map(drop)
}

async fn serve(
    place: &Place,
    args: &UpArgs,
    leased: &Arc<dyn Store>,
    metrics_listener: std::net::TcpListener,
) -> anyhow::Result<Stop> {
    let machine = &Machine::take(place, args)?;
    let registry = prometheus::Registry::new();
    let ready = Arc::new(AtomicBool::new(false));
    registry.register(Box::new(KernelCounters::new(machine.datapath.clone())?))?;
    metrics::serve(metrics_listener, registry.clone(), ready.clone())?;

    let uplinks = find_uplinks(args, machine).await?;
    let mtu = mtu(machine, &uplinks).await?;
    configure(args, machine, mtu)?;

    let state_dir = args.state_dir(&place.instance);
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("{}: the state directory cannot be made", state_dir.display()))?;
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&state_dir)?);
    let left = Left::find(leased, &machine.links, args.ipv4_pool).await?;
    let service_veth = format!("{}service", machine.veth_prefix);
    machine.remove_other_veths(&left.veths(), &service_veth).await?;
    let plan = AddressPlan { pool: args.ipv4_pool, region: REGION, host: HOST, rest: REST };
    let containers = Arc::new(Containers::new(
        Wiring::new(machine.links.clone(), machine.datapath.clone()),
        Addresses::open(store.clone(), plan, &left.addresses()).await?,
        Workspaces::new(store.clone()),
        adopt::container_records(leased),
        machine.veth_prefix.clone(),
        mtu,
    ));
    let run_dir = place.run_dir();
    let service = Service::start(containers.clone(), &machine.links, service_veth, mtu, &run_dir);
    let service = Arc::new(service.await?);

    let public = listeners::addresses(uplinks.iter().flat_map(|uplink| uplink.addresses.clone()));
    let (tls_port, tls) =
        listeners::open("TLS", "--tls-port", &public, args.tls_port, listeners::tls_ports())?;
    let (http_port, http) =
        listeners::open("HTTP", "--http-port", &public, args.http_port, listeners::http_ports())?;
    for address in &public {
        for port in [tls_port, http_port] {
            let row = ListenerRow { kind: ListenerRow::OWN };
            machine.datapath.add_listener(SocketAddr::new(*address, port).into(), row)?;
        }
    }
    let (raw_v4, raw_v6) = listeners::raw()?;
    let namespace = NetNs::current().context("the daemon's own network namespace")?;
    machine.datapath.serve_raw_ports(namespace.as_fd(), [Some(&raw_v4), raw_v6.as_ref()])?;

    let steering = Arc::new(KernelSteering::new(
        machine.datapath.clone(),
        containers.clone(),
        uplinks.clone(),
    ));
    let raw_range = args.raw_ports.first..=args.raw_ports.last;
    let ports = Ports::open(store, raw_range, REST, &left.raw_ports()).await?;
    let settings = TunnelSettings {
        domain: args.domain.clone(),
        tls_port,
        raw_host: raw_host(args, &uplinks),
        per_container: TunnelSettings::PER_CONTAINER,
        defaults: Defaults::laid_down(&args.bounds.asked()).context("--allow")?,
    };
    let records = adopt::tunnel_records(leased);
    let tunnels = Tunnels::new(steering.clone(), ports, settings, records, &registry)?;
    let orphans = left.adopt(&containers, &tunnels).await;
    attach_uplinks(machine, &uplinks)?;
    let (certificates, ca) = certificates(args, &state_dir)?;
    let limits = Limits { half_closed_idle: args.idle_half_closed, ..Limits::default() };
    let gateway_metrics = gateway::metrics::Metrics::new(&registry)?;
    let gateway =
        Gateway::new(tunnels.clone(), service.clone(), certificates, gateway_metrics, limits);

    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    for listener in tls {
        tasks.spawn(gateway.clone().serve_tls(listener, shutdown.clone()));
    }
    for listener in http {
        tasks.spawn(gateway.clone().serve_redirect(listener, shutdown.clone()));
    }
    for listener in std::iter::once(raw_v4).chain(raw_v6) {
        tasks.spawn(gateway.clone().serve_raw(listener, shutdown.clone()));
    }
    let sockets = service.listen().context("DNS and API sockets of the service namespace")?;
    let api_stop = shutdown.clone().cancelled_owned();
    let api = api::serve(sockets.api, containers.clone(), tunnels.clone(), api_stop);
    tasks.spawn(logged("api", api));
    let dns_settings =
        DnsSettings { domain: args.domain.clone(), resolv_conf: "/etc/resolv.conf".into() };
    let public: Vec<IpAddr> = uplinks.iter().flat_map(|uplink| uplink.addresses.clone()).collect();
    let names = tunnels.clone();
    let locate = move |name: &str| names.by_name(name).map(|_tunnel| public.clone());
    let dns_stop = shutdown.clone().cancelled_owned();
    let (udp, tcp) = (sockets.dns_udp, sockets.dns_tcp);
    tasks.spawn(dns::serve(udp, tcp, containers.clone(), locate, dns_settings, dns_stop));

    let status = announce::status(args, &uplinks, tls_port, ca);
    announce::announce(&status, http_port);
    let (tracker, ending) = (TaskTracker::new(), CancellationToken::new());
    let lives = Lives {
        containers,
        tunnels,
        steering,
        // Under the name that all mount namespaces of the machine have in common.
        state_dir: state_dir.canonicalize().unwrap_or(state_dir),
        shutdown: shutdown.clone(),
        ending: ending.clone(),
    };
    service.relink()?;
    for orphan in orphans {
        if lives.relink(&orphan).await {
            tracker.spawn(lives.clone().orphan(orphan, args.lease));
        }
    }
    machine.datapath.settle()?;
    let commands = AdminService { lives, status, tasks: tracker.clone() };
    let socket = admin::bind(&place.socket(), args.group.as_deref())?;
    tasks.spawn(logged("commands", admin::serve(commands, socket)));
    ready.store(true, Ordering::Release);
    println!("ready");

    let stop = stop_signal().await?;
    tracing::info!(?stop, "stopping");
    ready.store(false, Ordering::Release);
    if stop == Stop::End {
        ending.cancel();
    }
    shutdown.cancel();
    tracker.close();
    tracker.wait().await;
    gateway.drain(GRACE).await;
    tasks.close();
    // What does not end by itself ends with the process.
    tokio::time::timeout(GRACE, tasks.wait()).await.ok();
    Ok(stop)
}

async fn logged<E: std::fmt::Display>(
    what: &'static str,
    server: impl Future<Output = Result<(), E>>,
) {
    let span = tracing::info_span!("server", what);
    async {
        match server.await {
            Ok(()) => tracing::debug!("ended"),
            Err(error) => tracing::error!(%error, "ended"),
        }
    }
    .instrument(span)
    .await;
}

async fn find_uplinks(args: &UpArgs, machine: &Machine) -> anyhow::Result<Vec<Uplink>> {
    let mut uplinks = Vec::new();
    for wanted in &args.uplinks {
        let found = uplink::find(&machine.links, wanted, args.datapath, args.ipv4_pool).await?;
        if uplinks.iter().all(|other: &Uplink| other.index != found.index) {
            uplinks.push(found);
        }
    }
    Ok(uplinks)
}

fn attach_uplinks(machine: &Machine, uplinks: &[Uplink]) -> anyhow::Result<()> {
    for uplink in uplinks {
        if let Some(mode) = uplink.mode {
            machine.datapath.attach_uplink(&uplink.name, mode)?;
        }
    }
    Ok(())
}

/// The smallest packet size on the way out: of the uplinks, and of the default route, which
/// ordinary egress takes.
async fn mtu(machine: &Machine, uplinks: &[Uplink]) -> anyhow::Result<u32> {
    let default = machine.links.default_interface().await?;
    let links = machine.links.list().await?;
    let egress = links.iter().filter(|link| Some(link.index) == default).map(|link| link.mtu);
    Ok(uplinks.iter().map(|uplink| uplink.mtu).chain(egress).min().unwrap_or(MTU))
}

fn configure(args: &UpArgs, machine: &Machine, mtu: u32) -> anyhow::Result<()> {
    let private: IpAddr = "fdaa::".parse()?;
    let private_mask: IpAddr = "ffff::".parse()?;
    // A mapped IPv4 mask covers the 96 bits before it, too.
    let [.., last] =
        edge_common::address::Address::from(IpAddr::V4(args.ipv4_pool.netmask())).words;
    machine.datapath.configure(&Settings {
        layout: 0,
        mss_v4: mtu.saturating_sub(40),
        mss_v6: mtu.saturating_sub(60),
        service: IpAddr::V4(api::SERVICE_ADDRESS).into(),
        pool: IpAddr::V4(args.ipv4_pool.network()).into(),
        pool_mask: edge_common::address::Address { words: [u32::MAX, u32::MAX, u32::MAX, last] },
        private: private.into(),
        private_mask: private_mask.into(),
    })?;
    Ok(())
}

fn certificates(
    args: &UpArgs,
    state_dir: &std::path::Path,
) -> anyhow::Result<(Certificates, String)> {
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        return Ok((Certificates::from_files(cert, key, &args.domain)?, String::new()));
    }
    let authority = Authority::open_or_create(&state_dir.join("ca"), &args.domain)?;
    let ca = state_dir.join("ca").join("ca.pem").display().to_string();
    Ok((Certificates::own(authority), ca))
}

/// What clients of raw ports dial. Programs other than browsers do not find *.localhost.
fn raw_host(args: &UpArgs, uplinks: &[Uplink]) -> String {
    if args.domain != "localhost" && !args.domain.ends_with(".localhost") {
        return args.domain.clone();
    }
    let own = uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let public = args.public_addresses.iter().chain(own).find(|address| address.is_ipv4());
    public.map_or_else(|| "localhost".to_owned(), ToString::to_string)
}

/// How the daemon was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// SIGTERM: another daemon follows. What lives stays for it.
    Restart,
    /// SIGINT: everything ends.
    End,
}

async fn stop_signal() -> std::io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Stop::Restart,
        _ = interrupt.recv() => Stop::End,
    })
}
