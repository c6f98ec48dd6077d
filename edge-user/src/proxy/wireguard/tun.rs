//! A TUN interface: whole segments are cut where they come from the kernel, and merged where they go
//! to it.

use std::{io, net::Ipv4Addr, sync::Arc, time::Instant};

use futures::FutureExt as _;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, Layer, VIRTIO_NET_HDR_LEN};

use super::probe::{Probe, Pulse};

/// Packets after which no more are taken before these are sent.
const BUNCH: usize = 256;
/// Probes that are on their way into the tunnel: a gateway answers many hosts.
const PROBES: usize = 256;
/// The largest packet that the kernel gives in one piece.
const WHOLE: usize = VIRTIO_NET_HDR_LEN + 65_535;
/// What a buffer must have room for so that packets are merged into it: `tun-rs` makes none larger,
/// and counts its header twice.
const ROOM: usize = WHOLE + VIRTIO_NET_HDR_LEN;

/// Both directions, and a third way in.
pub(super) struct Ends {
    /// To the kernel.
    pub(super) to: ToKernel,
    /// From the kernel.
    pub(super) from: FromKernel,
    /// Goes into the tunnel as if the kernel had sent it, and before what it has.
    pub(super) probes: mpsc::Sender<Packet>,
}

/// Packets from the kernel, and probes.
pub(super) struct FromKernel {
    device: Arc<AsyncDevice>,
    probes: mpsc::Receiver<Packet>,
    whole: Vec<u8>,
    slots: Vec<Slot>,
    sizes: Vec<usize>,
}

/// Packets to the kernel. Probes go no further.
pub(super) struct ToKernel {
    device: Arc<AsyncDevice>,
    table: GROTable,
    buffers: Vec<Vec<u8>>,
    probes: mpsc::Sender<Packet>,
    own: Ipv4Addr,
    pulse: Pulse,
}

/// Room for a packet.
struct Slot(Packet);

/// Takes up an interface, or makes it. It stays when this process ends: what is sent to it then
/// goes nowhere. Questions to the machine's own address inside WireGuard are answered, and answers
/// are told to the pulse.
pub(super) fn open(name: &str, mtu: u16, own: Ipv4Addr, pulse: Pulse) -> io::Result<Ends> {
    let builder = DeviceBuilder::new().name(name).mtu(mtu).layer(Layer::L3);
    let device = builder.with(|linux| {
        // A successor takes it up while this one still has it.
        linux.multi_queue(true).offload(true);
    });
    let device = Arc::new(device.build_async()?);
    device.persist()?;
    let (probes, asked) = mpsc::channel(PROBES);
    let (whole, sizes) = (vec![0; WHOLE], vec![0; IDEAL_BATCH_SIZE]);
    let slots = Vec::with_capacity(IDEAL_BATCH_SIZE);
    let (table, buffers) = (GROTable::default(), Vec::new());
    let to =
        ToKernel { device: device.clone(), table, buffers, probes: probes.clone(), own, pulse };
    let from = FromKernel { device, probes: asked, whole, slots, sizes };
    Ok(Ends { to, from, probes })
}

impl ToKernel {
    /// Gives packets to the kernel, merged as GRO would; what it does not take is lost.
    pub(super) async fn deliver(&mut self, packets: &mut Vec<Packet>) {
        packets.retain(|packet| match Probe::read(packet) {
            Some(probe) => {
                self.heard(probe);
                false
            }
            None => true,
        });
        for bunch in packets.chunks(IDEAL_BATCH_SIZE) {
            while self.buffers.len() < bunch.len() {
                self.buffers.push(Vec::with_capacity(ROOM));
            }
            let buffers = &mut self.buffers[..bunch.len()];
            for (buffer, packet) in buffers.iter_mut().zip(bunch) {
                buffer.clear();
                buffer.resize(VIRTIO_NET_HDR_LEN, 0);
                buffer.extend_from_slice(packet);
            }
            let sent = self.device.send_multiple(&mut self.table, buffers, VIRTIO_NET_HDR_LEN);
            if let Err(error) = sent.await {
                tracing::debug!(%error, "the kernel does not take a packet");
            }
        }
        packets.clear();
    }

    fn heard(&self, probe: Probe) {
        if probe.to != self.own {
            return;
        }
        if probe.answers {
            self.pulse.answered(probe.mark, Instant::now());
        } else {
            // Where there is no room the question comes again.
            self.probes.try_send(probe.answer().packet()).ok();
        }
    }
}

impl FromKernel {
    /// Waits until the kernel has packets, and takes what it has, up to a bunch. Safe to cancel:
    /// it waits for nothing once it has one.
    pub(super) async fn receive(
        &mut self,
        pool: &PacketBufPool,
        packets: &mut Vec<Packet<Ip>>,
    ) -> io::Result<()> {
        self.read(pool, packets).await?;
        while packets.len() < BUNCH {
            match self.read(pool, packets).now_or_never() {
                Some(read) => read?,
                None => break,
            }
        }
        Ok(())
    }

    /// One piece.
    async fn read(
        &mut self,
        pool: &PacketBufPool,
        packets: &mut Vec<Packet<Ip>>,
    ) -> io::Result<()> {
        self.slots.resize_with(IDEAL_BATCH_SIZE, || Slot(pool.get()));
        let Self { device, probes, whole, slots, sizes } = self;
        let read = tokio::select! {
            biased;
            Some(probe) = probes.recv() => {
                packets.extend(probe.try_into_ip().ok());
                return Ok(());
            }
            // It waits for the kernel only before it has read.
            read = device.recv_multiple(whole, slots, sizes, 0) => read,
        };
        let count = match read {
            Ok(count) => count,
            // Segments so small that they are more than a batch: nobody needs them.
            Err(error) if error.kind() == io::ErrorKind::Other => {
                tracing::debug!(%error, "a packet cannot be cut");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        packets.extend(slots.drain(..count).zip(&*sizes).filter_map(|(Slot(mut packet), size)| {
            packet.truncate(*size);
            packet.try_into_ip().ok()
        }));
        Ok(())
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Slot {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
