//! A host's tunnels and the gateways that make them public: one of the two may be away.

use std::{path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::lab::{Gateway, Host, Region, until};
use crate::region::{
    bounds::Defaults,
    embedded::Embedded,
    gate::Gate,
    identity::Credentials,
    member::{CallError, Link, Member, join},
    records::Records,
    roster::{About, ContainerRecord},
    store::Store,
    tunnel::{Container, Directory as _, TunnelOptions},
    tunnels::{
        Gateways, Owner, StartError, TunnelRecord, TunnelSettings, Tunnels, fake::FakeSteering,
    },
};

/// A host with tunnels, over a data path that only remembers.
struct Machine {
    host: Host,
    member: Arc<Member>,
    container: Arc<Container>,
    tunnels: Arc<Tunnels<FakeSteering>>,
    shutdown: CancellationToken,
    _leased: tempfile::TempDir,
}

impl Machine {
    async fn new(region: &Region, gateway: &Gateway) -> Self {
        let dir = region.machine();
        let credentials = join(&gateway.token(1).await, &dir).await.unwrap();
        let host = Host::start(&dir, credentials);
        let record = host.container("acme", "web").await;
        host.member.put_container(record.clone()).await.unwrap();
        // From now on by another session of the same machine, which has the container.
        host.member.pause();
        Self::over(host, &dir, record).await
    }

    async fn over(host: Host, dir: &Path, record: ContainerRecord) -> Self {
        let container = Arc::new(Container {
            id: record.id.clone(),
            name: record.name.clone(),
            workspace: record.workspace.clone(),
            ipv4: record.ipv4,
            i6pn: record.i6pn,
        });
        let credentials = Credentials::load(dir).unwrap().unwrap();
        let member = Member::open(dir, credentials, About::default(), [record]).unwrap();
        let member = Arc::new(member);
        member.begin();
        let leased = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open_leased(leased.path()).unwrap());
        let records: Records<TunnelRecord> = Records::new(store, "tunnel/");
        let settings = TunnelSettings {
            domain: String::new(),
            tls_port: 0,
            raw_host: "r5.example.com".to_owned(),
            per_container: 4,
            defaults: Defaults::default(),
        };
        let gateways = Gateways { member: member.clone(), relayed: Box::new(|_| None) };
        let registry = prometheus::Registry::new();
        let steering = Arc::new(FakeSteering::default());
        let tunnels = Tunnels::of_region(steering, gateways, settings, records, &registry);
        let (tunnels, shutdown) = (tunnels.unwrap(), CancellationToken::new());
        let following = tunnels.clone();
        tokio::spawn(following.follow(member.link(), Gate::default(), shutdown.clone()));
        let machine = Self { host, member, container, tunnels, shutdown, _leased: leased };
        machine.connected().await;
        machine
    }

    async fn connected(&self) {
        let there = |link: &Link| matches!(link, Link::Connected { .. });
        until(self.member.link(), "a session", there).await;
    }

    async fn away(&self) {
        let away = |link: &Link| matches!(link, Link::Away { .. });
        until(self.member.link(), "the end of the session", away).await;
    }

    async fn start(&self, port: u32) -> Result<Arc<crate::region::tunnel::Tunnel>, StartError> {
        let options = TunnelOptions { unencrypted: true, ..TunnelOptions::default() };
        self.tunnels.start(&self.container, port, options, Owner::Daemon, None).await
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test]
async fn the_gateways_say_where_a_tunnel_is_and_let_go_of_it() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let machine = Machine::new(&region, &gateway).await;
    let tunnel = machine.start(8000).await.unwrap();
    let known = gateway.public.open.borrow()[&tunnel.id].clone();
    assert_eq!((&known.place.name, known.place.tls_port), (&tunnel.host, tunnel.tls_port));
    assert_eq!(known.place.raw, tunnel.raw);
    assert_eq!(machine.tunnels.by_name(&tunnel.host).unwrap().id, tunnel.id);

    // Other options are another promise, at the same place.
    let options = TunnelOptions { h2: true, ..TunnelOptions::default() };
    machine.tunnels.stop(&machine.container, 9000).await;
    let plain = machine.tunnels.start(&machine.container, 9000, options, Owner::Daemon, None).await;
    assert!(plain.unwrap().raw.is_none());

    assert!(machine.tunnels.stop(&machine.container, 8000).await);
    assert!(tunnel.ended.is_cancelled());
    assert!(!gateway.public.open.borrow().contains_key(&tunnel.id));
    machine.tunnels.container_ended(&machine.container).await;
    assert!(gateway.public.open.borrow().is_empty() && gateway.public.lent().is_empty());
    let error = machine.start(8001).await.unwrap_err();
    assert!(matches!(error, StartError::ContainerEnded(_)), "{error}");
    assert_eq!(machine.host.id(), machine.member.host());
}

#[tokio::test]
async fn what_ended_while_no_gateway_was_there_ends_when_one_is_and_the_rest_stays() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let machine = Machine::new(&region, &gateway).await;
    let (stays, ends) = (machine.start(8000).await.unwrap(), machine.start(8001).await.unwrap());
    let address = gateway.stop().await;
    machine.away().await;
    let error = machine.start(8002).await.unwrap_err();
    assert!(matches!(error, StartError::Region(CallError::Unavailable(_))), "{error}");
    assert!(machine.tunnels.stop(&machine.container, 8001).await);
    assert_eq!(machine.tunnels.list().len(), 1);

    let gateway = region.gateway_at(address).await;
    machine.connected().await;
    let only = |open: &std::collections::BTreeMap<String, _>| {
        open.len() == 1 && open.contains_key(&stays.id)
    };
    let open = until(gateway.public.open.subscribe(), "the end of the other", only).await;
    assert_eq!(open[&stays.id].place.name, stays.host);
    assert!(!stays.ended.is_cancelled() && ends.ended.is_cancelled());
    machine.start(8002).await.unwrap();
}

#[tokio::test]
async fn a_region_that_has_forgotten_a_tunnel_is_told_of_it_again() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let machine = Machine::new(&region, &gateway).await;
    let before = machine.start(8000).await.unwrap();
    // As after so long an absence that the region gave up what the machine held.
    machine.member.pause();
    gateway
        .store
        .delete(&crate::region::roster::tunnel(&machine.container.id, 8000))
        .await
        .unwrap();
    until(gateway.public.open.subscribe(), "its end", |open| open.is_empty()).await;
    machine.member.begin();
    machine.connected().await;
    let open = until(gateway.public.open.subscribe(), "it again", |open| !open.is_empty()).await;
    let (id, now) = open.first_key_value().unwrap();
    assert_ne!(now.place.name, before.host, "the name was let go of");
    let named = || machine.tunnels.by_name(&now.place.name);
    let begun = std::time::Instant::now();
    while named().is_none() && begun.elapsed() < super::lab::SOON {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(&named().unwrap().id, id);
    assert!(before.ended.is_cancelled(), "its clients learn that it is gone");
}
