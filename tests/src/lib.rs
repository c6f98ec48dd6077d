//! What tests stand on: namespaces, wires, processes and daemons as guards that clean up
//! after themselves, also when a test panics. A missing privilege or program fails by name.

pub mod attempts;
pub mod bystander;
pub mod crowd;
pub mod differential;
pub mod download;
pub mod echo;
pub mod edge;
pub mod exchange;
pub mod floor;
pub mod forge;
pub mod fuzzing;
pub mod i6pn;
pub mod lab;
pub mod leaks;
pub mod ledger;
pub mod letters;
pub mod load;
pub mod metrics;
pub mod model;
pub mod netns;
pub mod packets;
pub mod privilege;
pub mod process;
pub mod region;
pub mod server;
pub mod strangers;
pub mod tap;
pub mod tenant;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod vitals;
pub mod wire;
pub mod witness;
