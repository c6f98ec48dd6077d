//! What does one decision cost? Nanoseconds of `BPF_PROG_TEST_RUN` for each hook: a packet that is
//! not ours, which pays one lookup, beside one that a tunnel maps to itself, which pays it all.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Result;
use edge_common::{
    address::Address,
    tables::{Settings, TunnelRow},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::Datapath;
use etherparse::PacketBuilder;

use crate::{
    machine::Machine,
    report::{Better, Measure, Report},
};

const REPEAT: u32 = 500_000;
const PINS: &str = "/sys/fs/bpf/edge/bench";

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let datapath = Datapath::load(Path::new(PINS))?;
    let measured = timed(&datapath, rounds);
    std::fs::remove_dir_all(PINS).ok();
    Ok(Report {
        question: "What does one decision cost?".to_owned(),
        machine,
        measures: vec![measured?],
    })
}

fn timed(datapath: &Datapath, rounds: usize) -> Result<Measure> {
    let public = SocketAddr::from(([192, 0, 2, 10], 20_000));
    let elsewhere = SocketAddr::from(([192, 0, 2, 10], 20_001));
    datapath.configure(&Settings {
        mss_v4: 1460,
        mss_v6: 1440,
        pool: IpAddr::from(Ipv4Addr::new(100, 64, 0, 0)).into(),
        pool_mask: Address {
            words: [u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes([255, 192, 0, 0])],
        },
        private: "fdaa::".parse::<IpAddr>()?.into(),
        private_mask: "ffff::".parse::<IpAddr>()?.into(),
        ..Settings::default()
    })?;
    // A run is fed what the last one left, so the rewrite must lead to itself.
    let row = TunnelRow { container: public.into(), ifindex: 1, ..TunnelRow::default() };
    datapath.add_tunnel(public.into(), row)?;
    let cases = [
        (Hook::XdpUplink, "xdp_uplink: not ours", elsewhere, Verdict::NotOurs),
        (Hook::XdpUplink, "xdp_uplink: into a tunnel", public, Verdict::Tunnel),
        (Hook::TcUplink, "tc_uplink: not ours", elsewhere, Verdict::NotOurs),
        (Hook::TcUplink, "tc_uplink: into a tunnel", public, Verdict::Tunnel),
    ];
    let mut measure = Measure::new("one decision", "ns", Better::Less).apart();
    for _ in 0..rounds {
        for (hook, name, to, verdict) in &cases {
            let before = counted(datapath, *hook, *verdict)?;
            let run = datapath.test_run(*hook, &segment(*to)?, None, REPEAT)?;
            let hits = counted(datapath, *hook, *verdict)? - before;
            anyhow::ensure!(hits == u64::from(REPEAT), "{name}: {hits} hits of {REPEAT} runs");
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
            measure.push(name, run.duration.as_nanos() as f64);
        }
    }
    Ok(measure)
}

fn counted(datapath: &Datapath, hook: Hook, verdict: Verdict) -> Result<u64> {
    let rows = datapath.verdicts()?;
    let found = rows.iter().find(|(at, what, _)| *at == hook && *what == verdict);
    Ok(found.map_or(0, |(.., count)| count.packets))
}

/// A TCP segment of a running connection.
fn segment(to: SocketAddr) -> Result<Vec<u8>> {
    let IpAddr::V4(address) = to.ip() else { anyhow::bail!("{to} is not IPv4") };
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 20], address.octets(), 64)
        .tcp(40_000, to.port(), 1, 1000)
        .ack(1);
    let payload = [0; 64];
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload)?;
    Ok(frame)
}
