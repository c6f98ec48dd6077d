//! The packet parser, the decisions and the rewrites, beside the model. The first byte says where
//! a frame comes from, and how packets go to other hosts.

use std::sync::LazyLock;

use edge_common::{
    native::{Buckets, Rows},
    verdict::Hook,
};

use crate::{
    differential::{compare_native, scene},
    model::{Host, Ledger},
    packets::scene::{OTHER, Region, SENDER},
};

static SCENES: LazyLock<[(Rows, Host); 4]> = LazyLock::new(|| Region::ALL.map(scene));

pub(super) fn run(bytes: &[u8]) {
    let Some((way, frame)) = bytes.split_first() else { return };
    let (hook, ingress) = match way % 3 {
        0 => (Hook::TcUplink, SENDER),
        1 => (Hook::TcContainer, SENDER),
        _ => (Hook::TcContainer, OTHER.ifindex),
    };
    // XDP's own way is the least of all: it sends nothing.
    let hook = if way / 12 % 2 == 1 && hook == Hook::TcUplink { Hook::XdpUplink } else { hook };
    let (rows, host) = &SCENES[usize::from(way / 3 % 4)];
    // Nothing came before.
    let rows = Rows { buckets: Buckets::default(), ..rows.clone() };
    let mut ledger = Ledger::default();
    if let Err(difference) = compare_native(&rows, host, &mut ledger, hook, ingress, frame) {
        panic!("{difference}");
    }
}
