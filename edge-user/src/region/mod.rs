//! What a region knows: its containers, its tunnels, and the store that keeps both.
//!
//! Of several machines, in the order that things happen: a machine joins with a `token` and has
//! an `identity`; it speaks `tls` to a `server`, whose `service` carries out its `claims` in the
//! store and tells it in a `session` what of the gateway's `mirror` concerns it; its `member`
//! keeps that as a `view`.

pub mod addresses;
pub mod affiliation;
pub mod allow;
pub mod bounds;
pub mod claims;
pub mod cluster;
pub mod clusters;
pub mod common;
pub mod convert;
pub mod embedded;
pub mod etcd;
pub mod gate;
pub mod identity;
pub mod member;
pub mod mirror;
pub mod names;
pub mod ports;
pub mod proxies;
pub mod proxy;
pub mod records;
pub mod registry;
pub mod rest;
pub mod roster;
pub mod server;
pub mod service;
pub mod session;
pub mod spread;
pub mod steering;
pub mod store;
pub mod tls;
pub mod token;
pub mod tunnel;
pub mod tunnels;
pub mod view;
pub mod workspaces;

#[cfg(test)]
mod tests;
