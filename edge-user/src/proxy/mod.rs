//! Static outbound addresses: all that a proxied container sends to the internet leaves under its
//! proxy's address, or not at all.
//!
//! In the order that things happen: the region says which `proxies` there are; a gateway is
//! `serving` those of their addresses that it may; a `plan` says which way each container's egress
//! goes; the `keeper` writes it into the kernel's tables and into source NAT (`snat`), which
//! `counts`; the `board` is for those who ask. Between machines packets go by `wireguard`.

pub mod board;
pub mod counts;
pub mod keeper;
pub mod plan;
pub mod serving;
pub mod snat;
pub mod wireguard;
