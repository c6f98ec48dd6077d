//! WireGuard between hosts and the gateways that serve proxies' addresses, in userspace: the
//! protocol is `gotatun`'s, packets come and go by a TUN interface.
//!
//! A host has an interface to each gateway, since two peers of one interface cannot both have all
//! of the internet; a gateway has one for all hosts, and takes from each what its own address
//! blocks may send. Keys are made by each machine, told with its announcement, and changed every so
//! often (`rotation`). A host asks each gateway for a sign of life (`probe`), so that a way that leads
//! nowhere is no way.

mod device;
mod engine;
mod keys;
mod mesh;
mod paths;
mod peers;
mod probe;
mod rotation;
mod there;
mod tun;
mod udp;

pub use self::{
    keys::Keys,
    mesh::{Mesh, PORT},
    paths::{Path, Paths, Toward},
    rotation::Rotation,
};

/// What WireGuard puts around a packet, over IPv6: 40 bytes, 8 of UDP, 32 of its own. Over IPv4 it
/// would be 20 less, and one number for both ends is simpler.
pub const OVERHEAD: u32 = 80;

/// Bytes of the largest packet on an interface over an underlay of this MTU; buffers have 4096.
pub fn mtu(underlay: u32) -> u32 {
    underlay.saturating_sub(OVERHEAD).min(4000)
}
