//! A daemon from its beginning to its end: the order in which its parts are made.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    adopt::{self, Left},
    announce,
    ending::{Ending, Running, Watch},
    ground::{self, Ground},
    handover::{Holdings, predecessor::Door, successor::Predecessor},
    listeners::{self, Listeners},
    machine::Machine,
    open_files,
};
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
        uplink::Uplink,
        wiring::Wiring,
    },
    metrics::{self, KernelCounters},
    region::{
        addresses::{AddressPlan, Addresses},
        bounds::Defaults,
        embedded::Embedded,
        gate::Gate,
        ports::Ports,
        rest::REST,
        store::Store,
        tunnel::Directory as _,
        tunnels::{TunnelSettings, Tunnels},
        workspaces::Workspaces,
    },
};

/// The one region of a machine, and its one host.
pub(super) const REGION: u16 = 1;
pub(super) const HOST: u16 = 1;

/// What a daemon begins with.
pub(super) struct Begin<'d> {
    /// Its name and its directory.
    pub(super) place: &'d Place,
    /// What was asked for.
    pub(super) args: &'d UpArgs,
    /// How many files the process may have open.
    pub(super) open_files: u64,
    /// What lives no longer than the machine runs.
    pub(super) leased: &'d Arc<Embedded>,
    /// Says that a daemon of this name runs; let go of when another has it.
    pub(super) lock: &'d mut Option<File>,
    /// Whose place it takes.
    pub(super) predecessor: Option<&'d Predecessor>,
}

/// Builds the daemon, from the kernel half to the commands, and serves until its end.
///
/// # Errors
/// Why it could not begin.
pub(super) async fn serve(
    Begin { place, args, open_files, leased, lock, predecessor }: Begin<'_>,
    mut inherited: Holdings,
) -> anyhow::Result<Ending> {
    let mut holdings = Holdings::default();
    if let Some(lock) = &lock {
        holdings.keep("lock", lock)?;
    }
    let scraped = metrics::bind(args.admin, inherited.take("metrics").next())?;
    holdings.keep("metrics", &scraped)?;
    // Before the machine is touched: it may be of another version.
    let state_dir = args.state_dir(&place.instance);
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("{}: the state directory cannot be made", state_dir.display()))?;
    let durable = Arc::new(Embedded::open(&state_dir)?);
    let machine = &Machine::take(place, args)?;
    let registry = prometheus::Registry::new();
    registry.register(Box::new(KernelCounters::new(machine.datapath.clone())?))?;
    let mut exposition = metrics::Exposition::new(scraped, registry.clone());
    if predecessor.is_none() {
        exposition.serve()?;
    }

    let uplinks = ground::find_uplinks(args, machine).await?;
    let mtu = ground::mtu(machine, &uplinks).await?;
    ground::configure(args, machine, mtu)?;

    let stores = vec![leased.clone(), durable.clone()];
    let (store, leased): (Arc<dyn Store>, Arc<dyn Store>) = (durable, leased.clone());
    let left = Left::find(&leased, &machine.links, args.ipv4_pool, args.raw_ports).await?;
    let service_veth = format!("{}service", machine.veth_prefix);
    machine.remove_other_veths(&left.veths(), &service_veth).await?;
    let plan = AddressPlan { pool: args.ipv4_pool, region: REGION, host: HOST, rest: REST };
    let containers = Arc::new(Containers::new(
        Wiring::new(machine.links.clone(), machine.datapath.clone()),
        Addresses::open(store.clone(), plan, &left.addresses()).await?,
        Workspaces::new(store.clone()),
        adopt::container_records(&leased),
        machine.veth_prefix.clone(),
        mtu,
    ));
    let run_dir = place.run_dir();
    let service = Service::start(containers.clone(), &machine.links, service_veth, mtu, &run_dir);
    let service = Arc::new(service.await?);

    let public = listeners::addresses(uplinks.iter().flat_map(|uplink| uplink.addresses.clone()));
    let listeners = Listeners::open(args, &public, &mut inherited)?;
    listeners.keep(&mut holdings)?;
    let (tls_port, http_port) = (listeners.tls_port, listeners.http_port);
    let ports = [tls_port, http_port];
    let own = public.iter().flat_map(|address| ports.map(|port| SocketAddr::new(*address, port)));
    let own: Vec<_> = own.collect();
    ground::listen(machine, &own)?;
    let namespace = NetNs::current().context("the daemon's own network namespace")?;
    let raw = [Some(&listeners.raw_v4), listeners.raw_v6.as_ref()];
    machine.datapath.serve_raw_ports(namespace.as_fd(), raw)?;

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
    let records = adopt::tunnel_records(&leased);
    let tunnels = Tunnels::new(steering.clone(), ports, settings, records, &registry)?;
    let orphans = left.adopt(&containers, &tunnels).await;
    ground::attach_uplinks(machine, &uplinks)?;
    let (certificates, ca) = certificates(args, &state_dir)?;
    certificates.register(&registry)?;
    let limits = limits(args, open_files);
    let gateway_metrics = gateway::metrics::Metrics::new(&registry)?;
    let gateway =
        Gateway::new(tunnels.clone(), service.clone(), certificates, gateway_metrics, limits);

    let sockets = listeners::service(&service, &mut inherited, &mut holdings)?;
    let socket = place.socket();
    let socket = admin::bind(&socket, args.group.as_deref(), inherited.take("admin").next())?;
    holdings.keep("admin", &socket)?;
    let door = Door::open(&place.run_dir(), inherited.take("handover").next())?;
    holdings.keep("handover", door.listener())?;
    let (down, downs) = mpsc::channel(1);
    let mut watch = Watch::new(downs)?;
    let (shutdown, ending) = (CancellationToken::new(), CancellationToken::new());
    let (tasks, tracker) = (TaskTracker::new(), TaskTracker::new());
    let gate = Gate::default();
    let lives = Lives {
        containers: containers.clone(),
        tunnels: tunnels.clone(),
        steering,
        gate: gate.clone(),
        // Under the name that all mount namespaces of the machine have in common.
        state_dir: state_dir.canonicalize().unwrap_or(state_dir),
        shutdown: shutdown.clone(),
        ending: ending.clone(),
    };
    service.relink()?;
    let mut adopted = Vec::new();
    for orphan in orphans {
        if lives.relink(&orphan).await {
            adopted.push(orphan);
        }
    }
    if let Some(predecessor) = predecessor {
        predecessor.relieve().await?;
        exposition.serve()?;
    }

    // The region is this daemon's.
    machine.datapath.settle()?;
    for orphan in adopted {
        tracker.spawn(lives.clone().orphan(orphan, args.lease));
    }
    listeners.serve(&gateway, &tasks, &shutdown);
    let dns_settings =
        DnsSettings { domain: args.domain.clone(), resolv_conf: "/etc/resolv.conf".into() };
    let public: Vec<IpAddr> = uplinks.iter().flat_map(|uplink| uplink.addresses.clone()).collect();
    let names = tunnels.clone();
    let locate = move |name: &str| names.by_name(name).map(|_tunnel| public.clone());
    let resolving = CancellationToken::new();
    let dns_stop = resolving.clone().cancelled_owned();
    let (udp, tcp) = (sockets.dns_udp, sockets.dns_tcp);
    tasks.spawn(dns::serve(udp, tcp, containers.clone(), locate, dns_settings, dns_stop));
    let api_stop = shutdown.clone().cancelled_owned();
    let api = api::serve(sockets.api, containers.clone(), tunnels.clone(), gate.clone(), api_stop);
    tasks.spawn(logged("api", api));
    let status = announce::status(args, &uplinks, tls_port, ca);
    announce::announce(&status, http_port);
    let commands = AdminService { lives, status, tasks: tracker.clone(), down };
    tasks.spawn(logged("commands", admin::serve(commands, socket)));
    exposition.set_ready(true);
    println!("ready");
    supervisor(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);

    let ground = Ground { place, args, machine, uplinks, mtu, own, containers, service };
    let mut running = Running {
        door,
        holdings,
        stores,
        gate,
        ground,
        tunnels,
        shutdown,
        resolving,
        ending,
        lives: tracker,
        tasks,
        gateway,
        exposition,
        successor: None,
        drain: args.drain,
    };
    let why = running.until(&mut watch).await;
    match &why {
        Ending::TakenOver => drop(lock.take()),
        // All generations of the daemon.
        Ending::ForGood(_) if let Some(predecessor) = predecessor => predecessor.dismiss().await,
        _ => {}
    }
    if lock.is_some() {
        supervisor(&[NotifyState::Stopping]);
    }
    running.end(&why, &mut watch).await;
    Ok(why)
}

/// Tells systemd, if it started this process or an earlier one.
fn supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not told");
    }
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

fn limits(args: &UpArgs, open_files: u64) -> Limits {
    let room = usize::try_from(open_files::connections(open_files)).unwrap_or(usize::MAX);
    let connections = args.total_connections.map_or(room, |wanted| wanted.min(room)).max(1);
    // A quarter leaves the others to those who have finished. Each may hold a hello's 64 KiB.
    let handshakes = args.unfinished_handshakes.unwrap_or((connections / 4).min(4096)).max(2);
    Limits {
        hello: args.handshake_deadline,
        half_closed_idle: args.idle_half_closed,
        connections,
        handshakes,
        ..Limits::default()
    }
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
