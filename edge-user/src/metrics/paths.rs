//! A machine's ways to others by WireGuard, when it is scraped.

use std::sync::Arc;

use prometheus::{
    GaugeVec, IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::proxy::{board::Board, wireguard};

/// The ways that this machine knows.
pub struct Paths {
    board: Arc<Board>,
    handshake: GaugeVec,
    round_trip: GaugeVec,
    bytes: IntCounterVec,
    unsent: IntCounterVec,
}

impl Paths {
    /// As a board has them.
    ///
    /// # Errors
    /// If the names will not do, which they do.
    pub fn new(board: Arc<Board>) -> prometheus::Result<Self> {
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let counter =
            |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            board,
            handshake: gauge(
                "edge_proxy_path_handshake_age_seconds",
                "Time since the last handshake of WireGuard with a gateway, or with a host that \
                 sends to this one; it is renewed every two minutes.",
                &["machine", "toward"],
            )?,
            round_trip: gauge(
                "edge_proxy_path_round_trip_seconds",
                "How long a gateway's last answer through WireGuard took.",
                &["machine"],
            )?,
            bytes: counter(
                "edge_proxy_path_bytes_total",
                "Bytes that WireGuard sent, encrypted, and received, decrypted; since this daemon \
                 began.",
                &["machine", "toward", "direction"],
            )?,
            unsent: counter(
                "edge_proxy_interface_dropped_packets_total",
                "Packets that a WireGuard interface dropped on their way in: the daemon was not \
                 there, or not fast enough.",
                &["interface"],
            )?,
        })
    }
}

impl Collector for Paths {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [self.handshake.desc(), self.round_trip.desc()];
        let counters = [self.bytes.desc(), self.unsent.desc()];
        gauges.into_iter().chain(counters).flatten().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for gauge in [&self.handshake, &self.round_trip] {
            gauge.reset();
        }
        for counter in [&self.bytes, &self.unsent] {
            counter.reset();
        }
        let wireguard::Paths { all, unsent } = self.board.paths();
        for path in all {
            // A host that never spoke sends nothing by a proxy.
            let Some(age) = path.handshake_age() else { continue };
            let (machine, toward) = (path.machine.to_string(), path.toward.label());
            self.handshake.with_label_values(&[&*machine, toward]).set(age.as_secs_f64());
            for (direction, bytes) in [("out", path.sent), ("in", path.received)] {
                self.bytes.with_label_values(&[&*machine, toward, direction]).inc_by(bytes);
            }
            if let Some(took) = path.round_trip {
                self.round_trip.with_label_values(&[&*machine]).set(took.as_secs_f64());
            }
        }
        for (interface, packets) in &unsent {
            self.unsent.with_label_values(&[interface]).inc_by(*packets);
        }
        let gauges = [self.handshake.collect(), self.round_trip.collect()];
        let counters = [self.bytes.collect(), self.unsent.collect()];
        gauges.into_iter().chain(counters).flatten().collect()
    }
}
