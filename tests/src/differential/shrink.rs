//! A smaller frame that fails as well.

/// Cuts bytes off the tail, then sets bytes to zero, for as long as that still fails.
pub(super) fn shrink(frame: &[u8], mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut least = frame.to_vec();
    let mut cut = least.len() / 2;
    while cut > 0 {
        let kept = least.len().saturating_sub(cut);
        if fails(&least[..kept]) {
            least.truncate(kept);
        } else {
            cut /= 2;
        }
    }
    for at in 0..least.len() {
        let byte = std::mem::take(&mut least[at]);
        if byte != 0 && !fails(&least) {
            least[at] = byte;
        }
    }
    least
}
