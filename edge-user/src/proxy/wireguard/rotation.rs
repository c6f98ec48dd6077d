//! New keys for old, while connections go on.
//!
//! Sessions end with the keys that began them, and hosts begin the next. So a gateway changes its keys
//! and then tells the region, and whoever hears begins anew. A host's key is what a gateway knows it
//! by, so a host tells first, and begins anew when the region has heard. Packets between the two
//! moments are lost.

use std::{sync::Arc, time::Duration};

use super::{keys::Keys, there::There};
use crate::region::{roster::HostRecord, view::View};

/// Between the moment when this machine has heard of its own new key and the one when all gateways
/// surely have.
const HEARD: Duration = Duration::from_millis(200);

/// How often a machine changes its keys, and how it tells.
#[derive(Clone)]
pub struct Rotation {
    /// How long keys live.
    pub life: Duration,
    /// Tells the region this machine's public key.
    pub announce: Arc<dyn Fn(String) + Send + Sync>,
}

/// Where a change of keys has got to.
#[derive(Default)]
pub(super) struct Turn {
    next: Option<Keys>,
}

impl Turn {
    /// The keys that handshakes from others are taken under.
    pub(super) fn inward<'k>(&'k self, keys: &'k Keys) -> &'k Keys {
        self.next.as_ref().unwrap_or(keys)
    }

    /// Makes the next keys if it is time, and tells the region.
    pub(super) fn begin(&mut self, keys: &Keys, rotation: &Rotation, there: &There) {
        if self.next.is_some() || keys.age() < rotation.life {
            return;
        }
        let next = Keys::new();
        if let Some(inward) = &there.inward {
            inward.tunnel.answer_as(&next);
        }
        (rotation.announce)(next.public());
        self.next = Some(next);
    }

    /// Takes the next keys once the region has heard of them.
    ///
    /// # Errors
    /// If they cannot be kept.
    pub(super) async fn end(
        &mut self,
        keys: &mut Keys,
        own: u16,
        view: &View,
        there: &There,
    ) -> anyhow::Result<()> {
        let told = view.hosts.get(&own).and_then(|host| told(&host.record));
        let Some(next) = self.next.take_if(|next| Some(next.public()) == told) else {
            return Ok(());
        };
        tokio::time::sleep(HEARD).await;
        keys.replace(next)?;
        for outward in there.outward.values() {
            outward.tunnel.begin_as(keys, &outward.far);
        }
        tracing::info!("this machine speaks WireGuard under a new key");
        Ok(())
    }
}

fn told(record: &HostRecord) -> Option<String> {
    Some(record.about.wireguard.as_ref()?.key.clone())
}
