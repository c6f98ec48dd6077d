//! Starts and stops of tunnels, one at a time for each container.

use std::sync::{Arc, PoisonError, Weak};

use tonic::Status;

use super::RegionService;
use crate::{
    region::{
        claims::ClaimError,
        convert, names,
        registry::{Refusal, Registry},
        roster::TunnelRecord,
    },
    wire::region as wire,
};

impl<R: Registry> RegionService<R> {
    /// Makes a port public, and returns when clients are let in.
    pub(super) async fn start(
        &self,
        host: u16,
        request: wire::StartTunnelRequest,
    ) -> Result<TunnelRecord, Status> {
        let port = port(request.port)?;
        let options = convert::read_options(request.options.as_ref())?;
        if options.h2 && options.unencrypted {
            return Err(Status::invalid_argument(
                "a tunnel is either h2 or unencrypted; start two on two ports",
            ));
        }
        let lock = self.lock(&request.container);
        let _held = lock.lock().await;
        self.claims.own_container(host, &request.container).await?;
        let previous = self.claims.tunnel(&request.container, port).await?;
        let registry = self.tunnels.registry();
        let tunnel = match &previous {
            Some(tunnel) if tunnel.options == options => tunnel.clone(),
            _ => {
                let id = previous.as_ref().map_or_else(|| names::id("tu"), |old| old.id.clone());
                let container = request.container;
                loop {
                    let allotted = registry.allot(&container, &options, previous.as_ref()).await;
                    let (id, container) = (id.clone(), container.clone());
                    let (options, place) = (options.clone(), allotted.map_err(refused)?);
                    let tunnel = TunnelRecord { id, container, host, port, options, place };
                    match self.claims.put_tunnel(&tunnel).await {
                        Ok(()) => break tunnel,
                        // Of another gateway, which lent it at the same time.
                        Err(ClaimError::PortTaken(_)) if !keeps(previous.as_ref(), &tunnel) => {
                            registry.lost(&tunnel).await;
                        }
                        Err(error) => {
                            registry.release(&tunnel, previous.as_ref()).await;
                            return Err(error.into());
                        }
                    }
                }
            }
        };
        if let Err(error) = self.tunnels.opened(&tunnel).await {
            self.claims.delete_tunnel(&tunnel.container, port).await?;
            self.tunnels.closed(&tunnel.id).await;
            registry.release(&tunnel, None).await;
            return Err(refused(error));
        }
        Ok(tunnel)
    }

    /// Ends the tunnel on a port, and returns when nobody is let in any more. Answers whether
    /// there was one.
    pub(super) async fn stop(
        &self,
        host: u16,
        request: wire::StopTunnelRequest,
    ) -> Result<bool, Status> {
        let wire::StopTunnelRequest { container, port: number } = request;
        let port = port(number)?;
        let lock = self.lock(&container);
        let _held = lock.lock().await;
        self.claims.own_container(host, &container).await?;
        let tunnel = self.claims.tunnel(&container, port).await?;
        if let Some(tunnel) = &tunnel {
            self.claims.delete_tunnel(&container, port).await?;
            self.tunnels.closed(&tunnel.id).await;
        }
        Ok(tunnel.is_some())
    }

    fn lock(&self, container: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(container).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(container.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Whether a tunnel has the raw port of the one before it.
fn keeps(previous: Option<&TunnelRecord>, tunnel: &TunnelRecord) -> bool {
    previous.is_some_and(|previous| previous.place.raw == tunnel.place.raw)
}

fn port(number: u32) -> Result<u16, Status> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
        Status::invalid_argument(format!("port {number}: not a port; use 1 to 65535"))
    })
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Exhausted(why) => Status::resource_exhausted(why),
        Refusal::Failed(why) => Status::internal(why),
    }
}
