//! Every packet table, run natively and through the kernel's programs; then its frames damaged.

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tests::packets::{
    Case, container,
    damage::{self, Way},
    run::{self, Kernel},
    uplink,
};

#[test]
fn what_comes_in_by_the_uplink() {
    run::uplink(&Kernel::load("uplink"), &uplink::all());
}

#[test]
fn what_containers_send() {
    run::container(&Kernel::load("container"), &container::all());
}

/// Native and XDP only: `BPF_PROG_TEST_RUN` makes no skb of several pages.
#[test]
fn a_frame_in_several_buffers() {
    run::jumbo(&Kernel::load("jumbo"), &uplink::jumbo());
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
    let kernel = Kernel::load(name);
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2048) });
    runner
        .run(&damage::damaged(table), |frame| {
            run::alike(&kernel, way, &frame).map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
