//! The gateway's userspace half.

pub mod authority;
pub mod authority_error;
pub mod certificates;
mod key_files;
pub mod operator_files;
