//! Views: random changes, sessions that break, and gateways that restart, until all is quiet.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::lab::{Host, Region};
use crate::region::{
    bounds::Bounds,
    roster::{ContainerRecord, TunnelRecord},
    tunnel::TunnelOptions,
    view::View,
};

/// Whatever happens on the way, in the end each host knows the containers of its workspaces.
#[tokio::test]
pub(super) async fn after_any_history_all_views_agree() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let region = Region::new();
    let mut gateway = Some(region.gateway().await);
    let mut hosts: Vec<Host> = Vec::new();
    for _ in 0..3 {
        hosts.push(region.host(gateway.as_ref().unwrap()).await);
    }
    let workspaces = ["red", "green", "blue"];
    // Made while a gateway is there: blocks and workspaces are known from then on.
    let mut models: Vec<BTreeMap<&str, ContainerRecord>> = Vec::new();
    for host in &hosts {
        let mut model = BTreeMap::new();
        for workspace in workspaces {
            model.insert(workspace, host.container(workspace, "x").await);
        }
        models.push(model);
    }
    let mut expected: BTreeMap<String, ContainerRecord> = BTreeMap::new();
    for step in 0..200 {
        match dice.random_range(0..40) {
            0 => {
                let address = gateway.take().unwrap().stop().await;
                for _ in 0..dice.random_range(0..5) {
                    change(&mut dice, &hosts, &models, &workspaces, &mut expected, step).await;
                }
                gateway = Some(region.gateway_at(address).await);
            }
            1 => {
                // A session that is announced anew.
                let host = hosts.choose(&mut dice).unwrap();
                let version = format!("step {step}");
                host.member
                    .announce(crate::region::roster::About { version, ..Default::default() });
            }
            _ => change(&mut dice, &hosts, &models, &workspaces, &mut expected, step).await,
        }
    }
    for host in &hosts {
        let own = |one: &&ContainerRecord| one.host == host.id();
        let mine: Vec<_> = expected.values().filter(own).map(|one| &one.workspace).collect();
        let concerns = |one: &&ContainerRecord| mine.contains(&&one.workspace);
        let wanted: BTreeMap<_, _> = expected
            .values()
            .filter(concerns)
            .map(|one| (one.id.clone(), Arc::new(one.clone())))
            .collect();
        host.sees("what there is", |view| view.containers == wanted).await;
        assert!(host.member.refused().borrow().is_empty());
    }
}

async fn change(
    dice: &mut StdRng,
    hosts: &[Host],
    models: &[BTreeMap<&str, ContainerRecord>],
    workspaces: &[&str],
    expected: &mut BTreeMap<String, ContainerRecord>,
    step: usize,
) {
    let index = dice.random_range(0..hosts.len());
    let host = &hosts[index];
    let own: Vec<_> =
        expected.values().filter(|one| one.host == host.id()).map(|one| one.id.clone()).collect();
    if let Some(id) = own.choose(dice)
        && dice.random_bool(0.5)
    {
        host.member.delete_container(id).await.unwrap();
        expected.remove(id);
    } else {
        let workspace = workspaces.choose(dice).unwrap();
        let (id, name) =
            (format!("co-{step}-{index}-{}", expected.len()), format!("n{step}-{index}"));
        let name = format!("{name}-{}", dice.random::<u32>());
        let container = ContainerRecord { id, name, ..models[index][workspace].clone() };
        host.member.put_container(container.clone()).await.unwrap();
        expected.insert(container.id.clone(), container);
    }
}

fn container(id: u8, name: u8) -> (String, Arc<ContainerRecord>) {
    let record = ContainerRecord {
        id: format!("co-{id}"),
        name: format!("n{name}"),
        workspace: "acme".into(),
        workspace_id: 1,
        host: 1,
        ipv4: [100, 64, 0, id].into(),
        i6pn: "fdaa::1".parse().unwrap(),
        private: true,
        proxy: None,
    };
    (record.id.clone(), Arc::new(record))
}

fn view() -> impl Strategy<Value = View> {
    let containers = proptest::collection::btree_map(0..6u8, 0..3u8, 0..6);
    let tunnels = proptest::collection::btree_map(0..6u8, 1..4u16, 0..6);
    (any::<u64>(), containers, tunnels).prop_map(|(revision, containers, tunnels)| View {
        revision,
        containers: containers.into_iter().map(|(id, name)| container(id, name)).collect(),
        tunnels: tunnels
            .into_iter()
            .map(|(id, port)| {
                let record = TunnelRecord {
                    id: format!("tu-{id}"),
                    container: "co-1".into(),
                    host: 1,
                    port,
                    options: TunnelOptions {
                        h2: port == 2,
                        proxy_protocol: port == 3,
                        bounds: if port == 1 { Bounds::NONE } else { Bounds::STANDARD },
                        allow: Arc::from(["192.0.2.0/24".parse().unwrap()]),
                        ..TunnelOptions::default()
                    },
                    place: crate::region::roster::Allotted {
                        name: "name".into(),
                        tls_port: 443,
                        raw: None,
                    },
                };
                (record.id.clone(), Arc::new(record))
            })
            .collect(),
        ..View::default()
    })
}

proptest! {
    #[test]
    fn a_difference_leads_from_one_view_to_the_next_over_the_wire(old in view(), new in view()) {
        use crate::region::convert;
        let mut told = old.clone();
        let difference = old.difference(&new);
        let sent = convert::changes(&difference);
        told.apply(convert::read_changes(difference.revision, sent).unwrap());
        prop_assert_eq!(&told, &new);
        prop_assert!(new.difference(&new).is_empty());
        let snapshot = convert::read_snapshot(new.revision, convert::snapshot(&new)).unwrap();
        prop_assert_eq!(snapshot, new);
    }
}
