//! The uplink's programs are two functions, one after the other, so that the stack of one is the
//! other's again: what the first returns is the program's code, or what the second is to look at.

use edge_common::decide::Arrival;

/// Above every code.
const GO_ON: u64 = 1 << 32;

/// The program's code.
#[inline(always)]
pub(crate) fn done(code: u32) -> u64 {
    code.into()
}

/// Another host brought the frame.
#[inline(always)]
pub(crate) fn go_on(arrival: Arrival) -> u64 {
    GO_ON | u64::from(arrival.0)
}

/// What the second function is to look at, if it is to.
#[inline(always)]
pub(crate) fn second(first: u64) -> Option<Arrival> {
    (first & GO_ON != 0).then_some(Arrival(first as u32))
}
