//! Clients who are refused, or go away in the middle.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustls::{AlertDescription, ClientConnection, pki_types::ServerName};
use tests::{
    echo::dial,
    lab::Lab,
    load::Load,
    strangers::Strangers,
    tls::{TlsClient, alert},
};

use crate::{books::Books, sites::Sites};

/// Between two of a kind.
const BEAT: Duration = Duration::from_millis(60);
/// Where they come from.
const ADDRESS: &str = "192.0.2.101";

/// Adds all kinds of them to the load.
pub(crate) fn come<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    let strangers = Strangers::new(lab, 101);
    // One connection to the TLS port, for which it does something.
    let mut at_tls =
        |name: &str, act: Box<dyn Fn(TcpStream) -> Result<(), String> + Send + Sync + 'scope>| {
            let strangers = strangers.clone();
            let to = SocketAddr::new(Lab::PUBLIC.parse().expect("an address"), 443);
            load.repeat(name, BEAT, move || {
                let ends = strangers.each(1, to, |stream| {
                    books.greeted.one_more();
                    act(stream)
                });
                ends.map_err(|error| format!("connecting: {error}"))?.into_iter().collect()
            });
        };
    let half = hello(&lab.tls());
    at_tls(
        "half hellos",
        Box::new(move |mut stream| {
            stream.write_all(&half[..half.len() / 2]).map_err(|error| error.to_string())
        }),
    );
    at_tls(
        "resets",
        Box::new(|stream| {
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .map_err(|error| error.to_string())
        }),
    );
    at_tls(
        "garbage",
        Box::new(|mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").map_err(|error| error.to_string())?;
            books.malformed.one_more();
            // An alert, then the end.
            stream.read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
        }),
    );
    let tls = lab.tls();
    at_tls(
        "unknown names",
        Box::new(move |stream| {
            books.unknown.one_more();
            refused(&tls, stream, "nobody.r1.localhost", AlertDescription::UnrecognisedName)
        }),
    );
    let nameless = lab.tls().nameless();
    at_tls(
        "no names",
        Box::new(move |stream| {
            books.nameless.one_more();
            refused(&nameless, stream, "nobody.r1.localhost", AlertDescription::UnrecognisedName)
        }),
    );
    let (tls, name) = (lab.tls(), sites.listed.name());
    at_tls(
        "not on the list, over TLS",
        Box::new(move |stream| {
            books.denied_tls.one_more();
            refused(&tls, stream, &name, AlertDescription::AccessDenied)
        }),
    );
    load.repeat("not on the list, to userspace", BEAT, move || {
        let read = dial(&lab.internet, sites.listed.at(Lab::PUBLIC_V6))
            .and_then(|mut stream| stream.read(&mut [0; 1]));
        books.denied_userspace.one_more();
        match read {
            // It may come before the client has noticed that it is connected.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            other => Err(format!("{other:?} instead of a reset")),
        }
    });
    let tap = lab.tap_to_machine();
    load.repeat("not on the list, to the kernel", BEAT, move || {
        let source = SocketAddr::new(ADDRESS.parse().expect("an address"), 1000);
        books.not_allowed.one_more();
        tap.tcp(source, sites.listed.at(Lab::PUBLIC), true, "");
        Ok(())
    });
}

/// A handshake that has to end with this alert.
fn refused(
    client: &TlsClient,
    stream: TcpStream,
    name: &str,
    with: AlertDescription,
) -> Result<(), String> {
    let error = client.greet(stream, name).map(drop).err().ok_or("it was served")?;
    match alert(&error) {
        Some(alert) if alert == with => Ok(()),
        _ => Err(format!("{error} instead of {with:?}")),
    }
}

/// What a client says first.
fn hello(client: &TlsClient) -> Vec<u8> {
    let name = ServerName::try_from("nobody.r1.localhost").expect("a name");
    let mut tls = ClientConnection::new(client.config(), name).expect("a client");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a greeting");
    bytes
}
