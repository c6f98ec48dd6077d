//! A TCP server that takes and gives as many bytes as its clients ask for, and its clients.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream},
};

use crate::{ledger::Finish, netns::NetNs, server::Server};

/// Bytes that are written and compared at a time.
const CHUNK: usize = 64 << 10;

/// A server on one port of a namespace, on all its addresses. Each request on a connection is two
/// numbers: how many bytes follow, and how many are to come back. It ends with this guard;
/// connections end with their clients.
#[derive(Debug)]
pub struct Exchange {
    _server: Server,
}

impl Exchange {
    /// Starts it.
    #[track_caller]
    pub fn serve(netns: &NetNs, port: u16) -> Self {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A client that breaks off is for the client's own test to judge.
        Self { _server: Server::at(netns, address, |client, _| drop(answer(client))) }
    }
}

/// Sends `up` bytes and receives `down`, at least one: without it nobody would know that the
/// others came. `pace` is called after each piece.
///
/// # Errors
/// What broke, or came back other than it should.
pub fn exchange(
    stream: &mut (impl Read + Write),
    up: u32,
    down: u32,
    pace: impl Fn(),
) -> io::Result<()> {
    stream.write_all(&[up.to_be_bytes(), down.to_be_bytes()].concat())?;
    send(stream, up, &pace)?;
    receive(stream, down, &pace)
}

/// Says that there is no more, and waits for the other side to say so.
///
/// # Errors
/// What broke, or that more came.
pub fn part(mut stream: impl Finish) -> io::Result<()> {
    stream.finish()?;
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came than was asked for")),
    }
}

fn answer(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut header = [0; 8];
    loop {
        // The end of the stream is an error here, too: it ends the connection, as it should.
        client.read_exact(&mut header)?;
        let [a, b, c, d, e, f, g, h] = header;
        receive(&mut client, u32::from_be_bytes([a, b, c, d]), || {})?;
        send(&mut client, u32::from_be_bytes([e, f, g, h]), || {})?;
    }
}

fn send(stream: &mut impl Write, amount: u32, pace: impl Fn()) -> io::Result<()> {
    let pattern = pattern();
    for size in pieces(amount) {
        stream.write_all(&pattern[..size])?;
        pace();
    }
    stream.flush()
}

fn receive(stream: &mut impl Read, amount: u32, pace: impl Fn()) -> io::Result<()> {
    let (pattern, mut piece) = (pattern(), vec![0; CHUNK]);
    for size in pieces(amount) {
        stream.read_exact(&mut piece[..size])?;
        if piece[..size] != pattern[..size] {
            return Err(io::Error::other("other bytes came than were sent"));
        }
        pace();
    }
    Ok(())
}

fn pieces(amount: u32) -> impl Iterator<Item = usize> {
    let amount = amount as usize;
    (0..amount).step_by(CHUNK).map(move |done| CHUNK.min(amount - done))
}

/// No two places close to each other are alike.
fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|place| (place * 7 + place / 256) as u8).collect()
}
