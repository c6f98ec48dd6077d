//! After a time without gateways: what this machine has and what the region knows become one.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Live, StartError, Tunnels, Wanted, allotment::Allotment};
use crate::region::{
    gate::Gate,
    member::{CallError, Link, Member},
    steering::Steering,
    tunnel::Tunnel,
};

/// Calls to a gateway at a time.
const CALLS: usize = 16;

impl<S: Steering> Tunnels<S> {
    /// Converges with each session that begins, until the shutdown.
    pub async fn follow(
        self: Arc<Self>,
        mut link: watch::Receiver<Link>,
        gate: Gate,
        shutdown: CancellationToken,
    ) {
        let Allotment::Region(gateways) = &self.allotment else { return };
        let member = gateways.member.clone();
        loop {
            tokio::select! {
                connected = link.wait_for(|link| matches!(link, Link::Connected { .. })) => {
                    if connected.is_err() {
                        return;
                    }
                }
                () = shutdown.cancelled() => return,
            }
            let Ok(pass) = gate.pass().await else { return };
            self.converge(&member).await;
            drop(pass);
            tokio::select! {
                away = link.wait_for(|link| matches!(link, Link::Away { .. })) => {
                    if away.is_err() {
                        return;
                    }
                }
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Starts at the gateways what is live here, which changes nothing where they know it, and
    /// stops what is not.
    async fn converge(&self, member: &Member) {
        let live = self.index.all();
        stream::iter(live).for_each_concurrent(CALLS, |tunnel| self.keep(tunnel)).await;
        let own = member.host();
        let view = member.view().borrow().clone();
        let known = view.tunnels.values().filter(|tunnel| tunnel.host == own);
        let known = known.map(|tunnel| (tunnel.container.clone(), tunnel.port));
        stream::iter(known)
            .for_each_concurrent(CALLS, |(container, port)| {
                self.drop_unknown(member, container, port)
            })
            .await;
    }

    async fn keep(&self, tunnel: Arc<Tunnel>) {
        let Allotment::Region(gateways) = &self.allotment else { return };
        let home = self.home(&tunnel.container);
        let mut state = home.state.lock().await;
        let is_it = |live: &&Live| Arc::ptr_eq(&live.tunnel, &tunnel);
        let Some(live) = state.live.get(&tunnel.port).filter(is_it) else { return };
        let wanted = Wanted {
            container: tunnel.container.clone(),
            port: tunnel.port,
            options: tunnel.options.clone(),
            owner: live.owner.clone(),
            idempotency_key: live.idempotency_key.clone(),
        };
        let place = match gateways.start(&wanted).await {
            Ok(place) => place,
            // The next session comes.
            Err(StartError::Region(CallError::Unavailable(_))) => return,
            Err(error) => {
                tracing::error!(%error, tunnel = tunnel.id, "the region does not take a tunnel");
                return;
            }
        };
        if (&place.id, &place.host, &place.raw) == (&tunnel.id, &tunnel.host, &tunnel.raw) {
            return;
        }
        tracing::warn!(
            tunnel = tunnel.id,
            before = tunnel.host,
            now = place.host,
            "this machine was away for so long that its tunnel has a new name"
        );
        state.live.remove(&tunnel.port);
        self.withdraw(&tunnel).await;
        match self.open(self.tunnel(&wanted, place), &wanted).await {
            Ok(tunnel) => {
                let Wanted { owner, idempotency_key, port, .. } = wanted;
                state.live.insert(port, Live { tunnel, owner, idempotency_key });
            }
            Err(error) => tracing::error!(%error, tunnel = tunnel.id, "a tunnel has ended"),
        }
    }

    async fn drop_unknown(&self, member: &Member, container: String, port: u16) {
        let home = self.containers().get(&container).cloned();
        // While it is held nothing starts there.
        let state = match &home {
            Some(home) => Some(home.state.lock().await),
            None => None,
        };
        if state.as_ref().is_some_and(|state| state.live.contains_key(&port)) {
            return;
        }
        match member.stop_tunnel(&container, port).await {
            Ok(_) => tracing::info!(
                container,
                port,
                "the gateways have ended a tunnel that is not here any more"
            ),
            Err(error) => tracing::debug!(%error, container, port, "not stopped"),
        }
    }
}
