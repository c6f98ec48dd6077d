//! Tests of the registry: the contract call by call, then at random against a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    Owner, StartError,
    fake::{Region, container, region},
};
use crate::region::tunnel::{Container, Directory, Tunnel, TunnelOptions};

fn tls() -> TunnelOptions {
    TunnelOptions::default()
}

fn raw() -> TunnelOptions {
    TunnelOptions { unencrypted: true, ..tls() }
}

fn h2() -> TunnelOptions {
    TunnelOptions { h2: true, ..tls() }
}
const LONG: Duration = Duration::from_secs(600);

fn held_by(connection: &Arc<()>) -> Owner {
    Owner::Connection(Arc::downgrade(connection))
}

impl Region {
    async fn start(
        &self,
        container: &Arc<Container>,
        port: u32,
        options: TunnelOptions,
        connection: &Arc<()>,
    ) -> Result<Arc<Tunnel>, StartError> {
        self.tunnels.start(container, port, options, held_by(connection), None).await
    }

    fn gauge(&self) -> i64 {
        self.tunnels.metrics.tunnels.get()
    }

    fn assert_empty(&self) {
        assert!(self.steering.rows.lock().unwrap().is_empty(), "rows are left");
        assert!(self.tunnels.list().is_empty());
        assert_eq!(self.gauge(), 0);
    }
}

#[tokio::test]
async fn a_tunnel_is_found_while_it_lives() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    let tunnel = region.start(&home, 8000, raw(), &connection).await.unwrap();
    let raw = tunnel.raw.clone().unwrap();
    assert_eq!((raw.host.as_str(), tunnel.tls_port), ("localhost", 8443));
    assert_eq!(region.tunnels.by_name(&tunnel.host.to_uppercase()).unwrap().id, tunnel.id);
    assert_eq!(region.tunnels.by_raw_port(raw.port).unwrap().id, tunnel.id);
    assert_eq!(region.gauge(), 1);

    assert!(region.tunnels.stop(&home, 8000).await);
    assert!(tunnel.ended.is_cancelled());
    assert!(region.tunnels.by_name(&tunnel.host).is_none());
    assert!(region.tunnels.by_raw_port(raw.port).is_none());
    assert!(!region.tunnels.stop(&home, 8000).await);
    region.assert_empty();
    let families = region.registry.gather();
    let start = families.iter().find(|family| family.name() == "edge_tunnel_start_seconds");
    assert_eq!(start.unwrap().get_metric()[0].get_histogram().get_sample_count(), 1);
}

#[tokio::test]
async fn refusals_use_the_words_of_the_contract() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    region.start(&home, 8000, tls(), &connection).await.unwrap();
    for (port, options, words) in [
        (0, tls(), "Invalid port number 0"),
        (65536, tls(), "Invalid port number 65536"),
        (8000, tls(), "Port 8000 is already forwarded"),
        (1, TunnelOptions { h2: true, ..raw() }, "H2 can only be used with encrypted ports"),
    ] {
        let error = region.start(&home, port, options, &connection).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
    region.start(&home, 65535, h2(), &connection).await.unwrap();
    assert!(!region.tunnels.stop(&home, 65536 + 8000).await);
}

#[tokio::test]
async fn a_tunnel_is_taken_over_once_its_owner_is_gone() {
    let (region, home) = (region(LONG).await, container(1));
    let (first, second) = (Arc::new(()), Arc::new(()));
    let began = region.start(&home, 8000, raw(), &first).await.unwrap();
    region.start(&home, 8000, raw(), &second).await.unwrap_err();
    drop(first);
    assert_eq!(region.tunnels.list().len(), 1, "a closed connection alone ends nothing");

    let taken = region.start(&home, 8000, raw(), &second).await.unwrap();
    assert!(Arc::ptr_eq(&began, &taken), "its connections live on");
    region.start(&home, 8000, raw(), &Arc::new(())).await.unwrap_err();

    drop(second);
    let third = Arc::new(());
    taken.stats.connected();
    let tls = region.start(&home, 8000, tls(), &third).await.unwrap();
    assert_eq!((&tls.host, &tls.id, &tls.raw), (&began.host, &began.id, &None));
    assert_eq!(tls.stats.connections.load(Ordering::Relaxed), 1);
    assert!(began.ended.is_cancelled() && !tls.ended.is_cancelled());
    assert!(region.tunnels.by_raw_port(began.raw.as_ref().unwrap().port).is_none());
    drop(third);
    let again = region.start(&home, 8000, raw(), &Arc::new(())).await.unwrap();
    assert_eq!(again.host, began.host);
    assert_ne!(again.raw, began.raw, "the port rests");
    let native = TunnelOptions { native_ipv6: true, ..raw() };
    let native = region.start(&home, 8000, native, &Arc::new(())).await.unwrap();
    assert_eq!(native.raw, again.raw, "both have one");
    assert_eq!(region.gauge(), 1);
}

#[tokio::test]
async fn ports_of_the_daemon_are_held_until_the_container_ends() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    region.tunnels.start(&home, 8000, tls(), Owner::Daemon, None).await.unwrap();
    let error = region.start(&home, 8000, tls(), &connection).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadyForwarded(8000)));
    region.tunnels.container_ended(&home).await;
    region.assert_empty();
    let error = region.start(&home, 8000, tls(), &connection).await.unwrap_err();
    assert!(matches!(error, StartError::ContainerEnded(_)));
}

#[tokio::test]
async fn retries_get_the_same_answer_even_together() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    region.steering.delay.store(20, Ordering::SeqCst);
    let call = |options| {
        let (tunnels, home, owner) = (region.tunnels.clone(), home.clone(), held_by(&connection));
        async move { tunnels.start(&home, 8000, options, owner, Some("key")).await }
    };
    let (one, two) = tokio::join!(call(raw()), call(raw()));
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
    assert_eq!(region.steering.opened.load(Ordering::SeqCst), 1);
    let other = region.start(&home, 8000, raw(), &connection).await;
    assert!(matches!(other, Err(StartError::AlreadyForwarded(8000))), "another call");

    // The retry of a call whose connection broke comes over another one, which is then the owner.
    let again = Arc::new(());
    let retried =
        region.tunnels.start(&home, 8000, raw(), held_by(&again), Some("key")).await.unwrap();
    drop(connection);
    assert_eq!(region.tunnels.list()[0].id, retried.id);
    region.start(&home, 8000, raw(), &Arc::new(())).await.unwrap_err();
}

#[tokio::test]
async fn what_fails_is_rolled_back() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    region.steering.fails.store(true, Ordering::SeqCst);
    let error = region.start(&home, 8000, raw(), &connection).await.unwrap_err();
    assert!(error.to_string().contains("the table is full"), "{error}");
    region.assert_empty();
    region.steering.fails.store(false, Ordering::SeqCst);
    region.start(&home, 8000, raw(), &connection).await.unwrap();
}

#[tokio::test]
async fn bounds_are_named() {
    let (region, connection) = (region(LONG).await, Arc::new(()));
    *region.steering.held_by_machine.lock().unwrap() = (20000..20020).collect();
    let mut ports = BTreeSet::new();
    for number in 0..3 {
        for port in 1..=4 {
            let tunnel = region.start(&container(number), port, raw(), &connection).await.unwrap();
            ports.insert(tunnel.raw.as_ref().unwrap().port);
        }
    }
    assert_eq!(ports, (20020..=20031).collect());
    let error = region.start(&container(0), 5, tls(), &connection).await.unwrap_err();
    assert!(matches!(error, StartError::TooMany(4)));
    let error = region.start(&container(3), 1, raw(), &connection).await.unwrap_err();
    assert!(matches!(error, StartError::Port(_)), "{error}");
    region.start(&container(3), 1, tls(), &connection).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_half_made() {
    let (region, home, connection) = (region(LONG).await, container(1), Arc::new(()));
    region.steering.delay.store(30, Ordering::SeqCst);
    let start = region.start(&home, 8000, raw(), &connection);
    tokio::time::timeout(Duration::from_millis(5), start).await.unwrap_err();
    let stop = region.tunnels.stop(&home, 8000);
    tokio::time::timeout(Duration::from_millis(5), stop).await.unwrap_err();
    region.tunnels.container_ended(&home).await;
    region.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn races_leave_nothing_behind() {
    let region = Arc::new(region(Duration::ZERO).await);
    region.steering.delay.store(1, Ordering::SeqCst);
    for _ in 0..10 {
        let homes: Vec<_> = (0..8).map(container).collect();
        let mut calls = Vec::new();
        for (home, turn) in homes.iter().flat_map(|home| (0..24_u32).map(move |turn| (home, turn)))
        {
            let (region, home, port) = (region.clone(), home.clone(), turn % 3 + 1);
            calls.push(tokio::spawn(async move {
                let options = if turn % 2 == 0 { raw() } else { tls() };
                match turn % 8 {
                    7 => drop(region.tunnels.stop(&home, port).await),
                    // The connection is gone when the call returns: the next takes over.
                    _ => drop(region.start(&home, port, options, &Arc::new(())).await),
                }
                if turn == 20 {
                    region.tunnels.container_ended(&home).await;
                }
            }));
        }
        futures::future::try_join_all(calls).await.unwrap();
        region.assert_empty();
        // As at the end of each container: then nobody holds it, and its id is forgotten.
        drop(homes);
        region.tunnels.container_ended(&container(200)).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Start { home: u8, port: u16, options: TunnelOptions, connection: usize, key: Option<u8> },
    Stop { home: u8, port: u16 },
    End { home: u8 },
    Disconnect { connection: usize },
    Fail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let options = prop_oneof![Just(tls()), Just(raw()), Just(h2())];
    let key = proptest::option::weighted(0.3, 0..3_u8);
    prop_oneof![
        6 => (0..3_u8, 1..7_u16, options, 0..4_usize, key).prop_map(
            |(home, port, options, connection, key)| Step::Start {
                home, port, options, connection, key
            }
        ),
        2 => (0..3_u8, 1..7_u16).prop_map(|(home, port)| Step::Stop { home, port }),
        1 => (0..3_u8).prop_map(|home| Step::End { home }),
        2 => (0..4_usize).prop_map(|connection| Step::Disconnect { connection }),
        1 => proptest::bool::weighted(0.2).prop_map(Step::Fail),
    ]
}

/// What the model knows of a tunnel.
struct Known {
    host: String,
    raw: Option<u16>,
    options: TunnelOptions,
    owner: std::sync::Weak<()>,
    key: Option<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(agrees(steps));
    }
}

async fn agrees(steps: Vec<Step>) {
    let region = region(Duration::ZERO).await;
    let homes: Vec<_> = (0..3).map(container).collect();
    let mut connections: Vec<_> = (0..4).map(|_| Arc::new(())).collect();
    let mut model: BTreeMap<(u8, u16), Known> = BTreeMap::new();
    let (mut ended, mut fails, mut names) = (BTreeSet::new(), false, BTreeSet::new());

    for step in steps {
        match step {
            Step::Start { home, port, options, connection, key } => {
                let owner = Arc::downgrade(&connections[connection]);
                let name = key.map(|key| format!("key {key}"));
                let held = Owner::Connection(owner.clone());
                let outcome = region
                    .tunnels
                    .start(
                        &homes[usize::from(home)],
                        port.into(),
                        options.clone(),
                        held,
                        name.as_deref(),
                    )
                    .await;
                let full = model.keys().filter(|(of, _)| *of == home).count() == 4;
                let known = model.get_mut(&(home, port));
                let retry = known.as_ref().is_some_and(|known| key.is_some() && known.key == key);
                let same = known.as_ref().is_some_and(|known| known.options == options);
                let (host, raw) = match (outcome, known) {
                    (Err(StartError::ContainerEnded(_)), _) => {
                        assert!(ended.contains(&home));
                        continue;
                    }
                    (_, _) if ended.contains(&home) => panic!("started in an ended container"),
                    (Err(StartError::AlreadyForwarded(_)), Some(known)) => {
                        assert!(!retry && known.owner.strong_count() > 0);
                        continue;
                    }
                    (Err(StartError::TooMany(4)), None) => {
                        assert!(full);
                        continue;
                    }
                    (Err(StartError::Steering { .. }), known) => {
                        assert!(fails && !full | known.is_some() && !retry && !same);
                        model.remove(&(home, port));
                        continue;
                    }
                    (Ok(tunnel), Some(known)) => {
                        assert!(retry || known.owner.strong_count() == 0);
                        assert_eq!(tunnel.host, known.host);
                        if retry || same || (options.unencrypted && known.options.unencrypted) {
                            assert_eq!(tunnel.raw.as_ref().map(|raw| raw.port), known.raw);
                        }
                        (tunnel.host.clone(), tunnel.raw.clone())
                    }
                    (Ok(tunnel), None) => {
                        assert!(!full && !fails);
                        assert!(names.insert(tunnel.host.clone()), "a name came twice");
                        (tunnel.host.clone(), tunnel.raw.clone())
                    }
                    (Err(error), _) => panic!("{error}"),
                };
                let options = if retry { model[&(home, port)].options.clone() } else { options };
                assert_eq!(raw.is_some(), options.unencrypted);
                let raw = raw.map(|raw| raw.port);
                model.insert((home, port), Known { host, raw, options, owner, key });
            }
            Step::Stop { home, port } => {
                let existed = region.tunnels.stop(&homes[usize::from(home)], port.into()).await;
                assert_eq!(existed, model.remove(&(home, port)).is_some());
            }
            Step::End { home } => {
                region.tunnels.container_ended(&homes[usize::from(home)]).await;
                model.retain(|(of, _), _| *of != home);
                ended.insert(home);
            }
            Step::Disconnect { connection } => connections[connection] = Arc::new(()),
            Step::Fail(now) => {
                fails = now;
                region.steering.fails.store(now, Ordering::SeqCst);
            }
        }
        let expected: BTreeMap<_, _> = model
            .iter()
            .map(|((home, port), known)| ((homes[usize::from(*home)].id.clone(), *port), known.raw))
            .collect();
        assert_eq!(*region.steering.rows.lock().unwrap(), expected);
        assert_eq!(region.gauge(), i64::try_from(model.len()).unwrap());
        for ((_, port), known) in &model {
            assert_eq!(region.tunnels.by_name(&known.host).unwrap().port, *port);
            if let Some(raw) = known.raw {
                assert_eq!(region.tunnels.by_raw_port(raw).unwrap().host, known.host);
            }
        }
    }
}
