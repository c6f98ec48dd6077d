//! What the gateway's userspace half counts.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use super::{denial::Denial, h2_guard::Refusal};
use crate::region::tunnel::{DialError, Tunnel};

/// The gateway's counters, registered once.
#[derive(Debug)]
pub struct Metrics {
    handshakes: IntCounterVec,
    handshaking: IntGauge,
    denials: IntCounterVec,
    dial_errors: IntCounterVec,
    h2_refusals: IntCounterVec,
    tls: PathMetrics,
    userspace: PathMetrics,
}

/// How a TLS handshake ended, and its metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// Completed with certificate and key exchange.
    Full,
    /// Completed from a ticket.
    Resumed,
    /// The hello names no tunnel that lives.
    UnknownName,
    /// The hello carries no name.
    NoName,
    /// The first bytes are no ClientHello that rustls takes.
    Malformed,
    /// The hello is longer than the limit.
    TooLong,
    /// The deadline passed first.
    Timeout,
    /// The client went away.
    Closed,
    /// The tunnel's list or its bounds do not let the client in.
    Denied,
    /// Newer clients took its place.
    Displaced,
    /// The tunnel ended first, or the gateway gave up.
    Cut,
    /// Anything else: no common version or cipher, a certificate the client refused.
    Failed,
}

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the TLS listener.
    Tls,
    /// Through the userspace listener behind the raw ports.
    Userspace,
}

/// A handshake that is counted once, however it ends: [`Handshake::Cut`] if nobody says more.
pub(super) struct Begun<'a>(Option<&'a Metrics>);

/// Counters of one way in.
#[derive(Debug, Clone)]
pub(super) struct PathMetrics {
    open: IntGauge,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
}

/// Counts one connection while it lives.
pub(super) struct OpenConnection(IntGauge);

impl Metrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already holds metrics of these names: one gateway to a registry.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let handshakes = IntCounterVec::new(
            Opts::new("edge_tls_handshakes_total", "TLS handshakes by outcome"),
            &["outcome"],
        )?;
        let open = IntGaugeVec::new(
            Opts::new("edge_relay_connections", "Connections that userspace relays now"),
            &["path"],
        )?;
        let bytes = IntCounterVec::new(
            Opts::new("edge_relay_bytes_total", "Payload bytes that userspace relayed"),
            &["path", "direction"],
        )?;
        let dial_errors = IntCounterVec::new(
            Opts::new("edge_dial_errors_total", "Containers that could not be reached"),
            &["reason"],
        )?;
        let h2_refusals = IntCounterVec::new(
            Opts::new("edge_h2_refusals_total", "HTTP/2 connections closed by the guard"),
            &["reason"],
        )?;
        let handshaking = IntGauge::new(
            "edge_handshakes_unfinished",
            "Clients that have not finished their TLS handshake or their plain HTTP request",
        )?;
        let denials = IntCounterVec::new(
            Opts::new("edge_clients_denied_total", "Clients that userspace did not serve"),
            &["reason"],
        )?;
        // From zero, so that the first of its kind is a rise.
        begin(&handshakes, Handshake::ALL.map(Handshake::label));
        begin(&denials, Denial::LABELS);
        begin(&dial_errors, DialError::LABELS);
        begin(&h2_refusals, Refusal::LABELS);
        register(registry, &handshakes)?;
        register(registry, &handshaking)?;
        register(registry, &denials)?;
        register(registry, &open)?;
        register(registry, &bytes)?;
        register(registry, &dial_errors)?;
        register(registry, &h2_refusals)?;
        let path = |label: &str| PathMetrics {
            open: open.with_label_values(&[label]),
            bytes_in: bytes.with_label_values(&[label, "in"]),
            bytes_out: bytes.with_label_values(&[label, "out"]),
        };
        let (tls, userspace) = (path("tls"), path("userspace"));
        Ok(Self { handshakes, handshaking, denials, dial_errors, h2_refusals, tls, userspace })
    }

    pub(super) fn handshake(&self, outcome: Handshake) {
        self.handshakes.with_label_values(&[outcome.label()]).inc();
    }

    /// For a handshake whose end may never be seen.
    pub(super) fn begun(&self) -> Begun<'_> {
        Begun(Some(self))
    }

    /// Counts a client that has yet to finish its handshake, while the guard lives.
    pub(super) fn handshaking(&self) -> OpenConnection {
        self.handshaking.inc();
        OpenConnection(self.handshaking.clone())
    }

    /// Counts a client that is not served.
    pub(super) fn denied(&self, denial: &Denial) {
        self.denials.with_label_values(&[denial.label()]).inc();
    }

    /// The same, and tells the tunnel's owner why.
    pub(super) fn denied_at(&self, tunnel: &Tunnel, denial: &Denial) {
        self.denied(denial);
        tunnel.stats.failed(denial.to_string());
    }

    /// Counts a failed dial, tells the tunnel's owner why, and logs it.
    pub(super) fn dial_failed(&self, tunnel: &Tunnel, error: &DialError) {
        self.dial_errors.with_label_values(&[error.label()]).inc();
        tunnel.stats.failed(error.to_string());
        tracing::info!(tunnel = tunnel.id, reason = error.label(), %error, "container not reached");
    }

    pub(super) fn h2_refused(&self, refusal: &Refusal) {
        self.h2_refusals.with_label_values(&[refusal.label()]).inc();
    }

    pub(super) fn path(&self, way: Way) -> &PathMetrics {
        match way {
            Way::Tls => &self.tls,
            Way::Userspace => &self.userspace,
        }
    }
}

impl Handshake {
    const ALL: [Self; 12] = [
        Self::Full,
        Self::Resumed,
        Self::UnknownName,
        Self::NoName,
        Self::Malformed,
        Self::TooLong,
        Self::Timeout,
        Self::Closed,
        Self::Denied,
        Self::Displaced,
        Self::Cut,
        Self::Failed,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::UnknownName => "unknown_name",
            Self::NoName => "no_name",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Denied => "denied",
            Self::Displaced => "displaced",
            Self::Cut => "cut",
            Self::Failed => "failed",
        }
    }
}

impl PathMetrics {
    pub(super) fn opened(&self) -> OpenConnection {
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    pub(super) fn bytes_in(&self) -> &IntCounter {
        &self.bytes_in
    }

    pub(super) fn bytes_out(&self) -> &IntCounter {
        &self.bytes_out
    }
}

impl Begun<'_> {
    /// Counts how it ended.
    pub(super) fn ended(mut self, outcome: Handshake) {
        if let Some(metrics) = self.0.take() {
            metrics.handshake(outcome);
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.handshake(Handshake::Cut);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn begin<const N: usize>(counter: &IntCounterVec, labels: [&str; N]) {
    for label in labels {
        counter.with_label_values(&[label]);
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: &C,
) -> prometheus::Result<()> {
    registry.register(Box::new(metric.clone()))
}
