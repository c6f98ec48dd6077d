//! What goes wrong with a frame on its way, or in the head of whoever sends it.

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

/// Behind this lies payload, mostly.
const HEADERS: usize = 120;
const NETWORK: usize = 14;

/// One to three changes.
pub(super) fn damage(frame: &mut Vec<u8>, rng: &mut SmallRng) {
    for _ in 0..*[1, 1, 2, 3].choose(rng).expect("counts") {
        match rng.random_range(0..12) {
            0 => frame.truncate(rng.random_range(0..=frame.len())),
            // Into the headers, so that most cuts tell something.
            1 => frame.truncate(rng.random_range(12..=frame.len().clamp(12, HEADERS))),
            2 => {
                let padding = rng.random_range(1..=46);
                frame.resize(frame.len() + padding, 0);
            }
            3 => lengths(frame, rng),
            4 => swap_ends(frame),
            _ => {
                let from = NETWORK.min(frame.len());
                let from = if rng.random_bool(0.02) { 0 } else { from };
                damage_header(&mut frame[from..], rng);
            }
        }
    }
}

/// Changes one of a header's bytes, or two.
pub(super) fn damage_header(bytes: &mut [u8], rng: &mut SmallRng) {
    if bytes.len() < 2 {
        return;
    }
    let at = rng.random_range(0..bytes.len().min(HEADERS) - 1);
    match rng.random_range(0..4) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => {
            let edges = [0, 1, 4, 5, 6, 17, 44, 58, 0x45, 0x60, 0x7f, 0x80, 0xff];
            bytes[at] = *edges.choose(rng).expect("bytes");
        }
        _ => {
            let edges: [u16; 6] = [0, 1, 20, 0x7fff, 0xfffe, 0xffff];
            let word = edges.choose(rng).expect("words").to_be_bytes();
            bytes[at..at + 2].copy_from_slice(&word);
        }
    }
}

/// A length that is another: of the IP packet, of its header, of TCP's.
fn lengths(frame: &mut [u8], rng: &mut SmallRng) {
    let is_v4 = frame.get(12..14) == Some(&[0x08, 0x00]);
    let places: &[usize] = if is_v4 { &[14, 17, 46] } else { &[19, 55, 66] };
    let at = *places.choose(rng).expect("places");
    let Some(byte) = frame.get_mut(at) else { return };
    *byte = match at {
        14 => 0x40 | rng.random_range(0..16),
        46 | 66 => rng.random_range(0..16) << 4,
        _ => rng.random(),
    };
}

/// As its receiver would have sent it; checksums do not notice.
fn swap_ends(frame: &mut [u8]) {
    let (addresses, length, transport) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (26, 4, 34),
        Some([0x86, 0xdd]) => (22, 16, 54),
        _ => return,
    };
    if frame.len() < transport + 4 {
        return;
    }
    let (front, back) = frame[addresses..].split_at_mut(length);
    front.swap_with_slice(&mut back[..length]);
    frame[transport..transport + 4].rotate_left(2);
}
