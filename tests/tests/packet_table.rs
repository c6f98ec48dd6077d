//! Every packet table, run natively and through the kernel's programs.

use tests::packets::{
    container,
    run::{self, Kernel},
    uplink,
};

#[test]
fn what_comes_in_by_the_uplink() {
    let cases = [
        uplink::tunnels(),
        uplink::segments(),
        uplink::headers(),
        uplink::forged(),
        uplink::errors(),
        uplink::cut(),
    ];
    run::uplink(&Kernel::load("uplink"), &cases.concat());
}

#[test]
fn what_containers_send() {
    let cases = [
        container::replies(),
        container::connects(),
        container::sources(),
        container::neighbours(),
        container::outside(),
        container::errors(),
    ];
    run::container(&Kernel::load("container"), &cases.concat());
}
