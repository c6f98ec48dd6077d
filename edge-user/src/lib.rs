//! The userspace half of edge: gateway, host agent and the commands people type.

pub mod admin;
pub mod check;
pub mod cli;
pub mod commands;
pub mod daemon;
pub mod datapath;
pub mod error;
pub mod gateway;
pub mod host;
pub mod metrics;
mod places;
pub mod proxy;
pub mod region;
mod watched;
mod whole_files;
pub mod wire;
