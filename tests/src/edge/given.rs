//! What `cargo xtask test` tells tests by their environment.

use std::{env, path::PathBuf};

/// The binary under test.
pub fn program() -> PathBuf {
    variable("EDGE_BIN")
}

/// The Python environment with Modal's client.
pub fn venv() -> PathBuf {
    variable("EDGE_VENV")
}

/// Whether the tests that take minutes were asked for.
pub fn long() -> bool {
    env::var_os("EDGE_LONG").is_some()
}

#[track_caller]
fn variable(name: &str) -> PathBuf {
    let value = env::var_os(name).map(PathBuf::from);
    value.unwrap_or_else(|| panic!("{name} is not set; run the tests with: cargo xtask test"))
}
