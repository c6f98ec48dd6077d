//! Keeps HTTP/2 requests for one tunnel out of another tunnel's container.
//!
//! When several names share a certificate and an address, a browser may send requests for one
//! of them over a connection that it opened to another (RFC 9113, section 9.1.1): tenant A's
//! container would get tenant B's cookies. So under a shared certificate the guard reads the
//! client's header blocks and lets none pass whose authority is another name. Where each name
//! has its own certificate no client coalesces, and the guard is not used: what `:authority`
//! says (gRPC lets programs choose it) is then the container's own business.
//!
//! It guards honest clients. One that wants to tell a container lies about authorities may do
//! so over its own connection anyway; against such a client only memory and time are bounded.

use bytes::BytesMut;
use loona_hpack::decoder::DecoderError;

use super::{
    h2_frames::{
        CONTINUATION, END_HEADERS, HEAD, HEADERS, Head, HeadReader, PADDED, PREFACE, PRIORITY,
        PUSH_PROMISE,
    },
    hpack::HeaderBlocks,
};

/// Bound on a header block as it is sent, heads of its frames included.
pub(super) const MAX_BLOCK: usize = 64 * 1024;

/// Passes a client's HTTP/2 bytes on, except what is meant for another name.
pub(super) struct H2Guard {
    name: String,
    headers: HeaderBlocks,
    state: State,
    head: HeadReader,
    /// The frames of the header block in progress, as they came.
    held: BytesMut,
    /// Their HPACK bytes, without padding and priority.
    fragments: BytesMut,
    /// The stream whose header block is in progress.
    continues: Option<u32>,
    last_stream: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// This many bytes of the preface were seen.
    Preface(usize),
    Head,
    /// This many bytes of the payload may pass.
    Pass(usize),
    /// The payload belongs to a header block and is held back; so many bytes are missing.
    Hold(Head, usize),
}

/// Why a connection is closed. Its text goes to the client with the GOAWAY.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "stream {stream} is for {authority} but this connection is for {name}; open another connection"
    )]
    ForeignAuthority { stream: u32, authority: String, name: String },
    #[error("malformed HTTP/2: {0}; use a conforming client")]
    Malformed(&'static str),
    #[error("a header block of more than {MAX_BLOCK} bytes; send less")]
    TooLong,
    #[error("malformed header compression: {0}; use a conforming client")]
    Compression(DecoderError),
}

impl Refusal {
    /// All metric labels.
    pub(super) const LABELS: [&str; 4] =
        ["foreign_authority", "malformed", "too_long", "compression"];

    /// The error code of RFC 9113, section 7.
    pub(super) fn code(&self) -> u32 {
        match self {
            // Not the client's fault. With streams above the last one untouched, NO_ERROR
            // makes browsers repeat the request on a connection of its own.
            Self::ForeignAuthority { .. } => 0x0,
            Self::Malformed(_) => 0x1,
            Self::TooLong => 0xb,
            Self::Compression(_) => 0x9,
        }
    }

    /// The metric label.
    pub(super) fn label(&self) -> &'static str {
        Self::LABELS[match self {
            Self::ForeignAuthority { .. } => 0,
            Self::Malformed(_) => 1,
            Self::TooLong => 2,
            Self::Compression(_) => 3,
        }]
    }
}

impl H2Guard {
    /// A guard of a new connection to `name` (lower case, without a port).
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            headers: HeaderBlocks::new(),
            state: State::Preface(0),
            head: HeadReader::default(),
            held: BytesMut::new(),
            fragments: BytesMut::new(),
            continues: None,
            last_stream: 0,
        }
    }

    /// The highest stream whose request passed.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Appends to `out` what of `input` may go to the container. After a refusal the guard
    /// must not be used again.
    pub(super) fn pass(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<(), Refusal> {
        while !input.is_empty() {
            match self.state {
                State::Preface(seen) => {
                    let amount = input.len().min(PREFACE.len() - seen);
                    let (bytes, rest) = input.split_at(amount);
                    if bytes != &PREFACE[seen..seen + amount] {
                        return Err(Refusal::Malformed("no connection preface"));
                    }
                    input = rest;
                    self.state = State::Preface(seen + amount);
                    if seen + amount == PREFACE.len() {
                        out.extend_from_slice(PREFACE);
                        self.state = State::Head;
                    }
                }
                State::Head => {
                    let Some((head, bytes)) = self.head.read(&mut input) else { continue };
                    self.state = self.begin(head)?;
                    match self.state {
                        State::Hold(..) => self.held.extend_from_slice(&bytes),
                        _ => out.extend_from_slice(&bytes),
                    }
                }
                State::Pass(left) => {
                    let amount = input.len().min(left);
                    out.extend_from_slice(&input[..amount]);
                    input = &input[amount..];
                    self.state = State::Pass(left - amount);
                }
                State::Hold(head, missing) => {
                    let amount = input.len().min(missing);
                    self.held.extend_from_slice(&input[..amount]);
                    input = &input[amount..];
                    self.state = State::Hold(head, missing - amount);
                }
            }
            // Frames may be empty, so their end does not wait for another byte.
            match self.state {
                State::Pass(0) => self.state = State::Head,
                State::Hold(head, 0) => {
                    self.end_of_held(head, out)?;
                    self.state = State::Head;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What to do with the payload of the frame that begins.
    fn begin(&mut self, head: Head) -> Result<State, Refusal> {
        match (self.continues, head.kind) {
            (Some(stream), CONTINUATION) if stream == head.stream => {}
            (Some(_), _) => return Err(Refusal::Malformed("a header block is interrupted")),
            (None, CONTINUATION) => {
                return Err(Refusal::Malformed("CONTINUATION of no header block"));
            }
            (None, HEADERS) if head.stream.is_multiple_of(2) => {
                return Err(Refusal::Malformed("HEADERS on a stream that no client opens"));
            }
            (None, HEADERS) => {}
            (None, PUSH_PROMISE) => return Err(Refusal::Malformed("PUSH_PROMISE of a client")),
            (None, _) => return Ok(State::Pass(head.length)),
        }
        if self.held.len() + HEAD + head.length > MAX_BLOCK {
            return Err(Refusal::TooLong);
        }
        Ok(State::Hold(head, head.length))
    }

    /// Takes the frame whose last payload byte was just held; lets the block go if it is whole
    /// and this tunnel's.
    fn end_of_held(&mut self, head: Head, out: &mut BytesMut) -> Result<(), Refusal> {
        let payload = &self.held[self.held.len() - head.length..];
        self.fragments.extend_from_slice(fragment(head, payload)?);
        if !head.has(END_HEADERS) {
            self.continues = Some(head.stream);
            return Ok(());
        }
        self.continues = None;
        let mut foreign = None;
        let name = &self.name;
        let decoded = self.headers.decode(&self.fragments, |field, value| {
            if (*field == *b":authority" || field.eq_ignore_ascii_case(b"host"))
                && !same_host(&value, name)
            {
                foreign = Some(String::from_utf8_lossy(&value).chars().take(255).collect());
            }
        });
        decoded.map_err(Refusal::Compression)?;
        if let Some(authority) = foreign {
            let (stream, name) = (head.stream, self.name.clone());
            return Err(Refusal::ForeignAuthority { stream, authority, name });
        }
        self.last_stream = self.last_stream.max(head.stream);
        out.extend_from_slice(&self.held);
        self.held = BytesMut::new();
        self.fragments = BytesMut::new();
        Ok(())
    }
}

/// The HPACK bytes of a HEADERS or CONTINUATION payload (RFC 9113, sections 6.2 and 6.10).
fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Refusal> {
    const SHORT: Refusal = Refusal::Malformed("HEADERS shorter than its flags say");
    if head.kind == CONTINUATION {
        return Ok(payload);
    }
    let mut padding = 0;
    if head.has(PADDED) {
        let (first, rest) = payload.split_first().ok_or(SHORT)?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if head.has(PRIORITY) {
        payload = payload.get(5..).ok_or(SHORT)?;
    }
    let end = payload.len().checked_sub(padding).ok_or(SHORT)?;
    Ok(&payload[..end])
}

/// Whether `authority`, a host with or without a port, is `name`.
fn same_host(authority: &[u8], name: &str) -> bool {
    let host = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    };
    host.strip_suffix(b".").unwrap_or(host).eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
#[path = "tests/guard.rs"]
mod tests;
