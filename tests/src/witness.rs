//! Who sees a packet that came to the wrong container.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{netns::NetNs, tap, tenant::Tenant};

/// Packet sockets of a container that the kernel gives only what is not for its addresses. A
/// container's own kernel would drop such a packet in silence.
#[derive(Debug)]
pub struct Witness {
    name: String,
    v4: Socket,
    v6: Socket,
}

impl Witness {
    /// From now on.
    #[track_caller]
    pub fn of(tenant: &Tenant) -> Self {
        let (v4, v6) = (tenant.ipv4().octets(), tenant.i6pn().octets());
        let listen = |protocol, offset, own: &[u8]| {
            let filter = not_for(offset, own);
            socket(&tenant.netns, protocol, &filter)
        };
        Self {
            name: tenant.container.name.clone(),
            v4: listen(libc::ETH_P_IP, V4_DESTINATION, &v4),
            v6: listen(libc::ETH_P_IPV6, V6_DESTINATION, &v6),
        }
    }

    /// Panics if anything came that was for somebody else.
    #[track_caller]
    pub fn assert_nothing_wrong(&self) {
        for (socket, offset) in [(&self.v4, V4_DESTINATION), (&self.v6, V6_DESTINATION)] {
            let mut packet = [0; 128];
            match (&*socket).read(&mut packet) {
                Ok(length) => {
                    let to = destination(&packet[offset as usize..]);
                    panic!("{} was given a packet to {to}: {:02x?}", self.name, &packet[..length]);
                }
                // The interface goes with its container.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NetworkDown) => {}
                Err(error) => panic!("cannot read packets of {}: {error}", self.name),
            }

            fn destination(bytes: &[u8]) -> IpAddr {
                let v6: [u8; 16] = bytes[..16].try_into().expect("sixteen bytes");
                let v4: [u8; 4] = bytes[..4].try_into().expect("four bytes");
                // IPv6 addresses of containers and of links begin with a set bit; those of the
                // pool do not.
                if v4[0] & 0x80 == 0 {
                    Ipv4Addr::from(v4).into()
                } else {
                    Ipv6Addr::from(v6).into()
                }
            }
        }
    }
}

/// Where a header has its destination.
const V4_DESTINATION: u32 = 16;
const V6_DESTINATION: u32 = 24;

/// Takes IP packets whose destination is neither the own address nor one of the link alone.
fn not_for(offset: u32, own: &[u8]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_NOT_LESS: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let words: Vec<u32> =
        own.chunks(4).map(|word| u32::from_be_bytes(word.try_into().expect("four"))).collect();
    let length = u8::try_from(words.len()).expect("few");
    // To the first return, which takes nothing, and to the second, which takes all.
    let mut filter = vec![SockFilter::new(LOAD_BYTE, 0, 0, offset)];
    // Multicast and broadcast.
    let first = if own.len() == 4 { 224 } else { 0xff };
    let rest = 2 + 2 * length;
    filter.push(SockFilter::new(JUMP_IF_NOT_LESS, rest, 0, first));
    filter.push(SockFilter::new(LOAD_HALF, 0, 0, offset));
    let link_local = if own.len() == 4 { 0xa9fe } else { 0xfe80 };
    filter.push(SockFilter::new(JUMP_IF_EQUAL, rest - 2, 0, link_local));
    for (index, word) in (0_u8..).zip(words) {
        let left = 2 * (length - 1 - index);
        filter.push(SockFilter::new(LOAD_WORD, 0, 0, offset + 4 * u32::from(index)));
        filter.push(SockFilter::new(JUMP_IF_EQUAL, 0, left + 1, word));
    }
    filter.push(SockFilter::new(RETURN, 0, 0, 0));
    filter.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    filter
}

#[track_caller]
fn socket(netns: &NetNs, protocol: libc::c_int, filter: &[SockFilter]) -> Socket {
    netns.enter(|| {
        // Of no protocol until the filter is there: nothing comes before it.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)));
        let socket = socket.expect("a packet socket");
        socket.attach_filter(filter).expect("a filter");
        socket.set_nonblocking(true).expect("a non-blocking socket");
        tap::bind(&socket, "eth0", protocol);
        socket
    })
}
