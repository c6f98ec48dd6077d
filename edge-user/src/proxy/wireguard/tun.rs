//! A TUN interface as `gotatun` wants one: whole segments are cut where they come from the kernel,
//! and merged where they go to it.

use std::{io, net::Ipv4Addr, sync::Arc, time::Instant};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
};
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, Layer, VIRTIO_NET_HDR_LEN};

use super::probe::{Probe, Pulse};

/// Packets that are on their way to the kernel.
const QUEUE: usize = 1024;
/// Probes that are on their way into the tunnel: a gateway answers many hosts.
const PROBES: usize = 256;
/// The largest packet that the kernel gives in one piece.
const WHOLE: usize = VIRTIO_NET_HDR_LEN + 65_535;

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
    mtu: u16,
    whole: Vec<u8>,
    slots: Vec<Slot>,
    sizes: Vec<usize>,
}

/// Packets to the kernel. Probes go no further.
pub(super) struct ToKernel {
    kernel: mpsc::Sender<Packet>,
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
    let (kernel, packets) = mpsc::channel(QUEUE);
    tokio::spawn(write(device.clone(), packets));
    let (probes, asked) = mpsc::channel(PROBES);
    let (whole, sizes) = (vec![0; WHOLE], vec![0; IDEAL_BATCH_SIZE]);
    let slots = Vec::with_capacity(IDEAL_BATCH_SIZE);
    let to = ToKernel { kernel, probes: probes.clone(), own, pulse };
    let from = FromKernel { device, probes: asked, mtu, whole, slots, sizes };
    Ok(Ends { to, from, probes })
}

/// Writes what comes, merged as GRO would, until there is nobody to send any more.
async fn write(device: Arc<AsyncDevice>, mut packets: mpsc::Receiver<Packet>) {
    let (mut table, mut batch) = (GROTable::default(), Vec::with_capacity(IDEAL_BATCH_SIZE));
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    while packets.recv_many(&mut batch, IDEAL_BATCH_SIZE).await > 0 {
        buffers.resize_with(batch.len(), Vec::new);
        for (buffer, packet) in buffers.iter_mut().zip(batch.drain(..)) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet);
        }
        if let Err(error) = device.send_multiple(&mut table, &mut buffers, VIRTIO_NET_HDR_LEN).await
        {
            tracing::debug!(%error, "the kernel does not take a packet");
        }
    }
}

impl IpSend for ToKernel {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let packet = packet.into_bytes();
        if let Some(probe) = Probe::read(&packet) {
            self.heard(probe);
            return Ok(());
        }
        let gone = |_closed| io::Error::from(io::ErrorKind::BrokenPipe);
        self.kernel.send(packet).await.map_err(gone)
    }
}

impl ToKernel {
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

impl IpRecv for FromKernel {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        self.slots.resize_with(IDEAL_BATCH_SIZE, || Slot(pool.get()));
        let Self { device, probes, whole, slots, sizes, .. } = self;
        let read = tokio::select! {
            biased;
            Some(probe) = probes.recv() => {
                sizes[0] = probe.len();
                slots[0] = Slot(probe);
                Ok(1)
            }
            // It waits for the kernel only before it has read.
            read = device.recv_multiple(whole, slots, sizes, 0) => read,
        };
        let count = match read {
            Ok(count) => count,
            // Segments so small that they are more than a batch: nobody needs them.
            Err(error) if error.kind() == io::ErrorKind::Other => {
                tracing::debug!(%error, "a packet cannot be cut");
                0
            }
            Err(error) => return Err(error),
        };
        Ok(slots.drain(..count).zip(&*sizes).filter_map(|(Slot(mut packet), size)| {
            packet.truncate(*size);
            packet.try_into_ip().ok()
        }))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
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
