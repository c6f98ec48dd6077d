//! What a test may not run without. It fails by name: a skipped test is never green.

use caps::{CapSet, Capability};

/// Namespaces and mounts, links and addresses, programs and maps.
const NEEDED: [Capability; 3] =
    [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_BPF];

/// Panics with the names of the capabilities that this process lacks.
pub fn require() {
    let held = caps::read(None, CapSet::Effective).expect("cannot read this thread's capabilities");
    let missing: Vec<_> =
        NEEDED.iter().filter(|one| !held.contains(one)).map(ToString::to_string).collect();
    assert!(
        missing.is_empty(),
        "this test needs {}; run it as root: cargo xtask test",
        missing.join(", ")
    );
}
