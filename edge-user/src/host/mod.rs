//! What a host does for its containers.

pub mod api;
pub mod callers;
pub mod dns;
