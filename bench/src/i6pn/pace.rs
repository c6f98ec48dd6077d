//! Packets a second, with frames that the kernel makes (`BPF_F_TEST_XDP_LIVE_FRAMES`): copies of a
//! datagram between the two containers, as it came in where its last machine takes it. Nothing of
//! the containers' own stacks is measured.

use std::{
    cell::Cell,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    time::Instant,
};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use tests::{lab::PATIENCE, process::wait_for, tap::Tap};

use super::ways::{Entrance, Way};
use crate::{arrivals, cpu, empty::Empty};

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
    arrivals::count_and_drop(&way.to, &format!("udp dport {PORT}"))?;
    // What is taken away from a frame on its way is there again the next time.
    let program = Empty::renewing(&frame, frame.len())?;
    let elapsed = netns.enter(|| -> Result<_> {
        cpu::pin(cpu::CLIENT)?;
        let ifindex = if_nametoindex(interface.as_str())?;
        let begun = Instant::now();
        program.live_frames(&frame, ifindex, FRAMES, BATCH)?;
        Ok(begun.elapsed())
    })?;
    let arrived = u32::try_from(arrivals::seen(&way.to)?)?;
    ensure!(arrived > 0, "no frame arrived");
    Ok(Some(f64::from(arrived) / elapsed.as_secs_f64() / 1e6))
}
