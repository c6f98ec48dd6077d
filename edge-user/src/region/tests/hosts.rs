//! Hosts of one region: what they see of each other, and what they may not do.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tonic::Code;

use super::lab::{Host, Region, SOON, until};
use crate::region::{
    member::{CallError, Known},
    roster::ContainerRecord,
    tunnel::TunnelOptions,
};

fn raw() -> TunnelOptions {
    TunnelOptions { unencrypted: true, ..TunnelOptions::default() }
}

fn refusal<T: std::fmt::Debug>(called: Result<T, CallError>) -> (Code, String) {
    match called.unwrap_err() {
        CallError::Refused { code, text } => (code, text),
        other => panic!("{other}"),
    }
}

#[tokio::test]
pub(super) async fn hosts_see_each_other_and_who_is_there() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let block = {
        two.connected().await;
        two.member.lease_block().await.unwrap()
    };
    let view = one.sees("the other and its block", |view| {
        view.hosts.get(&two.id()).is_some_and(|host| host.alive && !host.record.blocks.is_empty())
    });
    let view = view.await;
    assert_eq!(view.hosts[&two.id()].record.blocks, [block]);
    assert_eq!(view.hosts[&two.id()].record.about.underlay.len(), 2);
    assert_ne!(view.hosts[&two.id()].record.key, view.hosts[&one.id()].record.key);
    assert_eq!(*view.settings, super::lab::settings());
    two.member.stop().await;
    one.sees("that it has left", |view| !view.hosts[&two.id()].alive).await;
    let back = Host::again(&two.dir);
    let view = one.sees("it back", |view| view.hosts[&two.id()].alive).await;
    assert_eq!(back.id(), two.id());
    assert_eq!(view.hosts[&two.id()].record.blocks, [block], "it has what it had");
}

#[tokio::test]
pub(super) async fn a_host_is_told_of_the_workspaces_that_it_runs() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let mine = one.container("acme", "web").await;
    one.member.put_container(mine.clone()).await.unwrap();
    let secret = two.container("other", "db").await;
    two.member.put_container(secret.clone()).await.unwrap();
    let friend = two.container("acme", "db").await;
    assert_eq!(two.member.put_container(friend.clone()).await.unwrap(), Known::Now);
    let view = one.sees("its peer", |view| view.containers.contains_key(&friend.id)).await;
    assert!(!view.containers.contains_key(&secret.id), "another workspace is none of its business");
    assert_eq!(*view.containers[&friend.id], friend);
    // With a container of the workspace comes all of it; without, nothing.
    let second = ContainerRecord { id: "co-second".into(), ..one.container("other", "web").await };
    one.member.put_container(second.clone()).await.unwrap();
    one.sees("the other workspace", |view| view.containers.contains_key(&secret.id)).await;
    one.member.delete_container(&second.id).await.unwrap();
    one.sees("its own alone", |view| !view.containers.contains_key(&secret.id)).await;
}

#[tokio::test]
pub(super) async fn a_host_cannot_write_for_another() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let web = one.container("acme", "web").await;
    one.member.put_container(web.clone()).await.unwrap();
    let own = two.container("acme", "two").await;

    let forged = ContainerRecord { host: one.id(), ..own.clone() };
    assert_eq!(refusal(two.member.put_container(forged).await).0, Code::PermissionDenied);
    let forged = ContainerRecord { id: web.id.clone(), ..own.clone() };
    assert_eq!(refusal(two.member.put_container(forged).await).0, Code::PermissionDenied);
    for forged in [
        ContainerRecord { ipv4: web.ipv4, ..own.clone() },
        ContainerRecord { ipv4: Ipv4Addr::new(192, 0, 2, 1), ..own.clone() },
        ContainerRecord { i6pn: web.i6pn, ..own.clone() },
        ContainerRecord { workspace_id: web.workspace_id ^ 1, ..own.clone() },
        ContainerRecord { name: "a/b".into(), ..own.clone() },
    ] {
        let (code, text) = refusal(two.member.put_container(forged).await);
        assert_eq!(code, Code::InvalidArgument, "{text}");
    }
    let taken = ContainerRecord { name: web.name.clone(), ..own.clone() };
    let (code, text) = refusal(two.member.put_container(taken).await);
    assert!(code == Code::AlreadyExists && text.contains("host 1"), "{text}");
    assert_eq!(refusal(two.member.delete_container(&web.id).await).0, Code::PermissionDenied);
    let tunnel = two.member.start_tunnel(&web.id, 80, &raw()).await;
    assert_eq!(refusal(tunnel).0, Code::PermissionDenied);
    let stopped = two.member.stop_tunnel(&web.id, 80).await;
    assert_eq!(refusal(stopped).0, Code::PermissionDenied);
    let block = one.member.view().borrow().hosts[&one.id()].record.blocks[0];
    assert_eq!(refusal(two.member.return_block(block).await).0, Code::PermissionDenied);
    let (code, text) = refusal(one.member.return_block(block).await);
    assert!(code == Code::FailedPrecondition && text.contains("web"), "{text}");
    assert!(one.member.view().borrow().containers.contains_key(&web.id));
}

#[tokio::test]
pub(super) async fn a_tunnel_is_open_when_the_call_returns_and_closed_when_it_is_stopped() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let host = region.host(&gateway).await;
    let web = host.container("acme", "web").await;
    host.member.put_container(web.clone()).await.unwrap();
    let tunnel = host.member.start_tunnel(&web.id, 80, &raw()).await.unwrap();
    assert_eq!(gateway.public.open.borrow().get(&tunnel.id), Some(&tunnel));
    assert_eq!(host.member.start_tunnel(&web.id, 80, &raw()).await.unwrap(), tunnel);
    host.sees("its tunnel", |view| view.tunnels.contains_key(&tunnel.id)).await;

    let tls = host.member.start_tunnel(&web.id, 80, &TunnelOptions::default()).await.unwrap();
    assert_eq!((&tls.id, &tls.place.name), (&tunnel.id, &tunnel.place.name));
    assert!(tls.place.raw.is_none() && gateway.public.lent().is_empty());
    assert!(host.member.stop_tunnel(&web.id, 80).await.unwrap());
    assert!(!host.member.stop_tunnel(&web.id, 80).await.unwrap());
    assert!(gateway.public.open.borrow().is_empty());

    gateway.public.broken.store(true, Ordering::SeqCst);
    let (_, text) = refusal(host.member.start_tunnel(&web.id, 80, &raw()).await);
    assert!(text.contains("broken"), "{text}");
    assert!(gateway.public.lent().is_empty(), "nothing of the attempt is left");
    gateway.public.broken.store(false, Ordering::SeqCst);
    let options = raw();
    let starts = (1..=10).map(|port| host.member.start_tunnel(&web.id, port, &options));
    futures::future::try_join_all(starts).await.unwrap();
    let (code, _) = refusal(host.member.start_tunnel(&web.id, 80, &raw()).await);
    assert_eq!(code, Code::ResourceExhausted);
    host.member.delete_container(&web.id).await.unwrap();
    until(gateway.public.open.subscribe(), "its tunnels closed", |open| open.is_empty()).await;
}

#[tokio::test]
pub(super) async fn of_two_gateways_that_lend_one_port_at_once_one_lends_another() {
    let region = Region::new();
    let first = region.gateway().await;
    let second = region.gateway_beside(&first).await;
    let gateways = [&first, &second];
    let hosts = [region.host(&first).await, region.host(&second).await];
    let mut webs = Vec::new();
    for host in &hosts {
        let web = host.container("acme", &format!("web{}", host.id())).await;
        host.member.put_container(web.clone()).await.unwrap();
        webs.push(web.id);
    }
    // Each gateway lends the lowest that it knows to be free.
    let options = raw();
    let starts = hosts
        .iter()
        .zip(&webs)
        .flat_map(|(host, web)| (1..=5).map(|port| host.member.start_tunnel(web, port, &options)));
    let tunnels = futures::future::try_join_all(starts).await.unwrap();
    let ports: BTreeSet<_> =
        tunnels.iter().map(|tunnel| tunnel.place.raw.as_ref().unwrap().port).collect();
    assert_eq!(ports.len(), 10, "two tunnels have one port");
    for gateway in gateways {
        until(gateway.public.open.subscribe(), "all open", |open| open.len() == 10).await;
    }

    // One by one, by another promise, and with the container.
    assert!(hosts[0].member.stop_tunnel(&webs[0], 1).await.unwrap());
    hosts[0].member.start_tunnel(&webs[0], 2, &TunnelOptions::default()).await.unwrap();
    let claims = || async { first.store.list("region/raw/").await.unwrap().len() };
    assert_eq!(claims().await, 8);
    for (host, web) in hosts.iter().zip(&webs) {
        host.member.delete_container(web).await.unwrap();
    }
    assert_eq!(claims().await, 0);
    let begun = Instant::now();
    while gateways.iter().any(|gateway| !gateway.public.lent().is_empty()) {
        assert!(begun.elapsed() < SOON, "a port stays lent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
pub(super) async fn a_dead_host_is_out_of_sight_and_takes_everything_back() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let (web, db) = (one.container("acme", "web").await, two.container("acme", "db").await);
    one.member.put_container(web.clone()).await.unwrap();
    two.member.put_container(db.clone()).await.unwrap();
    let tunnel = two.member.start_tunnel(&db.id, 5432, &raw()).await.unwrap();
    one.sees("both", |view| view.containers.len() == 2).await;
    let (dir, id) = (two.dir.clone(), two.id());
    drop(two);
    let view = one.sees("its death", |view| !view.hosts[&id].alive).await;
    assert!(!view.containers.contains_key(&db.id));
    until(gateway.public.open.subscribe(), "its tunnel closed", |open| open.is_empty()).await;
    assert_eq!(gateway.public.lent().len(), 1, "its port is kept for it");
    let taken = ContainerRecord { name: "db".into(), ..one.container("acme", "x").await };
    assert_eq!(refusal(one.member.put_container(taken).await).0, Code::AlreadyExists);
    let block = one.member.lease_block().await.unwrap();
    assert!(!view.hosts[&id].record.blocks.contains(&block));

    let credentials = crate::region::identity::Credentials::load(&dir).unwrap().unwrap();
    let back = crate::region::member::Member::start(&dir, credentials, Default::default()).unwrap();
    // It has gone on running the container, so it says so before anything else.
    assert_eq!(back.put_container(db.clone()).await.unwrap(), Known::Later);
    one.sees("its return", |view| view.containers.contains_key(&db.id)).await;
    let open = until(gateway.public.open.subscribe(), "its tunnel", |open| !open.is_empty()).await;
    assert_eq!(open[&tunnel.id], tunnel, "the same name and port");
    drop(back);

    // After a reboot there is no container any more.
    one.sees("its second death", |view| !view.hosts[&id].alive).await;
    let rebooted = Host::again(&dir);
    rebooted.connected().await;
    let view = one.sees("it back", |view| view.hosts[&id].alive).await;
    assert!(!view.containers.contains_key(&db.id));
    assert!(gateway.public.open.borrow().is_empty() && gateway.public.lent().is_empty());
}
