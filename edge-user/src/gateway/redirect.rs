//! Plain HTTP: sends browsers that were given a name without `https://` to the TLS port.

use std::net::SocketAddr;

use http::{StatusCode, Uri, header, uri::Authority};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Gateway, buffered::Buffered, closing, denial::Denial};
use crate::region::{
    bounds::Source,
    tunnel::{Dial, Directory},
};

/// Bytes of request line and headers that are read at most.
const MAX_REQUEST: usize = 8 * 1024;
/// Headers that are looked at; more are an error.
const MAX_HEADERS: usize = 64;

/// What is read of a request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    host: String,
    /// Path and query, beginning with a slash.
    target: String,
}

/// Answers one request; returns the answer, for the log.
pub(super) async fn serve<D: Directory, T: Dial>(
    gateway: &Gateway<D, T>,
    client: TcpStream,
    peer: SocketAddr,
) -> String {
    let _handshaking = gateway.metrics.handshaking();
    let mut turn = gateway.handshakes.enter(Source::of(peer.ip()));
    let mut client = Buffered::new(client);
    let answered = async {
        let answer = match timeout(gateway.limits.hello, read(&mut client)).await {
            Ok(Ok(request)) => answer(gateway, &request),
            Ok(Err(Some(status))) => page(status, None),
            Ok(Err(None)) => return "gone before it asked".to_owned(),
            Err(_) => page(StatusCode::REQUEST_TIMEOUT, None),
        };
        if client.write_all(answer.as_bytes()).await.is_ok() {
            closing::finish(client).await;
        }
        answer.lines().next().unwrap_or_default().to_owned()
    };
    tokio::select! {
        answered = answered => answered,
        () = gateway.abort.cancelled() => "the gateway stopped".to_owned(),
        crowd = turn.displaced() => {
            let denial = Denial::from(crowd);
            gateway.metrics.denied(&denial);
            denial.to_string()
        }
    }
}

fn answer<D: Directory, T: Dial>(gateway: &Gateway<D, T>, request: &Request) -> String {
    match gateway.directory.by_name(&request.host) {
        Some(tunnel) => {
            let port = match tunnel.tls_port {
                443 => String::new(),
                port => format!(":{port}"),
            };
            let location = format!("https://{}{port}{}", tunnel.host, request.target);
            page(StatusCode::PERMANENT_REDIRECT, Some(&location))
        }
        None => page(StatusCode::NOT_FOUND, None),
    }
}

/// Reads up to the end of the headers. `Err(None)` if the client went away.
async fn read(client: &mut Buffered) -> Result<Request, Option<StatusCode>> {
    let mut request = Vec::new();
    loop {
        let Ok(bytes @ [_, ..]) = client.fill_buf().await else { return Err(None) };
        let amount = bytes.len().min(MAX_REQUEST - request.len());
        request.extend_from_slice(&bytes[..amount]);
        client.consume(amount);
        if let Some(request) = parse(&request)? {
            return Ok(request);
        }
        if request.len() == MAX_REQUEST {
            return Err(Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
    }
}

/// `None` if more bytes are needed.
fn parse(bytes: &[u8]) -> Result<Option<Request>, StatusCode> {
    let bad = StatusCode::BAD_REQUEST;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Err(_) => return Err(bad),
    }
    let Ok(target) = request.path.unwrap_or_default().parse::<Uri>() else { return Err(bad) };
    let mut hosts = request
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(header::HOST.as_str()));
    // RFC 9112, section 3.2: exactly one, and an absolute target overrides it.
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(bad) };
    let Ok(host) = Authority::try_from(host.value) else { return Err(bad) };
    let authority = target.authority().unwrap_or(&host);
    let target = target.path_and_query().map_or("/", |target| target.as_str());
    let target = if target.starts_with('/') { target } else { "/" };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    Ok(Some(Request { host, target: target.to_owned() }))
}

fn page(status: StatusCode, location: Option<&str>) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let body = match (status, location) {
        (_, Some(_)) => "This tunnel speaks TLS.\n",
        (StatusCode::NOT_FOUND, _) => {
            "No tunnel has this name. It may have ended, or the name is misspelt.\n"
        }
        _ => "This port only sends browsers to https.\n",
    };
    let code = status.as_u16();
    let location = location.map(|to| format!("Location: {to}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {code} {reason}\r\n{location}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Option<Request>, StatusCode> {
        parse(text.as_bytes())
    }

    #[test]
    fn a_request_names_host_and_target() {
        let request = |host: &str, target: &str| {
            Ok(Some(Request { host: host.to_owned(), target: target.to_owned() }))
        };
        assert_eq!(
            parsed("GET /a?b=c HTTP/1.1\r\nHost: X.Example.com:80\r\n\r\n"),
            request("x.example.com", "/a?b=c")
        );
        assert_eq!(
            parsed("GET http://y.example.com HTTP/1.1\r\nHost: x\r\n\r\n"),
            request("y.example.com", "/")
        );
        assert_eq!(
            parsed("OPTIONS * HTTP/1.1\r\nHost: x.example.com.\r\n\r\n"),
            request("x.example.com", "/")
        );
        assert_eq!(parsed("GET / HTTP/1.1\r\nHost: x"), Ok(None));
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
        ] {
            assert_eq!(parsed(bad), Err(StatusCode::BAD_REQUEST), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_location_of_two_lines(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut request = b"GET /".to_vec();
            request.extend(bytes);
            request.extend(b" HTTP/1.1\r\nHost: x\r\n\r\n");
            if let Ok(Some(request)) = parse(&request) {
                prop_assert!(request.target.bytes().all(|byte| byte > b' ' && byte != 0x7f));
            }
        }
    }
}
