//! The packet parser, the decisions and the rewrites, beside the model. The first byte says where
//! a frame comes from.

use std::sync::LazyLock;

use edge_common::{
    native::{Buckets, Rows},
    verdict::Hook,
};

use crate::{
    differential::{compare_native, scene},
    model::{Host, Ledger},
    packets::scene::{OTHER, SENDER},
};

static SCENE: LazyLock<(Rows, Host)> = LazyLock::new(scene);

pub(super) fn run(bytes: &[u8]) {
    let Some((way, frame)) = bytes.split_first() else { return };
    let (hook, ingress) = match way % 3 {
        0 => (Hook::TcUplink, SENDER),
        1 => (Hook::TcContainer, SENDER),
        _ => (Hook::TcContainer, OTHER.ifindex),
    };
    let (rows, host) = &*SCENE;
    // Nothing came before.
    let rows = Rows { buckets: Buckets::default(), ..rows.clone() };
    let mut ledger = Ledger::default();
    if let Err(difference) = compare_native(&rows, host, &mut ledger, hook, ingress, frame) {
        panic!("{difference}");
    }
}
