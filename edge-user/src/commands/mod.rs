//! The commands people type, as clients of the daemon.

pub mod attach;
pub mod ca;
pub mod check;
pub mod client;
pub mod containers;
pub mod down;
pub mod forward;
pub mod gather;
pub mod hold;
pub mod hosts;
pub mod output;
pub mod proxy;
pub mod token;
pub mod trace;
pub mod tunnels;
