//! Every packet table, run natively and through the kernel's programs; then its frames damaged.

use std::{net::Ipv4Addr, time::Duration};

use edge_common::{
    admit::MAX_SOURCES,
    decide,
    native::Frame,
    verdict::{Hook, Verdict},
};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tests::packets::{
    Case, bounds, container,
    damage::{self, Way},
    from_hosts,
    kernel::Kernel,
    plan::syn,
    run,
    scene::{self, CLIENT, Region, SENDER},
    to_hosts, uplink,
};
use tests::process::wait_for;

/// Bytes of `struct __sk_buff`.
const SKB_LEN: usize = 192;
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
    alike("damaged-in", Way::In, uplink::all());
}

#[test]
fn damaged_frames_from_containers_are_judged_alike_everywhere() {
    alike("damaged-out", Way::Out, container::all());
}

fn alike(name: &str, way: Way, table: Vec<Case>) {
    let (kernel, rows) = (Kernel::load(name), scene::rows());
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2048) });
    runner
        .run(&damage::damaged(table), |frame| {
            run::alike(&kernel, &rows, way, &frame).map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
