//! Clients who do what tunnels are for.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use tests::{
    echo::dial,
    exchange::{exchange, part},
    lab::Lab,
    ledger::{Counted, Finish},
    load::Load,
    netns::NetNs,
    tls::host,
};

use crate::{
    books::{Books, Greeter},
    sites::Sites,
};

/// Between pieces of what lasts long, and between requests.
const BEAT: Duration = Duration::from_millis(20);
/// Of a download or an upload: about ten seconds.
const LONG: u32 = 32 << 20;

/// Adds all kinds of them to the load.
pub(crate) fn come<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    over_tls(load, lab, sites, books);
    over_http2(load, lab, sites, books);
    let internet = &lab.internet;
    for (kind, to, ledger, from) in [
        ("kernel", sites.kernel.at(Lab::PUBLIC), &books.kernel, internet),
        ("IPv6", sites.userspace.at(Lab::PUBLIC_V6), &books.userspace, internet),
        ("machine", sites.userspace.at(Lab::PUBLIC), &books.userspace, &lab.machine),
    ] {
        let dial = |from: &NetNs| {
            let (from, ledger) = (from.clone(), ledger.clone());
            move || dial(&from, to).map(|stream| ledger.enter(stream))
        };
        requests(load, &format!("{kind}: new connections"), dial(from));
        standing(load, &format!("{kind}: a standing connection"), dial(from));
        transfer(load, &format!("{kind}: a download"), (1, LONG), dial(from));
        transfer(load, &format!("{kind}: an upload"), (LONG, 1), dial(from));
    }
}

fn over_tls<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    let dial = || {
        let (greeter, ledger) = (Greeter::new(lab, &books.greeted), books.web.clone());
        let name = sites.web.name();
        move || greeter.connect(&name).map(|stream| ledger.enter(stream))
    };
    requests(load, "TLS: new connections", dial());
    requests(load, "TLS: more new connections", dial());
    standing(load, "TLS: a standing connection", dial());
    transfer(load, "TLS: a download", (1, LONG), dial());
    transfer(load, "TLS: an upload", (LONG, 1), dial());
}

fn over_http2<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    let (greeter, ledger) = (Greeter::new(lab, &books.greeted), books.h2.clone());
    let greeter = greeter.alpn(&["h2"]);
    let name = host(&sites.h2.url).to_owned();
    load.repeat("HTTP/2", BEAT, move || {
        let stream = greeter.connect(&name).map_err(|error| format!("connecting: {error}"))?;
        if stream.conn.alpn_protocol() != Some(b"h2") {
            return Err("HTTP/2 was not agreed on".to_owned());
        }
        ask_http2(ledger.enter(stream), &name).map_err(|error| error.to_string())
    });
}

/// Small ones, each over a new connection.
fn requests<'scope, S: Finish + 'scope>(
    load: &mut Load<'scope, '_>,
    name: &str,
    mut dial: impl FnMut() -> io::Result<Counted<S>> + Send + 'scope,
) {
    load.repeat(name, BEAT, move || {
        let mut stream = dial().map_err(|error| format!("connecting: {error}"))?;
        let asked = exchange(&mut stream, 500, 3000, || {}).and_then(|()| part(stream));
        asked.map_err(|error| format!("a request: {error}"))
    });
}

/// Some hundred requests over a connection.
fn standing<'scope, S: Finish + 'scope>(
    load: &mut Load<'scope, '_>,
    name: &str,
    mut dial: impl FnMut() -> io::Result<Counted<S>> + Send + 'scope,
) {
    let rein = load.rein();
    load.repeat(name, BEAT, move || {
        let mut stream = dial().map_err(|error| format!("connecting: {error}"))?;
        for number in 0..300 {
            let asked = exchange(&mut stream, 2000, 10_000, || {});
            asked.map_err(|error| format!("request {number}: {error}"))?;
            rein.pause(BEAT);
        }
        part(stream).map_err(|error| format!("the end: {error}"))
    });
}

/// One that lasts.
fn transfer<'scope, S: Finish + 'scope>(
    load: &mut Load<'scope, '_>,
    name: &str,
    (up, down): (u32, u32),
    mut dial: impl FnMut() -> io::Result<Counted<S>> + Send + 'scope,
) {
    let rein = load.rein();
    load.repeat(name, BEAT, move || {
        let mut stream = dial().map_err(|error| format!("connecting: {error}"))?;
        let moved = exchange(&mut stream, up, down, || rein.pause(BEAT));
        moved.and_then(|()| part(stream)).map_err(|error| error.to_string())
    });
}

/// Asks for the front page (RFC 9113): by hand, so that each byte is seen by who counts.
fn ask_http2(mut stream: Counted<impl Finish>, name: &str) -> io::Result<()> {
    const SETTINGS: u8 = 4;
    const ACK: u8 = 1;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    // Indexed: GET, https, /. Literal: the authority (RFC 7541, section 6.2.2).
    let mut block = vec![0x82, 0x87, 0x84, 0x01, u8::try_from(name.len()).expect("a short name")];
    block.extend_from_slice(name.as_bytes());
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))?;
    stream.flush()?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        let (kind, flags, on_stream) = (header[3], header[4], header[8]);
        if kind == SETTINGS && flags & ACK == 0 {
            stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?;
            stream.flush()?;
        }
        if on_stream == 1 && flags & END_STREAM != 0 {
            break;
        }
    }
    stream.finish()?;
    // A farewell, perhaps.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], body].concat()
}
