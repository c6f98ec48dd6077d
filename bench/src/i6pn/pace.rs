//! Packets a second, with frames that the kernel makes (`BPF_F_TEST_XDP_LIVE_FRAMES`): copies of a
//! datagram between the two containers, as it came in where its last machine takes it. Nothing of
//! the containers' own stacks is measured.

use std::{
    cell::Cell,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use tests::{
    lab::PATIENCE,
    netns::NetNs,
    process::{Start as _, wait_for},
    tap::Tap,
};

use super::ways::{Entrance, Way};
use crate::{cpu, empty::Empty};

const FRAMES: u32 = 500_000;
/// What a driver takes off its ring at once.
const BATCH: u32 = 64;
/// Where nobody listens.
const PORT: u16 = 9;
/// What the datagram is known by.
const TEXT: &[u8; 22] = b"one of very many alike";

/// Million packets a second that one CPU carries from a way's entrance into the container; `None`
/// where a way has no machine between.
pub(crate) fn of(way: &Way) -> Result<Option<f64>> {
    let Some(Entrance { netns, interface }) = &way.entrance else { return Ok(None) };
    let tap = Tap::on(netns, interface);
    let to = SocketAddr::new(way.path.bulk.ip(), PORT);
    let frame = wait_for("the datagram", PATIENCE, || {
        // Again and again: the first ones wait for neighbours to be found.
        let sent = way.path.from.enter(|| {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.send_to(TEXT, to))
        });
        let found = Cell::new(None);
        let seen = tap.any(|frame| {
            let is_it = frame.windows(TEXT.len()).any(|window| window == TEXT);
            found.set(is_it.then(|| frame.to_vec()));
            is_it
        });
        (sent.is_ok() && seen).then(|| found.take()).flatten()
    });
    drop(tap);
    count_and_drop(&way.to)?;
    // What is taken away from a frame on its way is there again the next time.
    let program = Empty::renewing(&frame, frame.len())?;
    let elapsed = netns.enter(|| -> Result<_> {
        cpu::pin(cpu::CLIENT)?;
        let ifindex = if_nametoindex(interface.as_str())?;
        let begun = Instant::now();
        program.live_frames(&frame, ifindex, FRAMES, BATCH)?;
        Ok(begun.elapsed())
    })?;
    let arrived = arrived(&way.to)?;
    ensure!(arrived > 0, "no frame arrived");
    Ok(Some(f64::from(arrived) / elapsed.as_secs_f64() / 1e6))
}

/// From zero, in a container.
fn count_and_drop(container: &NetNs) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("drop.nft");
    let text = format!(
        "table netdev pace {{
}}
delete table netdev pace
table netdev pace {{
    counter arrived {{
    }}
    chain in {{
        type filter hook ingress device \"eth0\" priority 0
        udp dport {PORT} counter name arrived drop
    }}
}}
"
    );
    std::fs::write(&script, text)?;
    container.command("nft").arg("-f").arg(&script).output_of().ok();
    Ok(())
}

/// Datagrams that the container has seen.
fn arrived(container: &NetNs) -> Result<u32> {
    let mut command = container.command("nft");
    let text = command.args(["list", "counter", "netdev", "pace", "arrived"]).output_of().ok();
    let mut words = text.stdout.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).context("nft shows no counter")
}
