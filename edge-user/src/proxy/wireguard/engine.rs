//! Carries packets between a TUN interface and a UDP socket, encrypted on one side.
//!
//! One task does it all, in bunches: what the kernel has in one piece goes out in one piece, and no
//! packet waits for another task to be woken.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gotatun::{
    packet::PacketBufPool,
    udp::{UdpRecv as _, socket::UdpSocket},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    peers::Peers,
    tun::{FromKernel, ToKernel},
    udp::Sender,
};

/// How often timers are looked at; the shortest of WireGuard's is seconds.
const TICK: Duration = Duration::from_millis(250);
/// Buffers that are kept for the next packets.
const KEPT: usize = 1024;

/// All that it works with.
pub(super) struct Engine {
    /// Who is at the other ends.
    pub(super) peers: Arc<Mutex<Peers>>,
    /// From the kernel.
    pub(super) from: FromKernel,
    /// To it.
    pub(super) to: ToKernel,
    /// To the underlay.
    pub(super) send: Sender,
    /// From it.
    pub(super) receive: UdpSocket,
}

impl Engine {
    /// Runs until the stop, or until the interface is gone.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let from_kernel = PacketBufPool::new(KEPT);
        // The same one.
        let mut from_underlay = from_kernel.clone();
        let mut buffers = Default::default();
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        let (mut arrived, mut opened) = (Vec::new(), Vec::new());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = self.from.receive(&from_kernel, &mut plain) => {
                    if let Err(error) = read {
                        tracing::error!(%error, "a WireGuard interface gives no packets any more");
                        return;
                    }
                    peers(&self.peers).seal(plain.drain(..), &mut sealed);
                }
                read = self.receive.recv_many_from(&mut buffers, &mut from_underlay, &mut arrived) => {
                    if let Err(error) = read {
                        wait_after(&error).await;
                    }
                    peers(&self.peers).open(arrived.drain(..), &mut opened, &mut sealed);
                }
                _ = tick.tick() => peers(&self.peers).tick(&mut sealed),
                () = stop.cancelled() => return,
            }
            self.to.deliver(&mut opened).await;
            self.send.send(&mut sealed).await;
        }
    }
}

/// Not held while anything is waited for.
pub(super) fn peers(peers: &Mutex<Peers>) -> MutexGuard<'_, Peers> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of a socket: memory, or a rule of the machine's.
async fn wait_after(error: &io::Error) {
    tracing::debug!(%error, "WireGuard's socket");
    tokio::time::sleep(TICK).await;
}
