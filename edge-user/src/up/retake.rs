//! Taking the machine back from a successor that failed after it had begun to change it.

use std::{net::SocketAddr, sync::Arc};

use super::{
    attach_uplinks, configure, listen,
    machine::{self, Machine},
};
use crate::{
    cli::{Place, UpArgs},
    host::{containers::Containers, service::Service, uplink::Uplink},
};

/// What a running daemon stands on.
pub(super) struct Ground<'d> {
    pub(super) place: &'d Place,
    pub(super) args: &'d UpArgs,
    pub(super) machine: &'d Machine,
    pub(super) uplinks: Vec<Uplink>,
    /// Bytes of the smallest packet on the way out.
    pub(super) mtu: u32,
    /// The public ports that userspace serves.
    pub(super) own: Vec<SocketAddr>,
    pub(super) containers: Arc<Containers>,
    pub(super) service: Arc<Service>,
}

impl Ground<'_> {
    /// Makes everything this daemon's again. What cannot be is said, and the rest goes on.
    pub(super) fn retake(&self) {
        let links = || {
            self.machine.datapath.look_for_links();
            attach_uplinks(self.machine, &self.uplinks)?;
            self.service.take_link()?;
            for attached in self.containers.list() {
                self.containers.relink(&attached)?;
            }
            self.machine.datapath.settle()?;
            anyhow::Ok(())
        };
        for outcome in [
            machine::close_door(self.place, self.args),
            configure(self.args, self.machine, self.mtu),
            listen(self.machine, &self.own),
            links(),
        ] {
            if let Err(error) = outcome {
                let error = format!("{error:#}");
                tracing::error!(error, "something stays as a successor left it; restart edge");
            }
        }
    }
}
