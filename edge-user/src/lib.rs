//! The userspace half of edge: gateway, host agent and the commands people type.

pub mod gateway;
pub mod region;
pub mod wire;
