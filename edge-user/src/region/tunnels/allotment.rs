//! Where clients find a tunnel: said by this machine, or by the gateways of its region.

use std::sync::Arc;

use super::{StartError, State, Tunnels, Wanted, carried_over};
use crate::region::{
    member::Member,
    names,
    ports::Ports,
    roster,
    steering::Steering,
    tunnel::{RawSocket, Tunnel, TunnelStats},
};

/// Who says where clients find a tunnel.
pub(super) enum Allotment {
    /// This machine, which is its region's only one.
    Own(Ports),
    /// The region's gateways.
    Region(Gateways),
}

/// Finds the counters of a tunnel by its id.
pub type Relayed = Box<dyn Fn(&str) -> Option<Arc<TunnelStats>> + Send + Sync>;

/// The gateways of a machine's region.
pub struct Gateways {
    /// The machine's membership.
    pub member: Arc<Member>,
    /// What this very machine relayed for the tunnel with this id, if it is a gateway too.
    pub relayed: Relayed,
}

/// Where clients find a tunnel.
pub(super) struct Place {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) tls_port: u16,
    pub(super) raw: Option<RawSocket>,
    pub(super) stats: Arc<TunnelStats>,
}

impl Gateways {
    pub(super) async fn start(&self, wanted: &Wanted) -> Result<Place, StartError> {
        let Wanted { container, port, options, .. } = wanted;
        let record = self.member.start_tunnel(&container.id, *port, options).await?;
        Ok(self.place(record))
    }

    /// Ends a tunnel. If no gateway can be reached it ends when one can: see [`Tunnels::converge`].
    pub(super) async fn stop(&self, tunnel: &Tunnel) {
        if let Err(error) = self.member.stop_tunnel(&tunnel.container.id, tunnel.port).await {
            tracing::debug!(%error, tunnel = tunnel.id, "its gateways will hear of its end");
        }
    }

    pub(super) fn place(&self, record: roster::TunnelRecord) -> Place {
        let roster::TunnelRecord { id, place, .. } = record;
        let stats = (self.relayed)(&id).unwrap_or_default();
        Place { id, host: place.name, tls_port: place.tls_port, raw: place.raw, stats }
    }
}

impl<S: Steering> Tunnels<S> {
    /// A place for a new tunnel.
    pub(super) async fn allot(&self, wanted: &Wanted) -> Result<Place, StartError> {
        match &self.allotment {
            Allotment::Own(ports) => Ok(Place {
                id: names::id("tu"),
                host: names::tunnel_host(&self.settings.domain),
                tls_port: self.settings.tls_port,
                raw: self.raw(self.raw_port(ports, wanted).await?),
                stats: Arc::default(),
            }),
            Allotment::Region(gateways) => gateways.start(wanted).await,
        }
    }

    /// A place for the same tunnel with other options: same id and name, and the same raw port if
    /// both have one. Its connections have ended then, for what they were promised has changed.
    pub(super) async fn allot_again(
        &self,
        state: &mut State,
        previous: &Arc<Tunnel>,
        wanted: &Wanted,
    ) -> Result<Place, StartError> {
        let ports = match &self.allotment {
            Allotment::Own(ports) => ports,
            Allotment::Region(gateways) => {
                let place = gateways.start(wanted).await?;
                state.live.remove(&wanted.port);
                // The data path keys its tables by the container's port: the old rows go first.
                self.withdraw(previous).await;
                return Ok(place);
            }
        };
        // With no port left, the tunnel stays as it is.
        let new = match &previous.raw {
            None => self.raw_port(ports, wanted).await?,
            Some(_) => None,
        };
        state.live.remove(&wanted.port);
        let closed = self.withdraw(previous).await;
        let raw = match previous.raw.as_ref().map(|raw| raw.port) {
            None => new,
            Some(port) if closed && wanted.options.unencrypted => Some(port),
            Some(port) => {
                if closed {
                    ports.give_back(&wanted.container.id, port);
                }
                self.raw_port(ports, wanted).await?
            }
        };
        Ok(Place {
            id: previous.id.clone(),
            host: previous.host.clone(),
            tls_port: self.settings.tls_port,
            raw: self.raw(raw),
            stats: Arc::new(carried_over(&previous.stats)),
        })
    }

    /// What a raw port of this machine is called.
    pub(super) fn raw(&self, port: Option<u16>) -> Option<RawSocket> {
        port.map(|port| RawSocket { host: self.settings.raw_host.clone(), port, gateway: 0 })
    }

    async fn raw_port(&self, ports: &Ports, wanted: &Wanted) -> Result<Option<u16>, StartError> {
        if !wanted.options.unencrypted {
            return Ok(None);
        }
        let in_use = |port| self.steering.in_use(port);
        Ok(Some(ports.take(&wanted.container.id, in_use).await?))
    }
}
