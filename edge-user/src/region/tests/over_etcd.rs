//! The same once more, with the region's state in etcd: each gateway has a store of its own.

use std::{collections::BTreeMap, time::Duration};

use super::{
    convergence, hosts, joining,
    lab::{Host, LEASE, Region, in_etcd, until},
    outages,
};
use crate::region::{member::join, tunnel::TunnelOptions};

macro_rules! once_more {
    ($($file:ident: $($test:ident,)*;)*) => {
        $($(
            #[test]
            #[ignore = "needs etcd; `cargo xtask test` has it"]
            fn $test() {
                in_etcd($file::$test);
            }
        )*)*
    };
}

once_more! {
    convergence:
        after_any_history_all_views_agree,
    ;
    hosts:
        hosts_see_each_other_and_who_is_there,
        a_host_is_told_of_the_workspaces_that_it_runs,
        a_host_cannot_write_for_another,
        a_tunnel_is_open_when_the_call_returns_and_closed_when_it_is_stopped,
        of_two_gateways_that_lend_one_port_at_once_one_lends_another,
        a_dead_host_is_out_of_sight_and_takes_everything_back,
    ;
    joining:
        a_token_makes_one_host,
        a_wrong_an_old_and_an_unknown_token_are_refused_by_name,
        of_many_at_once_as_many_join_as_the_token_allows,
        a_machine_whose_answer_was_lost_gets_the_same_number,
        strangers_and_hosts_of_another_region_are_refused,
        a_certificate_is_renewed_for_the_same_machine_and_key,
        a_forgotten_host_is_refused_and_its_number_and_blocks_come_back_late,
    ;
    outages:
        after_a_time_without_gateway_everything_converges,
        a_name_that_was_taken_meanwhile_is_refused_to_the_second,
        with_one_of_two_gateways_gone_the_other_serves,
        a_gateway_is_a_machine_of_its_region_and_sees_all_of_it,
        a_second_machine_with_a_hosts_key_does_not_share_its_number,
        addresses_are_there_while_no_gateway_is,
    ;
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn etcd_goes_and_comes_back_and_everybody_is_still_there() {
    let mut region = Region::in_etcd();
    let first = region.gateway().await;
    let second = region.gateway_beside(&first).await;
    let endpoints = vec![first.address.to_string(), second.address.to_string()];
    let token = first.plane.create_token(endpoints, Duration::from_secs(600), 1).await.unwrap();
    let dir = region.machine();
    let (one, two) =
        (Host::start(&dir, join(&token, &dir).await.unwrap()), region.host(&second).await);
    let (web, db) = (one.container("acme", "web").await, two.container("acme", "db").await);
    one.member.put_container(web.clone()).await.unwrap();
    two.member.put_container(db.clone()).await.unwrap();
    let later = two.container("acme", "later").await;
    let tunnel = one.member.start_tunnel(&web.id, 80, &TunnelOptions::default()).await.unwrap();
    let all = BTreeMap::from([(tunnel.id.clone(), tunnel)]);
    one.sees("both", |view| view.containers.len() == 2).await;
    until(second.public.open.subscribe(), "the tunnel", |open| *open == all).await;

    region.etcd().kill();
    // Longer than a lease: what is known stays, and so does what is open.
    tokio::time::sleep(LEASE * 2).await;
    assert!(one.member.view().borrow().containers.len() == 2);
    assert!(one.member.view().borrow().hosts.values().all(|host| host.alive));
    assert!(*first.public.open.borrow() == all && *second.public.open.borrow() == all);
    region.etcd().run();

    while two.member.put_container(later.clone()).await.is_err() {}
    one.sees("what is new", |view| {
        view.containers.contains_key(&later.id) && view.hosts.values().all(|host| host.alive)
    })
    .await;
    for gateway in [&first, &second] {
        until(gateway.public.open.subscribe(), "the tunnel", |open| *open == all).await;
    }
}
