//! The kernel half: thin hooks around `edge-common`'s decisions.
//!
//! Each program reads a frame, asks [`edge_common::decide`], carries out the answer with the
//! helpers of its hook and counts once, at its one exit.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod halves;
mod lookup;
mod maps;
mod place;
mod tc;
mod trace;
mod xdp;

use aya_ebpf::{
    macros::{classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};

/// On a NIC uplink, native mode.
#[xdp(frags)]
fn xdp_uplink(ctx: XdpContext) -> u32 {
    xdp::uplink::<false>(ctx)
}

/// At TCX ingress of an uplink.
#[classifier]
fn tc_uplink(ctx: TcContext) -> i32 {
    tc::uplink::<false>(ctx)
}

/// At TCX ingress of a container's host-side veth.
#[classifier]
fn tc_container(ctx: TcContext) -> i32 {
    tc::container(ctx)
}

/// In the place of `xdp_uplink` while somebody listens; and so the next two.
#[xdp(frags)]
fn xdp_uplink_traced(ctx: XdpContext) -> u32 {
    xdp::uplink::<true>(ctx)
}

/// See [`xdp_uplink_traced`].
#[classifier]
fn tc_uplink_traced(ctx: TcContext) -> i32 {
    tc::uplink::<true>(ctx)
}

/// See [`xdp_uplink_traced`].
#[classifier]
fn tc_container_traced(ctx: TcContext) -> i32 {
    tc::container_traced(ctx)
}

/// In the host's network namespace.
#[sk_lookup]
fn sk_raw_ports(ctx: SkLookupContext) -> u32 {
    lookup::raw_ports(ctx)
}

/// Never returns, so a panic that could be reached fails the verifier at load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
