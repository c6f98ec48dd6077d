//! A region to test with: gateways over one store, and machines that join.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::region::{
    claims::Terms,
    embedded::Embedded,
    etcd::{Access, Etcd, Server},
    identity::{Authority, Credentials},
    member::{Link, Member, join},
    names,
    registry::{Refusal, Registry},
    roster::{About, Allotted, Carriage, ContainerRecord, RegionSettings, TunnelRecord},
    server::ControlPlane,
    store::Store,
    token::JoinToken,
    tunnel::{RawSocket, TunnelOptions},
    view::View,
};

/// Long enough for a busy machine to keep it, short enough to wait for its end.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// For what happens at once unless it never does.
pub(super) const SOON: Duration = Duration::from_secs(30);

pub(super) const TERMS: Terms = Terms { lease: LEASE, hold: SOON, rest: Duration::from_secs(600) };

/// A gateway.
pub(super) struct Gateway {
    pub(super) plane: Arc<ControlPlane<Public>>,
    pub(super) public: Arc<Public>,
    pub(super) address: SocketAddr,
    pub(super) store: Arc<dyn Store>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

/// A region's place on disk.
pub(super) struct Region {
    pub(super) dir: tempfile::TempDir,
    machines: Mutex<usize>,
    /// Where its state is, if not in a file.
    etcd: Option<Server>,
    terms: Terms,
}

thread_local! {
    /// What the regions of a test that runs on this thread keep their state in.
    static IN_ETCD: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test with regions that have etcd.
pub(super) fn in_etcd(test: fn()) {
    IN_ETCD.set(true);
    test();
}

impl Region {
    pub(super) fn new() -> Self {
        let etcd = IN_ETCD.get().then(Server::start);
        Self { dir: tempfile::tempdir().unwrap(), machines: Mutex::new(0), etcd, terms: TERMS }
    }

    /// One with the patience of real ones.
    pub(super) fn patient() -> Self {
        Self { terms: Terms::default(), ..Self::new() }
    }

    pub(super) fn in_etcd() -> Self {
        Self { etcd: Some(Server::start()), ..Self::new() }
    }

    /// What the state is in.
    pub(super) fn etcd(&mut self) -> &mut Server {
        self.etcd.as_mut().expect("a region in etcd")
    }

    /// The first gateway, at any port.
    pub(super) async fn gateway(&self) -> Gateway {
        self.gateway_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// The gateway, once the one before has let go of the store.
    pub(super) async fn gateway_at(&self, address: SocketAddr) -> Gateway {
        if let Some(server) = &self.etcd {
            let store = Etcd::open(server.place("edge/r5"), &Access::default()).await.unwrap();
            return self.gateway_over(Arc::new(store), address).await;
        }
        let begun = Instant::now();
        let store = loop {
            match Embedded::open(self.dir.path()) {
                Ok(store) => break Arc::new(store),
                Err(error) if begun.elapsed() > SOON => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        self.gateway_over(store, address).await
    }

    /// One more gateway: with a store of its own in etcd, with the first one's in a file.
    pub(super) async fn gateway_beside(&self, first: &Gateway) -> Gateway {
        match &self.etcd {
            Some(_) => self.gateway().await,
            None => self.gateway_over(first.store.clone(), "127.0.0.1:0".parse().unwrap()).await,
        }
    }

    async fn gateway_over(&self, store: Arc<dyn Store>, address: SocketAddr) -> Gateway {
        let authority = Arc::new(Authority::open_or_create(self.dir.path(), "r5").unwrap());
        let (public, shutdown) = (Arc::new(Public::default()), CancellationToken::new());
        let settings = settings();
        let plane = ControlPlane::open(
            store.clone(),
            authority,
            &settings,
            self.terms,
            public.clone(),
            shutdown.clone(),
        );
        let plane = Arc::new(plane.await.unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = plane.clone();
        let serving = tokio::spawn(async move { served.serve(listener).await.unwrap() });
        Gateway { plane, public, address, store, shutdown, serving }
    }

    /// A directory for one more machine.
    pub(super) fn machine(&self) -> PathBuf {
        let mut machines = self.machines.lock().unwrap();
        *machines += 1;
        self.dir.path().join(format!("machine-{machines}"))
    }

    /// One more host.
    pub(super) async fn host(&self, gateway: &Gateway) -> Host {
        let (dir, token) = (self.machine(), gateway.token(1).await);
        let credentials = join(&token, &dir).await.unwrap();
        Host::start(&dir, credentials)
    }
}

impl Gateway {
    pub(super) async fn token(&self, uses: u32) -> JoinToken {
        let endpoints = vec![self.address.to_string()];
        self.plane.create_token(endpoints, Duration::from_secs(600), uses).await.unwrap()
    }

    /// As a daemon that is told to stop.
    pub(super) async fn stop(self) -> SocketAddr {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.address
    }
}

/// A host: a member, and where its credentials are.
pub(super) struct Host {
    pub(super) member: Member,
    pub(super) dir: PathBuf,
}

impl Host {
    pub(super) fn start(dir: &Path, credentials: Credentials) -> Self {
        let member = Member::start(dir, credentials, about(dir)).unwrap();
        Self { member, dir: dir.to_owned() }
    }

    /// The same machine after its death: it knows its credentials, and nothing else.
    pub(super) fn again(dir: &Path) -> Self {
        Self::start(dir, Credentials::load(dir).unwrap().unwrap())
    }

    pub(super) fn id(&self) -> u16 {
        self.member.host()
    }

    pub(super) async fn connected(&self) {
        until(self.member.link(), "a session", |link| matches!(link, Link::Connected { .. })).await;
    }

    pub(super) async fn sees(&self, what: &str, condition: impl Fn(&View) -> bool) -> Arc<View> {
        until(self.member.view(), what, |view| condition(view)).await
    }

    /// A container of this host that the region may take: of a block of its own.
    pub(super) async fn container(&self, workspace: &str, name: &str) -> ContainerRecord {
        self.connected().await;
        let id = self.id();
        if self.member.view().borrow().hosts.get(&id).is_none_or(|own| own.record.blocks.is_empty())
        {
            self.member.lease_block().await.unwrap();
        }
        let view = self.sees("its own block", |view| {
            view.hosts.get(&id).is_some_and(|own| !own.record.blocks.is_empty())
        });
        let block = view.await.hosts[&id].record.blocks[0];
        let workspace_id = self.member.workspace(workspace).await.unwrap();
        let i6pn = 0xfdaa_u128 << 112
            | u128::from(workspace_id) << 80
            | u128::from(settings().number) << 64
            | u128::from(id) << 48
            | u128::from(rand::random::<u32>());
        ContainerRecord {
            id: names::id("co"),
            name: name.to_owned(),
            workspace: workspace.to_owned(),
            workspace_id,
            host: id,
            ipv4: block.hosts().nth(1).unwrap(),
            i6pn: i6pn.into(),
            private: true,
            proxy: None,
        }
    }
}

/// Waits for a condition.
pub(super) async fn until<T: Clone>(
    mut watched: watch::Receiver<T>,
    what: &str,
    condition: impl Fn(&T) -> bool,
) -> T {
    match tokio::time::timeout(SOON, watched.wait_for(|value| condition(value))).await {
        Ok(value) => value.unwrap().clone(),
        Err(_) => panic!("never: {what}"),
    }
}

pub(super) fn settings() -> RegionSettings {
    RegionSettings {
        region: "r5".into(),
        number: 5,
        domain: "r5.example.com".into(),
        ipv4_pool: "100.64.0.0/16".parse().unwrap(),
        mtu: 1420,
        raw_host: "r5.example.com".into(),
        raw_ports: (20000, 20009),
        keys: vec![u64::MAX, 1],
        carriage: Carriage::Direct,
    }
}

pub(super) fn about(dir: &Path) -> About {
    // Something that tells machines apart.
    let last = dir.to_str().and_then(|dir| dir.bytes().last()).unwrap_or_default();
    About {
        version: "0.1.0".into(),
        underlay: vec![[192, 0, 2, last].into(), "2001:db8::1".parse().unwrap()],
        uplinks: Vec::new(),
        public: Vec::new(),
        control: Vec::new(),
        wireguard: None,
        runs_members: 0,
    }
}

/// The public side of a gateway: ports in a range, and which tunnels are open.
#[derive(Default)]
pub(super) struct Public {
    lent: Mutex<BTreeSet<u16>>,
    pub(super) open: watch::Sender<BTreeMap<String, TunnelRecord>>,
    pub(super) broken: AtomicBool,
}

impl Public {
    pub(super) fn lent(&self) -> BTreeSet<u16> {
        self.lent.lock().unwrap().clone()
    }
}

impl Registry for Public {
    fn allot<'a>(
        &'a self,
        _container: &'a str,
        options: &'a TunnelOptions,
        previous: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, Result<Allotted, Refusal>> {
        Box::pin(async move {
            let (first, last) = settings().raw_ports;
            let mut lent = self.lent.lock().unwrap();
            let kept = previous.and_then(|previous| previous.place.raw.as_ref());
            let raw = match kept {
                _ if !options.unencrypted => None,
                Some(raw) => Some(raw.clone()),
                None => {
                    let free = (first..=last).find(|port| !lent.contains(port));
                    let port = free.ok_or_else(|| Refusal::Exhausted("no raw port".into()))?;
                    lent.insert(port);
                    Some(RawSocket { host: settings().raw_host, port, gateway: 0 })
                }
            };
            let name = match previous {
                Some(previous) => previous.place.name.clone(),
                None => names::tunnel_host(&settings().domain),
            };
            Ok(Allotted { name, tls_port: 443, raw })
        })
    }

    fn adopt<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.lent.lock().unwrap().extend(tunnel.place.raw.as_ref().map(|raw| raw.port));
        })
    }

    fn open(
        &self,
        tunnel: Arc<TunnelRecord>,
        container: Arc<ContainerRecord>,
        _home: Option<About>,
    ) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err(Refusal::Failed("the data path is broken".into()));
            }
            assert_eq!(tunnel.container, container.id);
            self.open.send_modify(|open| {
                assert!(
                    open.insert(tunnel.id.clone(), (*tunnel).clone()).is_none(),
                    "opened twice"
                );
            });
            Ok(())
        })
    }

    /// Its port stays lent: the tunnel that has it gives it back.
    fn lost<'a>(&'a self, _tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn close<'a>(&'a self, tunnel: &'a TunnelRecord) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.open.send_modify(|open| {
                assert!(open.remove(&tunnel.id).is_some(), "closed twice");
            });
        })
    }

    fn release<'a>(
        &'a self,
        tunnel: &'a TunnelRecord,
        successor: Option<&'a TunnelRecord>,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let kept = successor.and_then(|successor| successor.place.raw.as_ref());
            if let Some(raw) = &tunnel.place.raw
                && kept != Some(raw)
            {
                self.lent.lock().unwrap().remove(&raw.port);
            }
        })
    }

    fn ended<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}
