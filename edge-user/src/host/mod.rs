//! The host agent: containers, and what they see.

pub mod api;
pub mod callers;
pub mod cluster;
pub mod containers;
pub mod dns;
pub mod launcher;
pub mod links;
pub mod members;
pub mod netns;
pub mod nft;
pub mod service;
pub mod sockets;
pub mod steering;
pub mod sysctl;
pub mod tunnel_rows;
pub mod underlay;
pub mod uplink;
pub mod wiring;

pub mod capabilities;
pub mod control;
mod encloser;
pub mod init;
pub mod mountinfo;
pub mod mounts;
pub mod names;
mod pid1;
mod programs;
pub mod run;
pub mod signals;
pub(crate) mod sys;
mod terminal;
pub mod view;
