//! A data path that only remembers what it was told, for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{TunnelSettings, Tunnels};
use crate::region::{
    bounds::Defaults,
    embedded::Embedded,
    ports::Ports,
    records::Records,
    steering::Steering,
    store::Store,
    tunnel::{Container, Tunnel},
};

/// Fails on the spot when it is told nonsense.
#[derive(Default)]
pub(crate) struct FakeSteering {
    /// (container, port) → raw port.
    pub(crate) rows: Mutex<BTreeMap<(String, u16), Option<u16>>>,
    pub(crate) held_by_machine: Mutex<BTreeSet<u16>>,
    pub(crate) fails: AtomicBool,
    /// Of every open and close, in milliseconds.
    pub(crate) delay: AtomicU64,
    pub(crate) opened: AtomicU64,
}

impl FakeSteering {
    async fn take_time(&self) {
        tokio::time::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst))).await;
    }
}

impl Steering for FakeSteering {
    async fn open(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let raw = tunnel.raw.as_ref().map(|raw| raw.port);
        // Half is made before it fails, as it would be in earnest.
        {
            let mut rows = self.rows.lock().unwrap();
            assert!(raw.is_none() || rows.values().all(|used| *used != raw), "{raw:?} given twice");
            let before = rows.insert((tunnel.container.id.clone(), tunnel.port), raw);
            assert!(before.is_none(), "{tunnel:?} opened over another");
        }
        self.take_time().await;
        anyhow::ensure!(!self.fails.load(Ordering::SeqCst), "the table is full");
        Ok(())
    }

    async fn resume(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        self.open(tunnel).await
    }

    async fn close(&self, tunnel: Arc<Tunnel>) -> anyhow::Result<()> {
        assert!(tunnel.ended.is_cancelled(), "its connections were not told first");
        self.take_time().await;
        let row = self.rows.lock().unwrap().remove(&(tunnel.container.id.clone(), tunnel.port));
        assert_eq!(row, Some(tunnel.raw.as_ref().map(|raw| raw.port)), "closed what was not open");
        Ok(())
    }

    fn in_use(&self, port: u16) -> bool {
        self.held_by_machine.lock().unwrap().contains(&port)
    }
}

/// A registry over a fake data path, with raw ports 20000–20031.
pub(crate) struct Region {
    pub(crate) steering: Arc<FakeSteering>,
    pub(crate) tunnels: Arc<Tunnels<FakeSteering>>,
    pub(crate) registry: prometheus::Registry,
    dir: tempfile::TempDir,
}

pub(crate) async fn region(rest: Duration) -> Region {
    region_in(tempfile::tempdir().unwrap(), rest, &BTreeSet::new()).await
}

impl Region {
    /// A daemon that was killed, and the next one before it takes anything up.
    pub(crate) async fn next(self, rest: Duration, lent: &BTreeSet<u16>) -> Self {
        let Self { steering, tunnels, registry, dir } = self;
        drop((steering, tunnels, registry));
        region_in(dir, rest, lent).await
    }
}

async fn region_in(dir: tempfile::TempDir, rest: Duration, lent: &BTreeSet<u16>) -> Region {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
    let records = Records::new(store.clone(), "tunnel/");
    let ports = Ports::open(store, 20000..=20031, rest, lent).await.unwrap();
    let settings = TunnelSettings {
        domain: "edge.localhost".to_owned(),
        tls_port: 8443,
        raw_host: "localhost".to_owned(),
        per_container: 4,
        defaults: Defaults::default(),
    };
    let steering = Arc::new(FakeSteering::default());
    let registry = prometheus::Registry::new();
    let tunnels = Tunnels::new(steering.clone(), ports, settings, records, &registry).unwrap();
    Region { steering, tunnels, registry, dir }
}

pub(crate) fn container(number: u8) -> Arc<Container> {
    Arc::new(Container {
        id: format!("co-{number:012}"),
        name: format!("c{number}"),
        workspace: "main".to_owned(),
        ipv4: Ipv4Addr::new(100, 64, 0, number),
        i6pn: Ipv6Addr::new(0xfdaa, 1, 2, 3, 4, 5, 6, number.into()),
    })
}
