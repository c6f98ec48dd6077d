//! The TLS settings of each tunnel: certificate, protocols, and its own sessions.
//!
//! A tunnel has ticket keys and a session cache of its own, made when its first client comes
//! and dropped when it has ended. So a session can only be resumed at the tunnel, of the one
//! tenant, that it was begun with: not at another under the same certificate, and not at a
//! later one that was given the same name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, Ticketer},
    server::{ClientHello, ServerSessionMemoryCache},
};
use tokio_util::sync::CancellationToken;

use super::certificates::{Certificates, NameCertificate};
use crate::region::tunnel::Tunnel;

/// Sessions kept for a tunnel's TLS 1.2 clients without tickets.
const SESSIONS: usize = 64;
/// Tunnels looked through for ended ones at the earliest.
const FIRST_SWEEP: usize = 64;

/// The settings of all tunnels that had a TLS client.
#[derive(Debug)]
pub(super) struct TunnelConfigs {
    certificates: Arc<Certificates>,
    tunnels: Mutex<Tunnels>,
}

#[derive(Debug)]
struct Tunnels {
    by_id: HashMap<String, TunnelTls>,
    /// Ended tunnels are removed when there are so many.
    sweep_at: usize,
}

#[derive(Debug, Clone)]
struct TunnelTls {
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    ended: CancellationToken,
}

impl TunnelConfigs {
    pub(super) fn new(certificates: Arc<Certificates>) -> Self {
        let tunnels = Tunnels { by_id: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { certificates, tunnels: Mutex::new(tunnels) }
    }

    /// The settings for a client of `tunnel` that said `hello`.
    ///
    /// A client is told of protocols only if it knows one of the tunnel's: with an offer that
    /// does not overlap, RFC 7301 demands an alert, but such clients (PostgreSQL's direct TLS)
    /// are welcome to bytes without a protocol's name.
    pub(super) fn choose(
        &self,
        tunnel: &Tunnel,
        hello: &ClientHello<'_>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let tls = self.of(tunnel)?;
        let ours = &tls.with_alpn.alpn_protocols;
        let overlap = hello.alpn().is_some_and(|mut offered| {
            offered.any(|theirs| ours.iter().any(|protocol| protocol == theirs))
        });
        Ok(if overlap { tls.with_alpn } else { tls.without_alpn })
    }

    /// Whether HTTP/2 clients have to be guarded.
    pub(super) fn shared_certificate(&self) -> bool {
        self.certificates.shared()
    }

    fn of(&self, tunnel: &Tunnel) -> Result<TunnelTls, rustls::Error> {
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tunnels.by_id.get(&tunnel.id) {
            return Ok(known.clone());
        }
        if tunnels.by_id.len() >= tunnels.sweep_at {
            tunnels.by_id.retain(|_, tls| !tls.ended.is_cancelled());
            tunnels.sweep_at = FIRST_SWEEP.max(tunnels.by_id.len() * 2);
        }
        let tls = TunnelTls::new(self.certificates.clone(), tunnel)?;
        tunnels.by_id.insert(tunnel.id.clone(), tls.clone());
        Ok(tls)
    }
}

impl TunnelTls {
    fn new(certificates: Arc<Certificates>, tunnel: &Tunnel) -> Result<Self, rustls::Error> {
        let certificate = NameCertificate::new(certificates, tunnel.host.clone());
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(certificate));
        config.ticketer = Ticketer::new()?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        let mut with_alpn = config.clone();
        if tunnel.options.h2 {
            with_alpn.alpn_protocols.push(b"h2".to_vec());
        }
        with_alpn.alpn_protocols.push(b"http/1.1".to_vec());
        let (with_alpn, without_alpn) = (Arc::new(with_alpn), Arc::new(config));
        Ok(Self { with_alpn, without_alpn, ended: tunnel.ended.clone() })
    }
}
