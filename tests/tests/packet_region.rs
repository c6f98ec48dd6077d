//! Packets between two machines, on real wires and between real stacks: what `BPF_PROG_TEST_RUN`
//! cannot show is whether the kernel takes what the programs made, in one piece and in segments.

use std::{net::SocketAddr, time::Duration};

use edge_common::verdict::{Hook, Verdict};
use edge_user::datapath::UplinkMode;
use tests::{
    echo::{Echo, round_trip},
    packets::region::{Carriage, Offloads, PUBLICS, Region, inner},
    process::Start,
};

const BYTES: usize = 8 << 20;

fn end(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn containers(name: &str, mode: UplinkMode, offloads: Offloads) {
    for carriage in Carriage::ALL {
        let region = Region::new(name, carriage, mode, offloads);
        let [gateway, host] = &region.machines;
        let [_, to] = inner(2);
        let largest = (carriage.mtu() - 48).to_string();
        for size in ["56", &largest] {
            let ping = ["-6", "-c", "3", "-i", "0.01", "-w", "10", "-M", "do", "-s", size, &to];
            let output = gateway.container.command("ping").args(ping).output_of();
            assert!(
                output.status.success(),
                "{carriage:?}: {output}\n{}\n\n{}",
                gateway.refused(),
                host.refused()
            );
        }
        let _echo = Echo::serve(&host.container, 9000);
        round_trip(&gateway.container, end(&to, 9000), BYTES);
        let sent = gateway.counted(Hook::TcContainer, Verdict::I6pn);
        let came = host.counted(
            Hook::TcUplink,
            if mode == UplinkMode::Tcx { Verdict::I6pn } else { Verdict::Delivered },
        );
        println!("{carriage:?}: sent {sent:?} came {came:?}");
        assert!(sent.1 / sent.0 > 2 * 1500, "{carriage:?}: segments were cut before the wire");
        println!("{}\n\n{}", gateway.refused(), host.refused());
    }
}

#[test]
fn containers_of_two_hosts_reach_each_other() {
    containers("i6pn-tcx", UplinkMode::Tcx, Offloads::All);
}

#[test]
fn containers_of_two_hosts_reach_each_other_through_nics() {
    containers("i6pn-xdp", UplinkMode::Xdp, Offloads::None);
}

fn clients(name: &str, mode: UplinkMode, offloads: Offloads) {
    for carriage in Carriage::ALL {
        let region = Region::new(name, carriage, mode, offloads);
        let [gateway, host] = &region.machines;
        let _echo = Echo::serve(&host.container, 8000);
        for public in PUBLICS {
            round_trip(&region.client, public.parse().expect("an end"), BYTES);
        }
        println!("{carriage:?}\n{}\n\n{}", gateway.refused(), host.refused());
    }
}

#[test]
fn clients_reach_a_container_of_another_host_than_the_gateway() {
    clients("tunnel-tcx", UplinkMode::Tcx, Offloads::All);
}

#[test]
fn segments_that_were_carried_leave_by_a_wire_without_offloads() {
    clients("tunnel-cut", UplinkMode::Tcx, Offloads::Inside);
}

#[test]
fn clients_reach_it_through_nics() {
    clients("tunnel-xdp", UplinkMode::Xdp, Offloads::None);
}

const _: Duration = Duration::ZERO;
