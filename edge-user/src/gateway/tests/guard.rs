//! The HTTP/2 guard alone: whatever it is fed, and in whatever pieces.

use bytes::{BufMut, BytesMut};
use loona_hpack::Encoder;
use proptest::prelude::*;

use super::{H2Guard, MAX_BLOCK, Refusal, same_host};
use crate::gateway::h2_frames::{
    CONTINUATION, END_HEADERS, HEADERS, Head, PADDED, PREFACE, PRIORITY, SETTINGS,
};

const NAME: &str = "a.r1.example.com";

/// What a client may do next.
#[derive(Debug, Clone)]
enum Step {
    /// A request: authority, padding, with priority, and where its block is cut.
    Request { authority: String, padding: Option<u8>, priority: bool, cuts: Vec<usize> },
    /// A frame that carries no headers.
    Other { kind: u8, length: usize },
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    Head { length: payload.len(), kind, flags, stream }.write(&mut out);
    out.put_slice(payload);
    out
}

/// The frames of one header block.
fn request(
    block: &[u8],
    stream: u32,
    padding: Option<u8>,
    priority: bool,
    cuts: &[usize],
) -> Vec<u8> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (block.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(block.len());
    let mut begin = 0;
    let mut out = Vec::new();
    for (at, end) in cuts.iter().copied().enumerate() {
        let part = &block[begin..end];
        let last = if at + 1 == cuts.len() { END_HEADERS } else { 0 };
        begin = end;
        if at > 0 {
            out.extend(frame(CONTINUATION, last, stream, part));
            continue;
        }
        let mut payload = Vec::new();
        payload.extend(padding);
        payload.extend_from_slice(if priority { &[0x80, 0, 0, 0, 7] } else { &[] });
        payload.extend_from_slice(part);
        payload.resize(payload.len() + usize::from(padding.unwrap_or(0)), 0);
        let flags =
            last | if padding.is_some() { PADDED } else { 0 } | if priority { PRIORITY } else { 0 };
        out.extend(frame(HEADERS, flags, stream, &payload));
    }
    out
}

/// The bytes of a connection, and how many of them come before the first foreign request.
fn connection(steps: &[Step]) -> (Vec<u8>, Option<usize>) {
    let mut encoder = Encoder::new();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let mut foreign = None;
    for (at, step) in steps.iter().enumerate() {
        let stream = 2 * at as u32 + 1;
        match step {
            Step::Other { kind, length } => {
                bytes.extend(frame(*kind, 0, stream, &vec![5; *length]))
            }
            Step::Request { authority, padding, priority, cuts } => {
                if !same_host(authority.as_bytes(), NAME) {
                    foreign.get_or_insert(bytes.len());
                }
                let block = encoder.encode([
                    (&b":method"[..], &b"GET"[..]),
                    (&b":path"[..], &b"/some/path"[..]),
                    (&b":authority"[..], authority.as_bytes()),
                    (&b"x-number"[..], at.to_string().as_bytes()),
                ]);
                bytes.extend(request(&block, stream, *padding, *priority, cuts));
            }
        }
    }
    (bytes, foreign)
}

/// What passes when `bytes` come in pieces of these sizes, over and over.
fn passed(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Result<(), Refusal>) {
    let mut guard = H2Guard::new(NAME.to_owned());
    let mut out = BytesMut::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        if let Err(refusal) = guard.pass(piece, &mut out) {
            return (out.to_vec(), Err(refusal));
        }
        assert!(guard.held.len() <= MAX_BLOCK && guard.fragments.len() <= MAX_BLOCK);
        rest = after;
    }
    (out.to_vec(), Ok(()))
}

fn step() -> impl Strategy<Value = Step> {
    let authority = prop_oneof![
        8 => Just(NAME.to_owned()),
        4 => Just(format!("{}:8443", NAME.to_uppercase())),
        1 => Just("b.r1.example.com".to_owned()),
        1 => Just(String::new()),
    ];
    let request = (
        authority,
        prop::option::of(any::<u8>()),
        any::<bool>(),
        prop::collection::vec(0_usize..500, 0..4),
    );
    prop_oneof![
        request.prop_map(|(authority, padding, priority, cuts)| Step::Request {
            authority,
            padding,
            priority,
            cuts
        }),
        (prop::sample::select(vec![0_u8, 2, 3, 6, 8, 0x10, 0xfa]), 0_usize..700)
            .prop_map(|(kind, length)| Step::Other { kind, length }),
    ]
}

proptest! {
    #[test]
    fn exactly_what_precedes_a_foreign_request_passes(
        steps in prop::collection::vec(step(), 0..12),
        pieces in prop::collection::vec(1_usize..40, 1..5),
    ) {
        let (bytes, foreign) = connection(&steps);
        let (out, result) = passed(&bytes, &pieces);
        match foreign {
            None => {
                prop_assert_eq!(result, Ok(()));
                prop_assert_eq!(out, bytes);
            }
            Some(begin) => {
                let foreign = matches!(result, Err(Refusal::ForeignAuthority { .. }));
                prop_assert!(foreign, "{:?}", result);
                prop_assert_eq!(out, &bytes[..begin]);
            }
        }
    }

    #[test]
    fn nothing_is_invented_and_nothing_panics(
        steps in prop::collection::vec(step(), 0..6),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        pieces in prop::collection::vec(1_usize..400, 1..5),
    ) {
        let (mut bytes, _) = connection(&steps);
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (out, _) = passed(&bytes, &pieces);
        prop_assert!(bytes.starts_with(&out));
        let (at_once, _) = passed(&bytes, &[usize::MAX]);
        prop_assert_eq!(out, at_once, "pieces make a difference");
    }
}

fn refused(frames: &[BytesMut]) -> Refusal {
    let bytes = [&PREFACE[..], &frames.concat()].concat();
    passed(&bytes, &[usize::MAX]).1.unwrap_err()
}

#[test]
fn malformed_headers_are_refused() {
    for frames in [
        vec![frame(CONTINUATION, END_HEADERS, 1, &[0x82])],
        vec![frame(HEADERS, 0, 1, &[0x82]), frame(HEADERS, END_HEADERS, 3, &[0x82])],
        vec![frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, END_HEADERS, 3, &[0x82])],
        vec![frame(HEADERS, 0, 1, &[0x82]), frame(6, 0, 0, &[0; 8])],
        vec![frame(HEADERS, END_HEADERS, 0, &[0x82])],
        vec![frame(HEADERS, END_HEADERS, 2, &[0x82])],
        vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[])],
        vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[2, 0x82])],
        vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])],
        vec![frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])],
    ] {
        assert!(matches!(refused(&frames), Refusal::Malformed(_)), "{frames:?}");
    }
    let compression = refused(&[frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff])]);
    assert!(matches!(compression, Refusal::Compression(_)), "{compression:?}");
}

#[test]
fn the_old_host_header_counts_too() {
    let mut encoder = Encoder::new();
    let block = encoder.encode([(&b"host"[..], &b"b.r1.example.com"[..])]);
    let refusal = refused(&[frame(HEADERS, END_HEADERS, 1, &block)]);
    assert!(matches!(refusal, Refusal::ForeignAuthority { stream: 1, .. }), "{refusal:?}");
}

#[test]
fn a_flood_of_continuations_is_bounded() {
    let mut frames = vec![frame(HEADERS, 0, 1, &[0x82])];
    frames.extend((0..10_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    assert_eq!(refused(&frames), Refusal::TooLong);
    let mut large = BytesMut::new();
    Head { length: MAX_BLOCK, kind: HEADERS, flags: 0, stream: 1 }.write(&mut large);
    assert_eq!(refused(&[large]), Refusal::TooLong);
}

#[test]
fn ports_case_and_a_final_dot_make_no_other_host() {
    for same in [
        NAME,
        "A.R1.Example.Com",
        "a.r1.example.com:443",
        "a.r1.example.com.:",
        "a.r1.example.com.",
    ] {
        assert!(same_host(same.as_bytes(), NAME), "{same}");
    }
    for other in [
        "",
        ":443",
        "b.r1.example.com",
        "a.r1.example.com:x",
        "x@a.r1.example.com",
        "a.r1.example.com..",
    ] {
        assert!(!same_host(other.as_bytes(), NAME), "{other}");
    }
}
