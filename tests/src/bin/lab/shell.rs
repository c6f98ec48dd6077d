//! The shell that the lab lives for.

use std::{
    env,
    ffi::OsString,
    process::{Command, ExitCode},
};

/// The one that the person prefers.
pub(crate) fn program() -> OsString {
    env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())
}

/// Runs it to its end.
pub(crate) fn open(mut command: Command) -> ExitCode {
    match command.status() {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: no shell: {error}; set SHELL to one that is there");
            ExitCode::FAILURE
        }
    }
}
