//! The vocabulary and the decisions that kernel and userspace share.
//!
//! A packet's way through these modules: [`packet`] reads its headers, [`tables`] says what the
//! region knows, [`decide`] comes to a [`verdict`], [`rewrite`] and [`refuse`] change the bytes.
//! Everything is `no_std` and generic over the packet and the tables, so that the same code is
//! verified by the kernel, run natively by the tests, and cannot disagree with itself.

#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod admit;
pub mod checksum;
pub mod decide;
pub mod hosts;
pub mod icmp;
pub mod packet;
pub mod refuse;
pub mod rewrite;
pub mod tables;
pub mod verdict;
pub mod word;

#[cfg(any(test, feature = "user"))]
pub mod native;

#[cfg(test)]
mod properties;
