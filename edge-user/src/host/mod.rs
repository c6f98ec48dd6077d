//! What a machine does for its containers.

pub mod capabilities;
pub mod control;
pub mod init;
pub mod mountinfo;
pub mod mounts;
pub mod names;
pub mod run;
pub mod signals;
mod sys;
mod terminal;
