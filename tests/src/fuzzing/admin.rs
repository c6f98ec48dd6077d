//! What commands say to the daemon.

use edge_user::admin::fuzzing;

pub(super) fn run(bytes: &[u8]) {
    let Some(Ok(mut ports)) = fuzzing::attach(bytes) else { return };
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), count, "one port has two tunnels");
    assert!(!ports.contains(&0), "a tunnel to port 0");
}
