//! A word of a table that several CPUs write at a time. BPF has the three operations that are
//! needed, but its compiler offers `core`'s atomics not at all, for want of others.

#[cfg(not(target_arch = "bpf"))]
mod native {
    use core::sync::atomic::{AtomicU64, Ordering};

    /// Eight bytes, aligned.
    #[repr(transparent)]
    #[derive(Debug, Default)]
    pub struct Word(AtomicU64);

    impl Word {
        /// With a value to begin with.
        pub const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        /// What is there.
        pub fn load(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        /// Puts a value there.
        pub fn store(&self, value: u64) {
            self.0.store(value, Ordering::Relaxed);
        }

        /// Adds to what is there; no other CPU's addition is lost.
        pub fn add(&self, more: u64) {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }
}

#[cfg(target_arch = "bpf")]
mod bpf {
    use core::{arch::asm, cell::UnsafeCell};

    /// Eight bytes, aligned.
    #[repr(transparent)]
    #[derive(Debug, Default)]
    pub struct Word(UnsafeCell<u64>);

    impl Word {
        /// What is there.
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: an aligned word, borrowed; the machine reads it in one piece.
            unsafe { self.0.get().read_volatile() }
        }

        /// Puts a value there.
        #[inline(always)]
        pub fn store(&self, value: u64) {
            // SAFETY: an aligned word, borrowed, in a cell; the machine writes it in one piece.
            unsafe { self.0.get().write_volatile(value) }
        }

        /// Adds to what is there; no other CPU's addition is lost.
        #[inline(always)]
        pub fn add(&self, more: u64) {
            // SAFETY: an aligned word, borrowed, in a cell; one atomic instruction.
            unsafe {
                asm!(
                    "lock *(u64 *)({word} + 0) += {more}",
                    word = in(reg) self.0.get(),
                    more = in(reg) more,
                );
            }
        }
    }
}

#[cfg(target_arch = "bpf")]
pub use bpf::Word;
#[cfg(not(target_arch = "bpf"))]
pub use native::Word;
