//! What the next daemon must know of a tunnel.

use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Live, Owner, StartError, Tunnels, allotment::Allotment};
use crate::region::{
    names,
    steering::Steering,
    tunnel::{Container, Tunnel, TunnelOptions},
};

/// A tunnel as it is recorded, under its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelRecord {
    /// The container's id.
    pub container: String,
    /// The container's port.
    pub port: u16,
    /// The whole TLS name.
    pub host: String,
    /// The gateways' TLS port; absent in what older versions wrote.
    #[serde(default)]
    pub tls_port: Option<u16>,
    /// The raw TCP port.
    pub raw: Option<u16>,
    /// In a region of several machines: what its clients dial.
    #[serde(default)]
    pub raw_host: Option<String>,
    /// And the gateway whose address that is.
    #[serde(default)]
    pub raw_gateway: u16,
    /// What its owner asked for.
    pub options: TunnelOptions,
    /// Whether it was given when the container began.
    pub by_daemon: bool,
    /// Of the call that started it or took it over.
    pub idempotency_key: Option<String>,
}

impl TunnelRecord {
    pub(super) fn of(tunnel: &Tunnel, owner: &Owner, idempotency_key: Option<&str>) -> Self {
        Self {
            container: tunnel.container.id.clone(),
            port: tunnel.port,
            host: tunnel.host.clone(),
            tls_port: Some(tunnel.tls_port),
            raw: tunnel.raw.as_ref().map(|raw| raw.port),
            raw_host: tunnel.raw.as_ref().map(|raw| raw.host.clone()),
            raw_gateway: tunnel.raw.as_ref().map_or(0, |raw| raw.gateway),
            options: tunnel.options.clone(),
            by_daemon: matches!(owner, Owner::Daemon),
            idempotency_key: idempotency_key.map(str::to_owned),
        }
    }
}

impl<S: Steering> Tunnels<S> {
    /// Forgets a tunnel that cannot be taken up; its port's rest begins.
    pub async fn abandon(&self, id: &str, record: &TunnelRecord) {
        self.records.forget(id).await;
        if let (Allotment::Own(ports), Some(port)) = (&self.allotment, record.raw) {
            ports.let_rest(port).await;
        }
    }

    /// Takes up a tunnel that outlived the last daemon: same id, name and raw port. Whoever
    /// started it from inside the container is gone, so the container's next call takes it over.
    ///
    /// # Errors
    /// [`StartError::Steering`]; then it has ended.
    pub async fn restore(
        self: &Arc<Self>,
        container: &Arc<Container>,
        id: String,
        record: TunnelRecord,
    ) -> Result<(), StartError> {
        let TunnelRecord { port, host, tls_port, options, by_daemon, idempotency_key, .. } = record;
        let own = self.settings.tls_port;
        let mut raw = self.raw(record.raw);
        let (host, tls_port, stats) = match &self.allotment {
            Allotment::Own(_) => (names::under(&host, &self.settings.domain), own, Arc::default()),
            Allotment::Region(gateways) => {
                if let (Some(raw), Some(host)) = (&mut raw, record.raw_host) {
                    (raw.host, raw.gateway) = (host, record.raw_gateway);
                }
                let stats = (gateways.relayed)(&id).unwrap_or_default();
                (host, tls_port.unwrap_or(own), stats)
            }
        };
        let tunnel = Arc::new(Tunnel {
            id,
            container: container.clone(),
            port,
            host,
            tls_port,
            raw,
            options,
            stats,
            ended: CancellationToken::new(),
        });
        let home = self.home(container);
        let mut state = home.state.lock().await;
        if let Err(source) = self.steering.resume(tunnel.clone()).await {
            self.close(&tunnel).await;
            return Err(StartError::Steering { port, source });
        }
        if let (Allotment::Own(ports), Some(_)) = (&self.allotment, &tunnel.raw) {
            ports.resume(&container.id);
        }
        self.index.insert(&tunnel);
        self.metrics.tunnels.inc();
        let owner = if by_daemon { Owner::Daemon } else { Owner::Connection(Weak::new()) };
        state.live.insert(port, Live { tunnel, owner, idempotency_key });
        Ok(())
    }
}
