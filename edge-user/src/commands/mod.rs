//! The commands people type.

pub mod forward;
