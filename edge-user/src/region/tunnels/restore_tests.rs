//! Tunnels that outlive their daemon.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Owner, StartError,
    fake::{Region, container, region},
    record::TunnelRecord,
};
use crate::region::tunnel::{Directory, Tunnel, TunnelOptions};

const LONG: Duration = Duration::from_secs(600);

fn raw() -> TunnelOptions {
    TunnelOptions { unencrypted: true, ..TunnelOptions::default() }
}

fn port_of(tunnel: &Tunnel) -> u16 {
    tunnel.raw.as_ref().unwrap().port
}

async fn records(region: &Region) -> Vec<(String, TunnelRecord)> {
    region.tunnels.records.all().await.unwrap()
}

/// The next daemon, with all that is recorded.
async fn restored(region: Region) -> Region {
    let records = records(&region).await;
    let lent = records.iter().filter_map(|(_, record)| record.raw).collect();
    let next = region.next(LONG, &lent).await;
    for (id, record) in records {
        next.tunnels.restore(&container(1), id, record).await.unwrap();
    }
    next
}

#[tokio::test]
async fn the_next_daemon_has_the_same_tunnels() {
    let region = region(LONG).await;
    let (home, connection) = (container(1), Arc::new(()));
    let held = Owner::Connection(Arc::downgrade(&connection));
    let start = |port, owner, key| region.tunnels.start(&home, port, raw(), owner, key);
    let given = start(8000, Owner::Daemon, None).await.unwrap();
    let called = start(8001, held, Some("key")).await.unwrap();
    let stopped = start(8002, Owner::Daemon, None).await.unwrap();
    assert!(region.tunnels.stop(&home, 8002).await);
    assert_eq!(records(&region).await.len(), 2, "what ended is forgotten");

    let next = restored(region).await;
    for before in [&given, &called] {
        let now = next.tunnels.by_name(&before.host).unwrap();
        assert_eq!((&now.id, now.port, port_of(&now)), (&before.id, before.port, port_of(before)));
        assert_eq!(next.tunnels.by_raw_port(port_of(before)).unwrap().id, before.id);
    }
    assert_eq!(next.tunnels.list().len(), 2);
    assert_eq!(next.tunnels.metrics.tunnels.get(), 2);

    let none = Owner::Connection(std::sync::Weak::new());
    let refused = next.tunnels.start(&home, 8000, raw(), none.clone(), None).await.unwrap_err();
    assert!(matches!(refused, StartError::AlreadyForwarded(8000)), "{refused}");
    let retry = next.tunnels.start(&home, 8001, raw(), none.clone(), Some("key")).await.unwrap();
    assert_eq!(retry.id, called.id, "the same key is the same call");
    let other = next.tunnels.start(&home, 8001, raw(), Owner::Daemon, Some("new")).await.unwrap();
    assert_eq!(other.id, called.id, "its connection is gone, so the next call has it");
    let record = records(&next).await.into_iter().find(|(id, _)| *id == called.id).unwrap().1;
    assert_eq!((record.by_daemon, record.idempotency_key.as_deref()), (true, Some("new")));

    let fresh = next.tunnels.start(&home, 8003, raw(), none, None).await.unwrap();
    let taken = [&given, &called, &stopped].map(|tunnel| port_of(tunnel));
    assert!(!taken.contains(&port_of(&fresh)), "lent or resting");
    next.tunnels.container_ended(&home).await;
    assert!(records(&next).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_taken_up_leaves_nothing() {
    let (region, home) = (region(LONG).await, container(1));
    let tunnel = region.tunnels.start(&home, 8000, raw(), Owner::Daemon, None).await.unwrap();
    let (id, record) = records(&region).await.remove(0);
    let next = region.next(LONG, &BTreeSet::from([port_of(&tunnel)])).await;
    next.steering.fails.store(true, Ordering::SeqCst);
    let error = next.tunnels.restore(&home, id, record).await.unwrap_err();
    assert!(error.to_string().contains("port 8000 could not be made public"), "{error}");
    assert!(next.tunnels.list().is_empty() && records(&next).await.is_empty());
    assert!(next.steering.rows.lock().unwrap().is_empty());
}
