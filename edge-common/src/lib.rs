//! The vocabulary and the decisions that kernel and userspace share.
//!
//! A packet's way through these modules: [`packet`] reads its headers, [`tables`] and [`hosts`]
//! say what the region knows, [`decide`] comes to a [`verdict`] (in `uplink`, `container` and
//! `from_host`, by where the packet comes from), `carry` sends it to another host and `proxied` to a
//! proxy's gateway, [`rewrite`], [`geneve`], [`refuse`] and `complain` change the bytes,
//! [`account`] says whose packet is counted, and [`trace`] is what may be told of it.
//! Everything is `no_std` and generic over the packet and the tables, so that the same code is
//! verified by the kernel, run natively by the tests, and cannot disagree with itself.

#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod account;
pub mod address;
pub mod admit;
mod carry;
pub mod checksum;
mod cluster;
mod complain;
mod container;
pub mod decide;
mod from_host;
pub mod geneve;
pub mod hosts;
pub mod icmp;
mod narrow;
pub mod packet;
mod proxied;
pub mod refuse;
pub mod rewrite;
pub mod tables;
pub mod trace;
mod uplink;
pub mod verdict;
pub mod word;

#[cfg(any(test, feature = "user"))]
pub mod native;

#[cfg(test)]
mod properties;
