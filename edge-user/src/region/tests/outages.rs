//! Gateways that go and come, and machines that go on meanwhile.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use super::lab::{LEASE, Region, until};
use crate::region::{
    addresses::{AddressPlan, Addresses, Blocks as _},
    embedded::Embedded,
    identity::Credentials,
    member::{CallError, Known, LeasedAhead, Link, Member, join},
    rest::REST,
    roster::{About, Role},
    store::Store,
    tunnel::TunnelOptions,
};

#[tokio::test]
pub(super) async fn after_a_time_without_gateway_everything_converges() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let (web, db) = (one.container("acme", "web").await, two.container("acme", "db").await);
    one.member.put_container(web.clone()).await.unwrap();
    two.member.put_container(db.clone()).await.unwrap();
    let tunnel = one.member.start_tunnel(&web.id, 80, &TunnelOptions::default()).await.unwrap();
    one.sees("both", |view| view.containers.len() == 2 && view.tunnels.len() == 1).await;
    let later = one.container("acme", "later").await;
    let address = gateway.stop().await;

    until(one.member.link(), "the end", |link| matches!(link, Link::Away { .. })).await;
    // Longer than a lease: nobody is thrown out of anybody's view by that.
    tokio::time::sleep(LEASE * 2).await;
    let view = one.member.view().borrow().clone();
    assert!(view.containers.len() == 2 && view.hosts.values().all(|host| host.alive));
    assert!(one.member.lag().unwrap() >= LEASE);
    assert_eq!(one.member.put_container(later.clone()).await.unwrap(), Known::Later);
    assert_eq!(two.member.delete_container(&db.id).await.unwrap(), Known::Later);
    assert_eq!(one.member.workspace("acme").await.unwrap(), web.workspace_id);
    let error = one.member.lease_block().await.unwrap_err();
    assert!(matches!(error, CallError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");

    let gateway = region.gateway_at(address).await;
    let open = until(gateway.public.open.subscribe(), "the tunnel", |open| !open.is_empty()).await;
    assert_eq!(open[&tunnel.id], tunnel);
    let back = |view: &crate::region::view::View| {
        let ids: Vec<_> = view.containers.keys().collect();
        ids.len() == 2
            && view.containers.contains_key(&web.id)
            && view.containers.contains_key(&later.id)
            && view.hosts.values().all(|host| host.alive)
    };
    one.sees("what began and ended meanwhile", back).await;
    one.connected().await;
    assert!(one.member.lag().unwrap() < LEASE);
}

#[tokio::test]
pub(super) async fn a_name_that_was_taken_meanwhile_is_refused_to_the_second() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let (one, two) = (region.host(&gateway).await, region.host(&gateway).await);
    let first = one.container("acme", "web").await;
    let second = two.container("acme", "web").await;
    let address = gateway.stop().await;
    for host in [&one, &two] {
        until(host.member.link(), "the end", |link| matches!(link, Link::Away { .. })).await;
    }
    assert_eq!(one.member.put_container(first.clone()).await.unwrap(), Known::Later);
    assert_eq!(two.member.put_container(second.clone()).await.unwrap(), Known::Later);
    let _gateway = region.gateway_at(address).await;
    one.connected().await;
    two.connected().await;
    let refused: Vec<_> =
        [&one, &two].iter().flat_map(|host| host.member.refused().borrow().clone()).collect();
    assert!(
        matches!(refused.as_slice(), [(_, why)] if why.contains("exists already")),
        "{refused:?}"
    );
}

#[tokio::test]
pub(super) async fn with_one_of_two_gateways_gone_the_other_serves() {
    let region = Region::new();
    let first = region.gateway().await;
    let second = region.gateway_beside(&first).await;
    let endpoints = vec![first.address.to_string(), second.address.to_string()];
    let token = first.plane.create_token(endpoints, Duration::from_secs(600), 2).await.unwrap();
    let dir = region.machine();
    let host = super::lab::Host::start(&dir, join(&token, &dir).await.unwrap());
    host.connected().await;
    let web = host.container("acme", "web").await;
    host.member.put_container(web.clone()).await.unwrap();
    let tunnel = host.member.start_tunnel(&web.id, 80, &TunnelOptions::default()).await.unwrap();
    // A tunnel is open on all gateways, whichever was asked.
    until(second.public.open.subscribe(), "the tunnel", |open| open.contains_key(&tunnel.id)).await;
    let other = second.address.to_string();
    first.stop().await;
    let over = |link: &Link| matches!(link, Link::Connected { gateway, .. } if *gateway == other);
    until(host.member.link(), "the other gateway", over).await;
    assert!(host.member.stop_tunnel(&web.id, 80).await.unwrap());
    assert!(second.public.open.borrow().is_empty());
    let late = join(&token, &region.machine()).await.expect("the second endpoint of the token");
    assert_ne!(late.membership.host, host.id());
}

#[tokio::test]
pub(super) async fn a_gateway_is_a_machine_of_its_region_and_sees_all_of_it() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let host = region.host(&gateway).await;
    let web = host.container("acme", "web").await;
    host.member.put_container(web.clone()).await.unwrap();
    let dir = region.machine();
    let credentials =
        gateway.plane.own_credentials(vec![gateway.address.to_string()]).await.unwrap();
    credentials.save(&dir).unwrap();
    let credentials = Credentials::load(&dir).unwrap().unwrap();
    let own = Member::start(&dir, credentials, About::default()).unwrap();
    until(own.view(), "all of the region", |view| view.containers.contains_key(&web.id)).await;
    let view = host.sees("the gateway", |view| view.hosts.len() == 2).await;
    assert_eq!(view.hosts[&own.host()].record.role, Role::Gateway);
    until(own.link(), "a session", |link| matches!(link, Link::Connected { .. })).await;
    let block = own.lease_block().await.unwrap();
    host.sees("its block", |view| view.hosts[&own.host()].record.blocks == [block]).await;
    // How far each host has followed is known to the gateway.
    assert!(gateway.plane.sessions().lag(host.id()).is_some());
    assert!(gateway.plane.sessions().lag(999).is_none());
}

#[tokio::test]
pub(super) async fn a_second_machine_with_a_hosts_key_does_not_share_its_number() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let host = region.host(&gateway).await;
    host.connected().await;
    let clone = super::lab::Host::again(&host.dir);
    clone.connected().await;
    let replaced =
        |link: &Link| matches!(link, Link::Away { why, .. } if why.contains("one machine only"));
    until(host.member.link(), "one session at a time", replaced).await;
}

#[tokio::test]
pub(super) async fn addresses_are_there_while_no_gateway_is() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let token = gateway.token(1).await;
    let dir = region.machine();
    let member =
        Arc::new(Member::start(&dir, join(&token, &dir).await.unwrap(), About::default()).unwrap());
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&dir).unwrap());
    let (pool, number) = (super::lab::settings().ipv4_pool, super::lab::settings().number);
    let plan = AddressPlan { pool, region: number, host: member.host(), rest: REST };
    until(member.link(), "a session", |link| matches!(link, Link::Connected { .. })).await;
    let blocks = Arc::new(LeasedAhead::new(member.clone()));
    let addresses = Addresses::over(blocks, store, plan, &BTreeSet::new()).await.unwrap();
    let own = |view: &Arc<crate::region::view::View>| {
        view.hosts.get(&member.host()).is_some_and(|own| own.record.blocks.len() == 2)
    };
    let view = until(member.view(), "a spare block", own).await;
    let own = view.hosts[&member.host()].record.blocks.clone();
    let acme = member.workspace("acme").await.unwrap();
    gateway.stop().await;
    until(member.link(), "the end", |link| matches!(link, Link::Away { .. })).await;
    let mut taken = HashSet::new();
    for _ in 0..100 {
        let address = addresses.take(7).await.unwrap().ipv4;
        assert!(own.iter().any(|block| block.contains(&address)) && taken.insert(address));
    }
    // Its next daemon knows as much, without a gateway, and keeps the last block as the spare one.
    drop((addresses, member));
    let credentials = Credentials::load(&dir).unwrap().unwrap();
    let next = Arc::new(Member::start(&dir, credentials, About::default()).unwrap());
    let blocks = LeasedAhead::new(next.clone());
    assert_eq!(blocks.own().await.unwrap(), own[..1]);
    assert_eq!(blocks.lease().await.unwrap(), own[1]);
    assert_eq!(next.view().borrow().settings.number, number);
    assert_eq!(next.workspace("acme").await.unwrap(), acme);
}
