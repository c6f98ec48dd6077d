//! The HTTP/2 guard: what goes on is what came, whole frames of it, and nothing for another name.

use edge_user::gateway::fuzzing;
use loona_hpack::Decoder;

use super::pieces;

const NAME: &str = "a.r1.example.com";
const PREFACE: usize = 24;
const HEAD: usize = 9;

pub(super) fn run(bytes: &[u8]) {
    let Some((whole, pieces)) = pieces(bytes) else { return };
    let (passed, refusal) = fuzzing::http2(NAME, &pieces);
    assert_eq!(
        (passed.clone(), refusal),
        fuzzing::http2(NAME, &[whole]),
        "pieces made a difference"
    );
    assert!(whole.starts_with(&passed), "what went on is not what came");
    if let Some(authority) = authorities(&passed).into_iter().find(|one| !is_name(one)) {
        panic!("a request for {:?} went on", String::from_utf8_lossy(&authority));
    }
}

/// Every authority and host in what went on. Another reader of frames, as simple as can be: the
/// guard has refused what it could not follow.
fn authorities(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new();
    decoder.set_max_allowed_table_size(64 * 1024);
    let mut block = Vec::new();
    let mut found = Vec::new();
    let mut rest = stream.get(PREFACE..).unwrap_or_default();
    while let Some((head, behind)) = rest.split_at_checked(HEAD) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let Some((mut payload, behind)) = behind.split_at_checked(length) else { break };
        rest = behind;
        if kind == 1 && flags & 0x8 != 0 {
            payload = &payload[1..length - usize::from(payload[0])];
        }
        if kind == 1 && flags & 0x20 != 0 {
            payload = &payload[5..];
        }
        if kind != 1 && kind != 9 {
            continue;
        }
        block.extend_from_slice(payload);
        if flags & 0x4 != 0 {
            let fields = decoder.decode(&block).expect("the guard has decoded it");
            block.clear();
            let named =
                |field: &[u8]| field == b":authority" || field.eq_ignore_ascii_case(b"host");
            found.extend(fields.into_iter().filter(|(field, _)| named(field)).map(|(_, v)| v));
        }
    }
    found
}

/// With or without a port and a final dot.
fn is_name(authority: &[u8]) -> bool {
    let text = String::from_utf8_lossy(authority).to_ascii_lowercase();
    let is_port = |rest: &str| {
        let digits = rest.strip_prefix(':');
        rest.is_empty() || digits.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    let rest = text.strip_prefix(NAME).unwrap_or("?");
    is_port(rest.strip_prefix('.').unwrap_or(rest))
}
