//! What a client sees when the container cannot be reached.

use std::{fmt::Write, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use super::closing::{self, Client};
use crate::region::tunnel::DialError;

/// The longest method that is still one: RFC 9110 and WebDAV know none of more letters.
const LONGEST_METHOD: usize = 20;

/// Tells `client` why, if it speaks HTTP/1 within `patience`, and closes cleanly.
///
/// `may_be_http1` is false if the handshake has already agreed on another protocol.
pub(super) async fn send(
    mut client: impl Client,
    error: &DialError,
    may_be_http1: bool,
    patience: Duration,
) {
    if may_be_http1 && let Ok(Some(method)) = timeout(patience, method(&mut client)).await {
        let page = page(error, method == "HEAD");
        if let Err(error) = client.write_all(page.as_bytes()).await {
            tracing::debug!(%error, "the client did not wait for the reason");
            return;
        }
    }
    closing::finish(client).await;
}

/// The method of an HTTP/1 request, if that is what the client sends first.
pub(super) async fn method(client: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut token = String::new();
    loop {
        let bytes = client.fill_buf().await.ok().filter(|bytes| !bytes.is_empty())?;
        for byte in bytes {
            match byte {
                b' ' if !token.is_empty() => return Some(token),
                b'A'..=b'Z' | b'-' if token.len() < LONGEST_METHOD => {
                    token.push(char::from(*byte));
                }
                _ => return None,
            }
        }
        let amount = bytes.len();
        client.consume(amount);
    }
}

fn page(error: &DialError, head_only: bool) -> String {
    let reason = escaped(&error.to_string());
    let body = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>502 Bad Gateway</title>\n\
         <h1>The container did not take this connection</h1>\n<p>{reason}.</p>\n"
    );
    let mut page = String::from("HTTP/1.1 502 Bad Gateway\r\n");
    page.push_str("Content-Type: text/html; charset=utf-8\r\n");
    page.push_str("Cache-Control: no-store\r\nConnection: close\r\n");
    // Writing to a String cannot fail.
    if write!(page, "Content-Length: {}\r\n\r\n", body.len()).is_ok() && !head_only {
        page.push_str(&body);
    }
    page
}

/// An I/O error's text comes from the system, not from a page's author.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
