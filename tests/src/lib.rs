//! What tests stand on: namespaces, wires, processes and daemons as guards that clean up
//! after themselves, also when a test panics. A missing privilege or program fails by name.

pub mod bystander;
pub mod crowd;
pub mod download;
pub mod echo;
pub mod edge;
pub mod floor;
pub mod lab;
pub mod leaks;
pub mod metrics;
pub mod netns;
pub mod packets;
pub mod privilege;
pub mod process;
pub mod strangers;
pub mod tap;
pub mod tenant;
pub mod tls;
pub mod traffic;
pub mod wire;
