//! How many files the daemon may have open, and for how many connections that is enough.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than anybody has; a machine without a limit still has memory to think of.
const MOST: u64 = 4_000_000;

/// Goes up to what the machine allows, and answers how many that is. Login shells and systemd
/// start programs with 1,024 for the sake of select(2), which nothing here calls.
pub(super) fn raise() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    raised.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit on open files stays low; `edge check` says how low");
        getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _hard)| soft)
    })
}

/// How many connections the gateway may have with this limit. Each takes two files; an eighth is
/// kept for listeners, containers' namespaces, DNS, the API and the commands.
pub(crate) fn connections(limit: u64) -> u64 {
    let limit = limit.min(MOST);
    (limit - (limit / 8).min(4096)) / 2
}
