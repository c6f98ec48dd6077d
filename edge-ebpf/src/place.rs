//! The one place where an offset into a frame becomes a pointer, checked as the verifier wants it, and
//! where the bytes behind a pointer are read and written: in words, though they are aligned to
//! nothing, which compiled code would do byte by byte. The machines that BPF runs on can.

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

/// A field of 32 bits of a program's context, at a constant offset. What the verifier finds to be a
/// pointer into the frame is one only in whole, which the compiler, told of 32 bits, would not
/// leave alone.
///
/// # Safety
/// The context must have such a field.
#[inline(always)]
pub(crate) unsafe fn field<const AT: usize, C>(context: *const C) -> usize {
    let field: usize;
    // SAFETY: the caller says that it is there.
    unsafe {
        asm!("{field} = *(u32 *)({context} + {at})", field = out(reg) field,
            context = in(reg) context, at = const AT, options(pure, readonly, nostack));
    }
    field
}

macro_rules! words {
    ($read:ident, $write:ident, $word:ty, $load:literal, $store:literal) => {
        #[inline(always)]
        unsafe fn $read(from: *const u8) -> $word {
            let word: u64;
            // SAFETY: the caller says that the bytes are there.
            unsafe {
                asm!($load, word = out(reg) word, from = in(reg) from,
                    options(pure, readonly, nostack));
            }
            word as $word
        }

        #[inline(always)]
        unsafe fn $write(to: *mut u8, word: $word) {
            // SAFETY: the caller says that the bytes are there.
            unsafe {
                asm!($store, word = in(reg) u64::from(word), to = in(reg) to, options(nostack));
            }
        }
    };
}

words!(read_8, write_8, u64, "{word} = *(u64 *)({from} + 0)", "*(u64 *)({to} + 0) = {word}");
words!(read_4, write_4, u32, "{word} = *(u32 *)({from} + 0)", "*(u32 *)({to} + 0) = {word}");
words!(read_2, write_2, u16, "{word} = *(u16 *)({from} + 0)", "*(u16 *)({to} + 0) = {word}");

/// The bytes there; an even number.
///
/// # Safety
/// They must be within the frame.
#[inline(always)]
pub(crate) unsafe fn read<const N: usize>(from: *const [u8; N]) -> [u8; N] {
    const { assert!(N.is_multiple_of(2)) };
    let (from, mut bytes, mut at) = (from.cast::<u8>(), [0; N], 0);
    // SAFETY: no word reaches beyond the `N` bytes.
    unsafe {
        while at + 8 <= N {
            bytes[at..at + 8].copy_from_slice(&read_8(from.add(at)).to_ne_bytes());
            at += 8;
        }
        if at + 4 <= N {
            bytes[at..at + 4].copy_from_slice(&read_4(from.add(at)).to_ne_bytes());
            at += 4;
        }
        if at + 2 <= N {
            bytes[at..at + 2].copy_from_slice(&read_2(from.add(at)).to_ne_bytes());
        }
    }
    bytes
}

/// Puts bytes there; an even number.
///
/// # Safety
/// They must be within the frame.
#[inline(always)]
pub(crate) unsafe fn write<const N: usize>(to: *mut [u8; N], bytes: [u8; N]) {
    const { assert!(N.is_multiple_of(2)) };
    let to = to.cast::<u8>();
    let (eights, rest) = bytes.as_chunks::<8>();
    let (fours, twos) = rest.as_chunks::<4>();
    // SAFETY: no word reaches beyond the `N` bytes.
    unsafe {
        for (number, eight) in eights.iter().enumerate() {
            write_8(to.add(number * 8), u64::from_ne_bytes(*eight));
        }
        if let [four] = fours {
            write_4(to.add(N / 8 * 8), u32::from_ne_bytes(*four));
        }
        if let [a, b] = *twos {
            write_2(to.add(N - 2), u16::from_ne_bytes([a, b]));
        }
    }
}

/// The same word, of which the verifier does not know any more what it is. `any` is something of the
/// context, which may be anything.
#[inline(always)]
pub(crate) fn forget(word: u32, any: usize) -> u32 {
    let mut word = u64::from(word);
    // SAFETY: two instructions between registers.
    unsafe {
        asm!("{word} ^= {any}", "{word} ^= {any}", word = inout(reg) word, any = in(reg) any,
            options(pure, nomem, nostack));
    }
    word as u32
}
