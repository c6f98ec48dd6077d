//! What a region knows: its containers, its tunnels, and the store that keeps both.

pub mod addresses;
pub mod allow;
pub mod bounds;
pub mod embedded;
pub mod gate;
pub mod names;
pub mod ports;
pub mod records;
pub mod rest;
pub mod steering;
pub mod store;
pub mod tunnel;
pub mod tunnels;
pub mod workspaces;
