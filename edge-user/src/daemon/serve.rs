//! A daemon from its beginning to its end: the order in which its parts are made.

use std::{fs::File, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    adopt::{self, Left},
    announce,
    ending::{Ending, Running, Watch},
    founding,
    ground::{self, Ground},
    handover::{Holdings, predecessor::Door, successor::Predecessor},
    joined::{self, Joined, Way, located, region_part},
    listeners,
    machine::Machine,
    proxies,
    public::PublicSide,
    role::{Orders, Role},
    tunnels::{TunnelBasis, tunnels},
    underlay,
};
use crate::{
    admin::{self, AdminService, Lives},
    cli::{Place, UpArgs},
    host::{
        api,
        containers::Containers,
        dns::{self, DnsSettings},
        launcher::Launcher,
        members::Members,
        service::Service,
        steering::KernelSteering,
        tunnel_rows::TunnelRows,
        uplink::Uplink,
        wiring::Wiring,
    },
    metrics::{self, KernelCounters},
    proxy::{keeper, wireguard::Keys},
    region::{
        addresses::{AddressPlan, Addresses},
        affiliation::Affiliation,
        bounds::Defaults,
        clusters::Clusters,
        embedded::Embedded,
        gate::Gate,
        member::{LeasedAhead, Member},
        rest::REST,
        store::Store,
        tunnel::Directory,
        tunnels::TunnelSettings,
        workspaces::Workspaces,
    },
};

/// The region of a machine that is alone, and its one host.
const REGION: u16 = 1;
const HOST: u16 = 1;

/// Finds tunnels for the relay: those of this machine, or on a gateway those of the region.
pub(super) type Found = Arc<dyn Directory>;

/// What a daemon begins with.
pub(super) struct Begin<'d> {
    /// Its name and its directory.
    pub(super) place: &'d Place,
    /// What was asked for.
    pub(super) orders: &'d Orders,
    /// Keys, names and leases that outlive it.
    pub(super) state_dir: PathBuf,
    /// A host's membership in its region.
    pub(super) member: Option<Arc<Member>>,
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
pub(super) async fn serve(begin: Begin<'_>, mut inherited: Holdings) -> anyhow::Result<Ending> {
    let Begin { place, orders, state_dir, member, open_files, leased, lock, predecessor } = begin;
    let args = &orders.args;
    let operation = &args.operation;
    let mut holdings = Holdings::default();
    if let Some(lock) = &lock {
        holdings.keep("lock", lock)?;
    }
    let scraped = metrics::bind(operation.admin, inherited.take("metrics").next())?;
    holdings.keep("metrics", &scraped)?;
    // Before the machine is touched: it may be of another version.
    let durable = Arc::new(Embedded::open(&state_dir)?);
    let machine = &Machine::take(place, orders)?;
    let registry = prometheus::Registry::new();
    registry.register(Box::new(KernelCounters::new(machine.datapath.clone())?))?;
    let mut exposition = metrics::Exposition::new(scraped, registry.clone())?;
    if predecessor.is_none() {
        exposition.serve()?;
    }

    let uplinks = ground::find_uplinks(args, machine).await?;
    let underlays = underlay::find(orders, machine).await?;
    let stores = vec![leased.clone(), durable.clone()];
    let (store, leased): (Arc<dyn Store>, Arc<dyn Store>) = (durable, leased.clone());
    let public = PublicSide::open(orders, machine, &uplinks, &mut inherited, &mut holdings)?;
    let tls_port = public.as_ref().map_or(0, |public| public.listeners.tls_port);
    let rows = TunnelRows::new(machine.datapath.clone(), uplinks.clone());
    let (shutdown, ending) = (CancellationToken::new(), CancellationToken::new());
    let (tasks, tracker) = (TaskTracker::new(), TaskTracker::new());

    let mut joined = match (&orders.role, member) {
        (Role::Gateway(gateway), _) => {
            let stop = CancellationToken::new();
            let (state_dir, durable) = (&*state_dir, store.clone());
            let (uplinks, rows, raw_host) = (&uplinks, &rows, raw_host(args, &uplinks));
            let underlays_of = &underlays;
            let ground = founding::Ground {
                orders,
                gateway,
                machine,
                state_dir,
                durable,
                leased: &leased,
                uplinks,
                underlays: underlays_of,
                rows,
                tls_port,
                raw_host,
            };
            let founded = ground.found(&mut inherited, &mut holdings, stop.clone()).await?;
            Some(Joined::gateway(founded, underlays, stop)?)
        }
        (Role::Host(_), Some(member)) => {
            Some(Joined::host(member, underlays, &uplinks, machine).await?)
        }
        _ => None,
    };
    if let Some(joined) = &mut joined {
        joined.announce(&uplinks, &Keys::open(&state_dir)?, orders.runs_members());
        // A predecessor has a session of its own, and the control plane's clients.
        if predecessor.is_none() {
            joined.begin(&tasks);
        }
    }
    let mtu = joined::mtu(joined.as_ref(), machine, &uplinks).await?;
    let (region, host) = joined
        .as_ref()
        .map_or((REGION, HOST), |joined| (joined.settings.number, joined.member.host()));
    let plan = AddressPlan { pool: args.ipv4_pool, region, host, rest: REST };
    let left = Left::find(&leased, &machine.links, &plan, args.raw_ports).await?;
    let service_veth = format!("{}service", machine.veth_prefix);
    machine.remove_other_veths(&left.veths(), &service_veth).await?;
    let (addresses, affiliation) = match &joined {
        None => (
            Addresses::open(store.clone(), plan.clone(), &left.addresses()).await?,
            Affiliation::Alone(Workspaces::new(store.clone())),
        ),
        Some(Joined { member, .. }) => {
            let blocks = Arc::new(LeasedAhead::new(member.clone()));
            let lent = left.addresses();
            let addresses = Addresses::over(blocks, store.clone(), plan.clone(), &lent).await?;
            (addresses, Affiliation::Member(member.clone()))
        }
    };
    let members = Members::new(machine.datapath.clone(), host);
    let first = move |known: &_| members.write(known);
    let clusters = Arc::new(match &joined {
        None => Clusters::alone(leased.clone(), host, first),
        Some(joined) => Clusters::of(joined.member.clone(), first),
    });
    for gone in left.gone() {
        clusters.end_member(gone, Some("ended while no daemon ran; start its cluster anew")).await;
        affiliation.delete(gone).await;
    }
    let containers = Arc::new(Containers::new(
        Wiring::new(machine.links.clone(), machine.datapath.clone()),
        addresses,
        affiliation,
        adopt::container_records(&leased),
        machine.veth_prefix.clone(),
        mtu,
        clusters.clone(),
    ));
    let addresses = metrics::Addresses::new(containers.proxies().clone(), host)?;
    registry.register(Box::new(addresses))?;
    registry.register(Box::new(metrics::Paths::new(containers.proxies().clone())?))?;
    metrics::register_daemon(&registry, orders.role.label(), containers.clone())?;
    // A segment has to fit the way in and out, too.
    let segment = uplinks.iter().map(|uplink| uplink.mtu).min().map_or(mtu, |out| out.min(mtu));
    let settings = ground::settings(args, segment, &plan, containers.service_address())?;
    let (settings, underlay) = match &joined {
        None => {
            machine.datapath.configure(&settings)?;
            (settings, None)
        }
        Some(joined) => {
            let underlay = joined.underlay(machine, settings)?;
            let view = joined.member.view().borrow().clone();
            (underlay.settings(&view), Some(underlay))
        }
    };
    let run_dir = place.run_dir();
    let service = Service::start(containers.clone(), &machine.links, service_veth, mtu, &run_dir);
    let service = Arc::new(service.await?);

    let steering = Arc::new(match &orders.role {
        Role::Host(_) => KernelSteering::behind_gateway(rows, containers.clone()),
        Role::Single | Role::Gateway(_) => KernelSteering::public(rows, containers.clone()),
    });
    if let (Role::Host(host), Some(joined)) = (&orders.role, &joined) {
        joined.steer(&steering, Way::new(host.reply, &uplinks)?, &tasks, &shutdown);
    }
    let tunnels = tunnels(
        orders,
        joined.as_ref(),
        &steering,
        TunnelBasis {
            store: store.clone(),
            lent: left.raw_ports(),
            settings: TunnelSettings {
                domain: args.domain.clone(),
                tls_port,
                raw_host: match &joined {
                    None => raw_host(args, &uplinks),
                    Some(joined) => joined.settings.raw_host.clone(),
                },
                per_container: TunnelSettings::PER_CONTAINER,
                defaults: Defaults::laid_down(&args.bounds.asked()).context("--allow")?,
            },
            records: adopt::tunnel_records(&leased),
        },
        &registry,
    )
    .await?;
    let orphans = left.adopt(&containers, &tunnels).await;
    let attached = joined.as_ref().map_or(&[][..], |joined| &joined.underlays);
    let attached = joined::all(&uplinks, attached);
    ground::attach_uplinks(machine, &attached)?;
    let found: Found = match joined.as_ref().and_then(|joined| joined.public.as_ref()) {
        Some(region) => region.tunnels.clone(),
        None => tunnels.clone(),
    };
    let gateway = public
        .as_ref()
        .map(|public| public.gateway(args, &state_dir, &found, &service, &registry, open_files))
        .transpose()?;
    let (gateway, ca) = gateway.unzip();

    let sockets = listeners::service(&service, &mut inherited, &mut holdings)?;
    let socket = place.socket();
    let group = operation.group.as_deref();
    let socket = admin::bind(&socket, group, inherited.take("admin").next())?;
    holdings.keep("admin", &socket)?;
    let door = Door::open(&place.run_dir(), inherited.take("handover").next())?;
    holdings.keep("handover", door.listener())?;
    let (down, downs) = mpsc::channel(1);
    let mut watch = Watch::new(downs)?;
    let gate = Gate::default();
    let (nudge, nudges) = keeper::nudge();
    let lives = Lives {
        containers: containers.clone(),
        tunnels: tunnels.clone(),
        clusters: clusters.clone(),
        steering,
        proxies: nudge.clone(),
        gate: gate.clone(),
        // Under the name that all mount namespaces of the machine have in common.
        state_dir: state_dir.canonicalize().unwrap_or_else(|_absent| state_dir.clone()),
        dns_suffix: operation.dns_suffix.clone(),
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
        if let Some(joined) = &mut joined {
            joined.begin(&tasks);
        }
    }

    // The region is this daemon's.
    machine.datapath.settle()?;
    if let (Some(joined), Some(underlay)) = (&joined, underlay) {
        tasks.spawn(underlay.follow(joined.member.view(), shutdown.clone()));
        let converging = tunnels.clone();
        let link = joined.member.link();
        tasks.spawn(converging.follow(link, gate.clone(), shutdown.clone()));
        let (member, most) = (joined.member.clone(), orders.runs_members());
        let launcher = Launcher::new(member, clusters.clone(), place, most);
        tasks.spawn(launcher.follow(shutdown.clone()));
    }
    tasks.spawn(clusters.follow(shutdown.clone()));
    let proxies = proxies::Ground {
        place,
        orders,
        machine,
        joined: joined.as_ref(),
        uplinks: &uplinks,
        state_dir: &state_dir,
        durable: store,
        containers: containers.clone(),
        host,
    };
    let proxies = proxies.begin((nudge, nudges), &tasks, &shutdown).await?;
    for orphan in adopted {
        tracker.spawn(lives.clone().orphan(orphan, operation.lease));
    }
    let own = public.as_ref().map(|public| public.own.clone()).unwrap_or_default();
    let http_port = public.as_ref().map(|public| public.listeners.http_port);
    if let (Some(public), Some(gateway)) = (public, &gateway) {
        public.listeners.serve(gateway, &tasks, &shutdown);
    }
    let dns_settings = DnsSettings {
        domain: args.domain.clone(),
        suffix: operation.dns_suffix.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let locate = located(found, joined.as_ref(), &uplinks);
    let resolving = CancellationToken::new();
    let dns_stop = resolving.clone().cancelled_owned();
    let (udp, tcp) = (sockets.dns_udp, sockets.dns_tcp);
    tasks.spawn(dns::serve(udp, tcp, containers.clone(), locate, dns_settings, dns_stop));
    let api_stop = shutdown.clone().cancelled_owned();
    let api = api::serve(sockets.api, containers.clone(), tunnels.clone(), gate.clone(), api_stop);
    tasks.spawn(logged("api", api));
    let status = announce::status(orders, joined.as_ref(), &uplinks, tls_port, ca);
    announce::announce(&status, http_port);
    let region = region_part(joined.as_ref(), &attached);
    if let Some(member) = region.member.clone() {
        let sessions = region.gateway.as_ref().map(|gateway| gateway.plane.sessions().clone());
        registry.register(Box::new(metrics::Membership::new(member, sessions)?))?;
    }
    let (region, datapath) = (Arc::new(region), machine.datapath.clone());
    let commands = AdminService { lives, region, datapath, status, tasks: tracker.clone(), down };
    tasks.spawn(logged("commands", admin::serve(commands, proxies, socket)));
    exposition.set_ready(true);
    println!("ready");
    supervisor(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);

    let ground =
        Ground { place, orders, machine, uplinks: attached, settings, own, containers, service };
    let mut running = Running {
        door,
        holdings,
        stores,
        gate,
        ground,
        tunnels,
        membership: joined.map(|joined| (joined.member, joined.stop)),
        shutdown,
        resolving,
        ending,
        lives: tracker,
        tasks,
        gateway,
        exposition,
        successor: None,
        drain: operation.drain,
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

pub(super) async fn logged<E: std::fmt::Display>(
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

/// What clients of raw ports dial. Programs other than browsers do not find *.localhost.
fn raw_host(args: &UpArgs, uplinks: &[Uplink]) -> String {
    if args.domain != "localhost" && !args.domain.ends_with(".localhost") {
        return args.domain.clone();
    }
    let own = uplinks.iter().flat_map(|uplink| &uplink.addresses);
    let public = args.public_addresses.iter().chain(own).find(|address| address.is_ipv4());
    public.map_or_else(|| "localhost".to_owned(), ToString::to_string)
}
