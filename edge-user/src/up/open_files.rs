//! How many files the daemon may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Goes up to what the machine allows. Login shells and systemd start programs with 1,024 for
/// the sake of select(2), which nothing here calls, and each relayed connection takes two.
pub(super) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays low; `edge check` says how low");
    }
}
