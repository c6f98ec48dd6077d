//! What a fuzzer feeds with bytes, one file a target: each panics if what it is fed breaks a
//! promise. The crate in `tests/fuzz` makes programs of them; an ordinary test runs them over the
//! cases that were found, and over some that show the way.

mod admin;
mod api;
mod client_hello;
mod dns;
mod hpack;
mod http;
mod http2;
mod packets;

/// A target's name, and itself.
pub type Target = (&'static str, fn(&[u8]));

/// All of them. Each has a folder of cases, and a program in `tests/fuzz/fuzz_targets`.
pub const TARGETS: &[Target] = &[
    ("packets", packets::run),
    ("client_hello", client_hello::run),
    ("http", http::run),
    ("http2", http2::run),
    ("hpack", hpack::run),
    ("dns", dns::run),
    ("api", api::run),
    ("admin", admin::run),
];

/// Runs a target over one input.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(one, _)| *one == name);
    let (_, run) = target.unwrap_or_else(|| panic!("no target is called {name}"));
    run(bytes);
}

/// The first byte says how long the pieces are that the rest comes in; 0 for one piece.
fn pieces(bytes: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (length, bytes) = bytes.split_first()?;
    let pieces = match length {
        0 => vec![bytes],
        length => bytes.chunks((*length).into()).collect(),
    };
    Some((bytes, pieces))
}
