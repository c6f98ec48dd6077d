//! Every packet table, run natively and through the kernel's programs; then its frames damaged.

use std::{net::Ipv4Addr, time::Duration};

use edge_common::{
    admit::{MAX_SOURCES, Pace},
    decide::{self, Action},
    native::Frame,
    verdict::{Hook, Verdict},
};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tests::packets::{
    Case, bounds, container,
    damage::{self, Way},
    from_hosts,
    kernel::Kernel,
    plan::{icmp, syn, tcp, udp},
    refused, run,
    scene::{self, BY_GATEWAY, CLIENT, GATEWAY, NEIGHBOUR, OWN_PORT_V6, ROUTER, Region, SENDER},
    to_hosts, told, told_of, uplink,
};
use tests::process::wait_for;

/// Bytes of `struct __sk_buff`.
const SKB_LEN: usize = 192;
const TC_ACT_REDIRECT: u32 = 7;
/// Regions of several hosts.
const OTHERS: [Region; 3] = [Region::Geneve, Region::Keyed, Region::Direct];

#[test]
fn what_comes_in_by_the_uplink() {
    run::uplink(&Kernel::load("uplink"), &scene::rows(), &uplink::all());
}

#[test]
fn what_containers_send() {
    run::container(&Kernel::load("container"), &scene::rows(), &container::all());
}

#[test]
fn what_goes_to_other_hosts() {
    for region in OTHERS {
        let (rows, kernel) = (scene::rows_in(region), Kernel::load_in("to-hosts", region));
        run::container(&kernel, &rows, &to_hosts::from_containers(region));
        run::uplink(&kernel, &rows, &to_hosts::from_clients(region));
    }
}

#[test]
fn what_other_hosts_bring() {
    for region in OTHERS {
        let (rows, kernel) = (scene::rows_in(region), Kernel::load_in("from-hosts", region));
        run::uplink(&kernel, &rows, &from_hosts::all(region));
    }
}

#[test]
fn other_hosts_bring_nothing_but_by_the_underlay() {
    for region in OTHERS {
        let mut rows = scene::rows_in(region);
        rows.underlays.clear();
        let kernel = Kernel::load_with("elsewhere", &rows);
        run::uplink(&kernel, &rows, &from_hosts::from_elsewhere(region));
    }
}

/// Native and XDP only: `BPF_PROG_TEST_RUN` makes no skb of several pages.
#[test]
fn a_frame_in_several_buffers() {
    run::jumbo(&Kernel::load("jumbo"), &scene::rows(), &uplink::jumbo());
}

#[test]
fn only_who_is_on_the_list_may_send() {
    run::in_turn("lists", &bounds::lists());
}

#[test]
fn connections_open_as_often_as_the_tunnel_allows() {
    run::in_turn("rates", &bounds::rates());
}

#[test]
fn a_bucket_fills_again() {
    let frame = syn(CLIENT, bounds::QUICK, &[]).build();
    let mut rows = bounds::rows();
    let mut natively = |now| {
        rows.now = now;
        decide::uplink(&mut Frame(frame.clone()), &rows, SENDER).verdict
    };
    assert_eq!(natively(7), Verdict::Tunnel);
    assert_eq!(natively(7 + bounds::TWENTIETH - 1), Verdict::SourceRate);
    assert_eq!(natively(7 + bounds::TWENTIETH), Verdict::Tunnel);
    assert_eq!(natively(7 + 2 * bounds::TWENTIETH - 1), Verdict::SourceRate, "a token too many");

    let kernel = Kernel::load_bounded("refill");
    for hook in [Hook::XdpUplink, Hook::TcUplink] {
        let passed = || kernel.packets(hook, Verdict::Tunnel);
        wait_for("a token to come back", Duration::from_secs(10), || {
            let context = [0; SKB_LEN];
            let context = (hook == Hook::TcUplink).then_some(&context[..]);
            kernel.datapath.test_run(hook, &frame, context, 1).expect("a test run");
            (passed() >= 3).then_some(())
        });
    }
}

/// There are more sources than rows for them: nobody is refused for that, and who comes again and
/// again stays remembered.
#[test]
fn forged_sources_only_push_out_each_other() {
    let kernel = Kernel::load_bounded("forged");
    let run = |source: &str| {
        let frame = syn(source, bounds::PACED[0], &[]).build();
        kernel.datapath.test_run(Hook::XdpUplink, &frame, None, 1).expect("a test run");
    };
    let counted =
        || [Verdict::Tunnel, Verdict::SourceRate].map(|one| kernel.packets(Hook::XdpUplink, one));
    (0..5).for_each(|_| run(CLIENT));
    assert_eq!(counted(), [3, 2]);
    let forged = u64::from(MAX_SOURCES) * 5 / 4;
    let first = u32::from(Ipv4Addr::new(11, 0, 0, 0));
    for number in 0..forged as u32 {
        run(&format!("{}:1000", Ipv4Addr::from(first + number)));
    }
    assert_eq!(counted(), [3 + forged, 2]);
    (0..5).for_each(|_| run(CLIENT));
    assert_eq!(counted(), [3 + forged, 7]);
}

#[test]
fn damaged_frames_from_the_uplink_are_judged_alike_everywhere() {
    alike("damaged-in", Region::Alone, Way::In, uplink::all(), 2048);
}

#[test]
fn damaged_frames_from_containers_are_judged_alike_everywhere() {
    alike("damaged-out", Region::Alone, Way::Out, container::all(), 2048);
}

#[test]
fn damaged_frames_between_hosts_are_judged_alike_everywhere() {
    for region in OTHERS {
        let come = [from_hosts::all(region), to_hosts::from_clients(region)].concat();
        alike("damaged-from", region, Way::In, come, 1024);
        alike("damaged-to", region, Way::Out, to_hosts::from_containers(region), 1024);
    }
}

fn alike(name: &str, region: Region, way: Way, table: Vec<Case>, frames: u32) {
    let (kernel, rows) = (Kernel::load_in(name, region), scene::rows_in(region));
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(frames) });
    runner
        .run(&damage::damaged(table), |frame| {
            run::alike(&kernel, &rows, way, &frame).map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// A sender is told so often, and no more; another sender is told for itself.
#[test]
fn complaints_have_a_bound_for_each_sender() {
    let mut rows = scene::rows();
    rows.settings.complaints = bounds::hourly(3);
    let kernel = Kernel::load_with("complaints", &rows);
    let mut cases = Vec::new();
    for (from, to) in [
        ("[fdaa:0:1:5:1::2]:1", "[fdaa:0:1:5:1::3]:80"),
        ("[fdaa:0:1:5:1::3]:1", "[fdaa:0:1:5:1::2]:80"),
    ] {
        let plan = tcp(from, to);
        cases.extend([1, 2, 3].map(|_| told("told", &plan, Verdict::NoI6pn)));
        cases.extend([4, 5].map(|_| refused("in silence", &plan, Verdict::NoI6pn)));
    }
    run::container(&kernel, &rows, &cases);

    rows.settings.complaints = Pace::default();
    kernel.datapath.configure(&rows.settings).expect("settings");
    let plan = tcp("[fdaa:0:1:5:1::2]:2", "[fdaa:0:1:5:1::3]:80");
    run::container(&kernel, &rows, &[refused("never", &plan, Verdict::NoI6pn)]);
}

/// What the underlay says of a way holds at every hook, for ten minutes, and not for what every
/// host must be able to send.
#[test]
fn a_way_that_is_narrower_than_thought_is_believed_for_a_while() {
    const SECOND: u64 = 1_000_000_000;
    let region = Region::Geneve;
    let around = 20 + 8 + 8;
    let error = |mtu| {
        let carried = udp("10.9.0.1:50000", "10.9.0.2:6081");
        icmp(ROUTER, "10.9.0.1", 3, 4, &carried.quote(8)).mtu(mtu).build()
    };
    let sized = |from: &str, to: &str, bytes: usize| {
        let headers = if from.starts_with('[') { 60 } else { 40 };
        tcp(from, to).payload(&vec![0; bytes - headers])
    };
    for (mtu, limit_v4, limit_v6) in [(1336, 1300, 1300), (1000, 964, 1280), (0, 576, 1280)] {
        let mut rows = scene::rows_in(region);
        rows.now = 7;
        let kernel = Kernel::load_in("narrow", region);
        let learnt = || rows.learnt.lock().expect("what was learnt").get(&GATEWAY).copied();
        assert_eq!(
            decide::uplink(&mut Frame(error(mtu)), &rows, SENDER).verdict,
            Verdict::IcmpError
        );
        let news = learnt().expect("it was learnt");
        assert_eq!((news.until, news.mtu), (7 + 600 * SECOND, limit_v4));
        assert_eq!(mtu.saturating_sub(around).max(576), limit_v4);
        rows.path_mtus.insert(GATEWAY, news);
        let context = [0; SKB_LEN];
        kernel.datapath.test_run(Hook::TcUplink, &error(mtu), Some(&context), 1).expect("a run");
        let mut cases = Vec::new();
        for (from, to, limit) in
            [(BY_GATEWAY, CLIENT, limit_v4), (OWN_PORT_V6, NEIGHBOUR, limit_v6)]
        {
            let [fits, exceeds] = [0, 1].map(|more| sized(from, to, limit as usize + more));
            let too_big = told_of("too big", &exceeds.build(), Verdict::TooBig, limit);
            cases.push(too_big);
            let fate = decide::container(&mut Frame(fits.build()), &rows, SENDER);
            assert_eq!(fate.action, Action::Send, "{mtu}: {fate:?}");
            let output =
                kernel.datapath.test_run(Hook::TcContainer, &fits.build(), Some(&context), 1);
            assert_eq!(output.expect("a run").code, TC_ACT_REDIRECT);
        }
        run::container(&kernel, &rows, &cases);
        rows.now = news.until;
        let again = decide::container(&mut Frame(cases[0].frame.clone()), &rows, SENDER);
        assert_eq!(again.action, Action::Send, "{mtu}: it was believed for longer");
    }
}
