//! The host agent: containers, and what they see.

pub mod links;
pub mod netns;
pub mod nft;
pub mod sockets;
pub mod sysctl;
