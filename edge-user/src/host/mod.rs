//! What a machine does for its containers.

pub mod capabilities;
pub mod control;
mod encloser;
pub mod init;
pub mod mountinfo;
pub mod mounts;
pub mod names;
mod pid1;
pub mod run;
pub mod signals;
mod sys;
mod terminal;
pub mod view;
