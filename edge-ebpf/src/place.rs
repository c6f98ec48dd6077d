//! The one place where an offset into a frame becomes a pointer, checked as the verifier wants it.

use core::arch::asm;

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

/// The same word, of which the verifier does not know any more what it is. `any` is a field of the
/// context, which may be anything.
#[inline(always)]
pub(crate) fn forget(word: u32, any: u32) -> u32 {
    let mut word = u64::from(word);
    // SAFETY: two instructions between registers.
    unsafe {
        asm!("{word} ^= {any}", "{word} ^= {any}", word = inout(reg) word,
            any = in(reg) u64::from(any));
    }
    word as u32
}
