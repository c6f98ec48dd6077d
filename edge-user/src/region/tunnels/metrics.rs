//! How many tunnels there are, and how fast they start.

use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};

/// The registry's metrics.
pub(super) struct Metrics {
    pub(super) tunnels: IntGauge,
    pub(super) start: Histogram,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let tunnels = IntGauge::new("edge_tunnels", "Tunnels that are open.")?;
        // The promise is a few milliseconds: most buckets lie there.
        let seconds = [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
        let start = Histogram::with_opts(
            HistogramOpts::new(
                "edge_tunnel_start_seconds",
                "From the call that starts a tunnel to the moment when it is open; calls that \
                 failed are not counted.",
            )
            .buckets(seconds.to_vec()),
        )?;
        registry.register(Box::new(tunnels.clone()))?;
        registry.register(Box::new(start.clone()))?;
        Ok(Self { tunnels, start })
    }
}
