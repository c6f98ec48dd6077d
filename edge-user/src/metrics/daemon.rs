//! The daemon itself, when it is scraped: which one it is, and what it takes of the machine.

use std::sync::Arc;

use prometheus::{IntGaugeVec, Opts, PullingGauge, Registry, process_collector::ProcessCollector};

use crate::host::containers::Containers;

/// Registers what every daemon has: version and role, its containers, and the `process_*` metrics
/// that Prometheus's clients agree on.
///
/// # Errors
/// If the registry is another daemon's.
pub fn register(
    registry: &Registry,
    role: &str,
    containers: Arc<Containers>,
) -> prometheus::Result<()> {
    let about = Opts::new("edge_build_info", "1; which version runs here, in which role.");
    let about = IntGaugeVec::new(about, &["version", "role"])?;
    about.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1);
    registry.register(Box::new(about))?;
    registry.register(Box::new(PullingGauge::new(
        "edge_containers",
        "Containers of this machine.",
        Box::new(move || containers.list().len() as f64),
    )?))?;
    registry.register(Box::new(ProcessCollector::for_self()))
}
