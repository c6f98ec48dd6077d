//! A UDP socket: packets of one size to one receiver go to the kernel in one piece, which it cuts as
//! late as it can, or not at all if the receiver is on the same machine (`UDP_SEGMENT` of udp(7)).
//! What comes in is `gotatun`'s own to read, which takes it in one piece, too.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use gotatun::udp::{
    UdpSend as _, UdpTransportFactory as _, UdpTransportFactoryParams,
    socket::{UdpSocket, UdpSocketFactory},
};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use tokio::io::Interest;

use super::peers::Sealed;

/// What every kernel that knows `UDP_SEGMENT` cuts.
const MOST_PIECES: usize = 64;
/// Bytes of a datagram before it is cut, IPv6's header around it.
const MOST_BYTES: usize = 65_535 - 40 - 8;

/// Bytes of a socket's buffers. The kernel's own have room for three pieces, and each further one
/// that is lost makes its sender slow; more than what an operator has set takes `CAP_NET_ADMIN`.
const BUFFER: usize = 7 << 20;

/// The sending half.
pub(super) struct Sender {
    socket: UdpSocket,
    /// Those of a bunch that go one by one.
    each: Vec<Sealed>,
}

/// Both halves of a socket on this port, for all addresses of the machine; 0 is a port of the
/// kernel's choice.
pub(super) async fn open(port: u16) -> io::Result<(Sender, UdpSocket)> {
    bind(None, port).await
}

async fn bind(addr: Option<IpAddr>, port: u16) -> io::Result<(Sender, UdpSocket)> {
    let params = UdpTransportFactoryParams { addr, port, fwmark: None };
    let (send, receive) = UdpSocketFactory::default().bind(&params).await?;
    setsockopt(&receive, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&send, sockopt::SndBufForce, &BUFFER)?;
    Ok((Sender { socket: send, each: Vec::new() }, receive))
}

impl Sender {
    /// Sends all of a bunch; what the kernel does not take is lost.
    pub(super) async fn send(&mut self, packets: &mut Vec<Sealed>) {
        let mut rest = VecDeque::from(std::mem::take(packets));
        while !rest.is_empty() {
            let run = run(rest.iter().map(|(packet, to)| (packet.len(), *to)));
            if run > 1 {
                self.send_each().await;
                // A way that is narrower than its interface, or a driver that cannot.
                if self.send_whole(rest.range(..run)).await.is_ok() {
                    rest.drain(..run);
                    continue;
                }
            }
            self.each.extend(rest.drain(..run));
        }
        self.send_each().await;
        // Its room, for the next ones.
        *packets = rest.into();
    }

    async fn send_each(&mut self) {
        let mut buffer = Default::default();
        while !self.each.is_empty() {
            // Addresses of two families do not go in one call.
            let family = self.each[0].1.is_ipv4();
            let same = self.each.iter().take_while(|(_, to)| to.is_ipv4() == family).count();
            let count = same.min(self.socket.max_number_of_packets_to_send());
            let mut some: Vec<_> = self.each.drain(..count).collect();
            if let Err(error) = self.socket.send_many_to(&mut buffer, &mut some).await {
                tracing::debug!(%error, "the kernel does not take a packet of WireGuard's");
            }
        }
    }

    /// A run, in one call.
    async fn send_whole<'p>(&self, run: impl Iterator<Item = &'p Sealed>) -> io::Result<()> {
        let mut run = run.peekable();
        let Some((first, to)) = run.peek() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(io::Error::other)?;
        let to = SockaddrStorage::from(*to);
        let socket = self.socket.socket();
        let pieces: Vec<_> = run.map(|(packet, _)| IoSlice::new(packet)).collect();
        let send = || {
            let cut = [ControlMessage::UdpGsoSegments(&size)];
            sendmsg(socket.as_raw_fd(), &pieces, &cut, MsgFlags::MSG_DONTWAIT, Some(&to))?;
            Ok(())
        };
        socket.async_io(Interest::WRITABLE, send).await
    }
}

/// How many of the first packets are one piece for the kernel: to the same receiver, all as long as
/// the first but the last, which may be shorter.
fn run(packets: impl IntoIterator<Item = (usize, SocketAddr)>) -> usize {
    let mut packets = packets.into_iter();
    let Some((size, to)) = packets.next() else { return 0 };
    let (mut count, mut bytes) = (1, size);
    for (next, receiver) in packets {
        bytes += next;
        if receiver != to || next > size || count == MOST_PIECES || bytes > MOST_BYTES {
            break;
        }
        count += 1;
        if next < size {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use gotatun::{packet::PacketBufPool, udp::UdpRecv as _};

    use super::*;

    const A: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    const B: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

    #[test]
    fn a_run_is_of_one_size_and_one_receiver() {
        for (packets, count) in [
            (&[][..], 0),
            (&[(100, A)], 1),
            (&[(100, A), (100, A), (100, B)], 2),
            (&[(100, A), (100, A), (40, A), (40, A)], 3),
            (&[(100, A), (101, A)], 1),
            (&[(1000, A); 70], 64),
            (&[(9000, A); 70], 7),
        ] {
            assert_eq!(run(packets.iter().copied()), count, "{packets:?}");
        }
    }

    /// Packets of these sizes, each with a byte of its own.
    fn packets(sizes: impl Iterator<Item = usize>, to: SocketAddr) -> Vec<Sealed> {
        let pool = PacketBufPool::<4096>::new(128);
        let packet = |(size, number)| {
            let mut packet = pool.get();
            packet.truncate(size);
            packet.fill(number);
            (packet, to)
        };
        sizes.zip(0_u8..).map(packet).collect()
    }

    /// What comes, so many packets.
    async fn received(receiver: &mut UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut pool = PacketBufPool::<4096>::new(128);
        let (mut got, mut buffer) = (Vec::new(), Default::default());
        while got.len() < count {
            let receive = receiver.recv_many_from(&mut buffer, &mut pool, &mut got);
            tokio::time::timeout(Duration::from_secs(60), receive).await.unwrap().unwrap();
        }
        bytes(&got)
    }

    fn bytes(packets: &[Sealed]) -> Vec<Vec<u8>> {
        packets.iter().map(|(packet, _)| packet.to_vec()).collect()
    }

    /// Senders as devices have them, and one of a single family, each with a receiver.
    async fn pairs() -> Vec<(Sender, UdpSocket, SocketAddr)> {
        let mut pairs = Vec::new();
        for local in [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            for from in [Some(local), None] {
                let (sender, _) = bind(from, 0).await.unwrap();
                let (_, receiver) = bind(Some(local), 0).await.unwrap();
                let to = receiver.local_addr().unwrap();
                pairs.push((sender, receiver, to));
            }
        }
        pairs
    }

    #[tokio::test]
    async fn a_run_goes_in_one_call() {
        for (sender, mut receiver, to) in pairs().await {
            let run = packets([1400; 39].into_iter().chain([7]), to);
            sender.send_whole(run.iter()).await.unwrap();
            assert_eq!(received(&mut receiver, run.len()).await, bytes(&run));
        }
    }

    #[tokio::test]
    async fn packets_of_all_sizes_arrive_as_they_were_sent() {
        for (mut sender, mut receiver, to) in pairs().await {
            let sizes = [1400; 70].into_iter().chain([32, 96, 96, 96, 1, 2000, 1400, 1400, 7]);
            // More than go in one call, each larger than the one before.
            let mut packets = packets(sizes.chain(20..=140), to);
            let sent = bytes(&packets);
            sender.send(&mut packets).await;
            assert!(packets.is_empty());
            assert_eq!(received(&mut receiver, sent.len()).await, sent);
        }
    }
}
