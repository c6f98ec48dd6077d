//! The userspace half of edge: gateway, host agent and the commands people type.

pub mod commands;
pub mod host;
pub mod region;
pub mod wire;
