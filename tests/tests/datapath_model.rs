//! The data path's answer is the model's, for packets that nobody thought of.

use std::{env, net::IpAddr, thread};

use edge_common::{
    address::Address,
    decide::Action,
    verdict::{Hook, Verdict},
};
use tests::{
    differential::{self, Generator, Lane, Replay, Tally, reachable},
    edge::long,
    model::{self, Fate, Ledger, Passage},
    netns::NetNs,
    packets::{
        Case, bounds, container,
        damage::Way,
        from_hosts,
        scene::{OTHER, Region, SENDER},
        to_hosts, uplink,
    },
};

/// Runs of the kernel's programs, in all lanes and at all hooks.
const RUNS: u64 = 1_000_000;
/// Each has programs, tables and counters of its own, and a thread; one for each kind of region.
const LANES: u64 = Region::ALL.len() as u64;
const BATCH: usize = 8192;

#[test]
fn packets_are_judged_as_the_model_judges_them() {
    let netns = machine();
    if let Some(replay) = Replay::asked_for() {
        netns.enter(|| replay.check(&mut Lane::new("replay", replay.region)));
        return;
    }
    let seed = env::var("EDGE_SEED").ok();
    let seed: u64 =
        seed.map_or_else(rand::random, |text| text.parse().expect("EDGE_SEED is a number"));
    println!("again: EDGE_SEED={seed} cargo xtask test judged_as_the_model");
    let runs = if long() { 10 * RUNS } else { RUNS } / LANES;
    let tallies = thread::scope(|scope| {
        let lanes: Vec<_> = (0..)
            .zip(Region::ALL)
            .map(|(lane, region)| {
                let netns = &netns;
                scope.spawn(move || netns.enter(|| run(seed.wrapping_add(lane), region, runs)))
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane")).collect::<Vec<_>>()
    });
    for hook in Hook::ALL {
        for verdict in reachable(*hook) {
            let key = (*hook as u32, verdict.label());
            let count: u64 = tallies.iter().filter_map(|tally| tally.get(&key)).sum();
            println!("{:12} {:28} {count:9}", hook.label(), verdict.label());
            // So that a generator that no longer reaches a verdict is found out.
            assert!(count >= 100, "{} came to {} {count} times", hook.label(), verdict.label());
        }
    }
}

/// One lane's share, in batches: each frame from the uplink runs at two hooks.
fn run(seed: u64, region: Region, runs: u64) -> Tally {
    let mut lane = Lane::new(&format!("model-{region:?}"), region);
    let mut tally = Tally::new();
    let [mut from_uplink, mut from_containers] =
        [Way::In, Way::Out].map(|way| Generator::new(seed, way, region));
    let mut done = 0;
    while done < runs {
        let frames: Vec<_> = (0..BATCH).map(|_| (SENDER, from_uplink.frame())).collect();
        lane.run(Hook::XdpUplink, &frames, &mut tally);
        // A few come in by an interface that is no underlay.
        let frames: Vec<_> = (0..)
            .zip(frames)
            .map(|(index, (_, frame))| {
                (if index % 32 == 0 { OTHER.ifindex } else { SENDER }, frame)
            })
            .collect();
        lane.run(Hook::TcUplink, &frames, &mut tally);
        // Mostly from the veth that most of the scene's containers are behind.
        let veth = |index| if index % 8 == 0 { OTHER.ifindex } else { SENDER };
        let frames: Vec<_> =
            (0..BATCH).map(|index| (veth(index), from_containers.frame())).collect();
        lane.run(Hook::TcContainer, &frames, &mut tally);
        done += 3 * BATCH as u64;
    }
    tally
}

/// What the programs do before the daemon has written its settings.
#[test]
fn an_unconfigured_host_is_judged_as_the_model_judges_it() {
    let mut lane = Lane::unconfigured("model-unconfigured");
    let mut tally = Tally::new();
    for (way, hook) in [(Way::In, Hook::TcUplink), (Way::Out, Hook::TcContainer)] {
        let mut generator = Generator::new(1, way, Region::Alone);
        let frames: Vec<_> = (0..BATCH).map(|_| (SENDER, generator.frame())).collect();
        lane.run(hook, &frames, &mut tally);
    }
    assert!(tally.contains_key(&(Hook::TcContainer as u32, Verdict::Unconfigured.label())));
}

/// The model itself is held to what people wrote down, frame by frame.
#[test]
fn the_model_says_what_the_tables_say() {
    for region in Region::ALL {
        let alone = region == Region::Alone;
        // One after the other: what rates let in depends on it.
        let from_uplink = if alone {
            [uplink::all(), bounds::lists(), bounds::rates()].concat()
        } else {
            [from_hosts::all(region), to_hosts::from_clients(region)].concat()
        };
        let from_containers =
            if alone { container::all() } else { to_hosts::from_containers(region) };
        says(region, &from_uplink, &from_containers);
    }
}

fn says(region: Region, from_uplink: &[Case], from_containers: &[Case]) {
    let (_rows, host) = differential::scene(region);
    let reach = usize::MAX;
    let hook = model::Hook { ingress: SENDER, reach, sends: true };
    let is_as = |case: &Case, answer: model::Answer| {
        let name = format!("{region:?}, {}", case.name);
        assert_eq!(answer.verdict, case.verdict, "{name}");
        assert_eq!(answer.largest, case.mtu, "{name}");
        assert!(answer.is_frame(&case.after), "{name}");
        let next_hop = (case.next_hop != Address::default()).then(|| case.next_hop.into());
        let is_as_said = match (answer.fate, case.action, case.receiver) {
            (Fate::Deliver { veth, mac }, Action::Deliver, Some(to)) => {
                (veth, mac) == (to.ifindex, to.mac)
            }
            (Fate::Send { uplink, next_hop: hop }, Action::Send, _) => {
                (uplink, hop.map(IpAddr::V6)) == (case.leaves_by, next_hop)
            }
            (Fate::SendBare { interface }, Action::SendBare, _) => interface == case.leaves_by,
            (Fate::Pass, Action::Pass, _)
            | (Fate::PassToListener, Action::PassToListener, _)
            | (Fate::PassProxied, Action::PassProxied, _)
            | (Fate::Drop, Action::Drop, _)
            | (Fate::Bounce, Action::Bounce, _) => true,
            _ => false,
        };
        assert!(is_as_said, "{name}: {answer:?}");
        assert_eq!(answer.passage == Passage::None, case.tunnel.is_none(), "{name}");
    };
    let mut ledger = Ledger::default();
    for case in from_uplink {
        is_as(case, model::uplink(&host, &mut ledger, &case.frame, hook));
    }
    for case in from_containers {
        is_as(case, model::container(&host, SENDER, &case.frame, reach));
    }
}

/// A namespace that has the interfaces that frames of the scene come in by.
fn machine() -> NetNs {
    let netns = NetNs::new("model");
    let index = OTHER.ifindex.to_string();
    netns.ip(&["link", "add", "other", "index", &index, "type", "veth", "peer", "name", "far"]);
    netns.ip(&["link", "set", "other", "up"]);
    netns
}
