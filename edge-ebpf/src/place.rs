//! The one place where an offset into a frame becomes a pointer, checked as the verifier wants it.

/// Headers are read within this many bytes; behind them lies payload.
const MAX_OFFSET: usize = 512;

/// `N` bytes at an offset of the frame between `data` and `end`, if they lie within it.
#[inline(always)]
pub(crate) fn of<const N: usize>(data: usize, end: usize, at: usize) -> Option<*mut [u8; N]> {
    if at > MAX_OFFSET {
        return None;
    }
    let start = data + at;
    (start + N <= end).then_some(start as *mut [u8; N])
}
