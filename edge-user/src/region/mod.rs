//! What a region knows: its containers, its tunnels, and the store that keeps both.

pub mod embedded;
pub mod steering;
pub mod store;
pub mod tunnel;
