//! The places where the gateway reads strangers' bytes, as functions that a fuzzer can call:
//! without sockets and clocks, and with the bytes in whatever pieces.

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, stream};
use tokio_util::io::StreamReader;

use super::{apology, client_hello, h2_guard::H2Guard, hpack::HeaderBlocks, redirect};

/// What a ClientHello says, as far as the gateway looks.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name that is asked for.
    pub name: Option<String>,
    /// The protocols on offer (ALPN).
    pub protocols: Vec<Vec<u8>>,
}

/// Names and values of a header block's fields.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a ClientHello says, or the bytes that answer what is none.
pub fn client_hello(pieces: &[&[u8]]) -> Result<Hello, Vec<u8>> {
    let accepted = now(client_hello::accept(&mut reader(pieces), 64 * 1024));
    match accepted {
        Ok(accepted) => {
            let hello = accepted.client_hello();
            let protocols = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            Ok(Hello { name: hello.server_name().map(str::to_owned), protocols })
        }
        Err(client_hello::Bad::Hello(alert)) => Err(alert),
        Err(client_hello::Bad::Closed | client_hello::Bad::TooLong) => Err(Vec::new()),
    }
}

/// What of an HTTP/2 client's bytes goes on to the container of `name`, and why no more does.
pub fn http2(name: &str, pieces: &[&[u8]]) -> (Vec<u8>, Option<String>) {
    let mut guard = H2Guard::new(name.to_owned());
    let mut out = BytesMut::new();
    for piece in pieces {
        if let Err(refusal) = guard.pass(piece, &mut out) {
            return (out.to_vec(), Some(refusal.to_string()));
        }
    }
    (out.to_vec(), None)
}

/// The fields of header blocks that come one after the other; `None` for the first that is not
/// one, behind which nothing is read.
pub fn header_blocks(blocks: &[&[u8]]) -> Vec<Option<Fields>> {
    let mut decoder = HeaderBlocks::new();
    let mut decoded = Vec::new();
    for block in blocks {
        let mut fields = Fields::new();
        let done = decoder.decode(block, |name, value| {
            fields.push((name.into_owned(), value.into_owned()));
        });
        decoded.push(done.is_ok().then_some(fields));
        if done.is_err() {
            break;
        }
    }
    decoded
}

/// Host and target of a plain HTTP request, or the status code of its answer.
pub fn redirect(pieces: &[&[u8]]) -> Result<(String, String), Option<u16>> {
    let request = now(redirect::read(&mut reader(pieces)));
    request
        .map(|request| (request.host, request.target))
        .map_err(|status| status.map(|status| status.as_u16()))
}

/// The method, if what a client sends first is an HTTP request.
pub fn apology(pieces: &[&[u8]]) -> Option<String> {
    now(apology::method(&mut reader(pieces)))
}

fn reader(pieces: &[&[u8]]) -> Memory {
    let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    StreamReader::new(stream::iter(pieces))
}

type Memory = StreamReader<stream::Iter<std::vec::IntoIter<std::io::Result<Bytes>>>, Bytes>;

impl client_hello::Wire for Memory {
    fn wake_at(&mut self, _bytes: usize) {}
}

/// What reads from memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let Some(done) = future.now_or_never() else {
        unreachable!("a future waited for bytes that are all in memory")
    };
    done
}
