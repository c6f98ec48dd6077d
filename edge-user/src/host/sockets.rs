//! Looking at and ending the TCP sockets of a container, over sock_diag (`man 7 sock_diag`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::netns::NetNs;
use crate::region::addresses::is_private;

/// Who listens on a container's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Nobody.
    Nobody,
    /// A program, but on this loopback address only.
    Loopback(IpAddr),
    /// A program that can be reached.
    Reachable,
}

/// Who listens on a TCP port in a namespace.
pub fn listening(namespace: &NetNs, port: u16) -> io::Result<Listening> {
    let sockets = namespace.run(|| on_port(port, StateFlags::LISTEN))?;
    let mut found = Listening::Nobody;
    for socket in sockets {
        let address = socket.header.socket_id.source_address.to_canonical();
        if !address.is_loopback() {
            return Ok(Listening::Reachable);
        }
        found = Listening::Loopback(address);
    }
    Ok(found)
}

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// What `/proc/PID/fd` calls it.
    pub inode: u32,
}

/// Every listening TCP socket of this thread's namespace.
pub fn listeners() -> io::Result<Vec<Listener>> {
    let found = on_port(0, StateFlags::LISTEN)?;
    let listener = |socket: &InetResponse| Listener {
        address: SocketAddr::new(
            socket.header.socket_id.source_address,
            socket.header.socket_id.source_port,
        ),
        inode: socket.header.inode,
    };
    Ok(found.iter().map(listener).collect())
}

/// Resets the connections of a namespace that have this local TCP port, but for those of the
/// private network; listening sockets stay. The peers get a reset. Returns how many there were.
pub fn reset(namespace: &NetNs, port: u16) -> io::Result<usize> {
    namespace.run(|| {
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE;
        let mut sockets = on_port(port, states)?;
        sockets.retain(|found| !is_private(found.header.socket_id.destination_address));
        let mut socket = connect()?;
        for found in &sockets {
            let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(InetRequest {
                family: found.header.family,
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: found.header.socket_id.clone(),
            }));
            send(&mut socket, NLM_F_REQUEST | NLM_F_ACK, message)?;
            acknowledged(&socket)?;
        }
        Ok(sockets.len())
    })
}

/// The TCP sockets of this thread's namespace with a local port; 0 stands for all.
fn on_port(port: u16, states: StateFlags) -> io::Result<Vec<InetResponse>> {
    let mut found = Vec::new();
    for (family, mut id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        // The kernel filters a dump by the ports of its request.
        id.source_port = port;
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: states.clone(),
            socket_id: id,
        });
        let mut socket = connect()?;
        send(&mut socket, NLM_F_REQUEST | NLM_F_DUMP, request)?;
        collect(&socket, &mut found)?;
    }
    found.retain(|socket| port == 0 || socket.header.socket_id.source_port == port);
    Ok(found)
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

fn send<M: NetlinkSerializable + Into<NetlinkPayload<M>>>(
    socket: &mut Socket,
    flags: u16,
    message: M,
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, message.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(())
}

/// Reads a dump to its end.
fn collect(socket: &Socket, found: &mut Vec<InetResponse>) -> io::Result<()> {
    loop {
        let (bytes, _from) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = parse::<SockDiagMessage>(rest)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(*response);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let len = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

fn acknowledged(socket: &Socket) -> io::Result<()> {
    let (bytes, _from) = socket.recv_from_full()?;
    match parse::<SockDiagMessage>(&bytes)?.payload {
        // A socket that closed by itself meanwhile is as good as ended.
        NetlinkPayload::Error(error)
            if error.code.is_some() && error.to_io().raw_os_error() != Some(libc::ENOENT) =>
        {
            Err(error.to_io())
        }
        _ => Ok(()),
    }
}

fn parse<M: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<NetlinkMessage<M>> {
    NetlinkMessage::<M>::deserialize(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn listeners_are_told_apart_and_connections_end_alone() {
        let namespace = NetNs::current().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let loopback = Listening::Loopback("127.0.0.1".parse().unwrap());
        assert_eq!(listening(&namespace, port).unwrap(), loopback);

        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(reset(&namespace, port).unwrap(), 1);
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(listener);
        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = open.local_addr().unwrap().port();
        assert_eq!(listening(&namespace, port).unwrap(), Listening::Reachable);
        drop(open);
        assert_eq!(listening(&namespace, port).unwrap(), Listening::Nobody);
    }
}
