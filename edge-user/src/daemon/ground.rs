//! What the daemon stands on: uplinks, the kernel half's settings, and the public ports that
//! userspace serves. And how all of it is taken back from a successor that failed.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use edge_common::{
    address::Address,
    tables::{ListenerRow, Settings},
};
use ipnet::Ipv4Net;

use super::{
    machine::{self, Machine},
    role::Orders,
};
use crate::{
    cli::{Place, UpArgs},
    host::{
        api,
        containers::Containers,
        service::Service,
        underlay::in_header,
        uplink::{self, Uplink},
    },
    region::addresses::{AddressPlan, BLOCK},
};

/// Bytes of an IP packet where nothing says otherwise.
const MTU: u32 = 1500;

/// What a running daemon stands on.
pub(super) struct Ground<'d> {
    pub(super) place: &'d Place,
    pub(super) orders: &'d Orders,
    pub(super) machine: &'d Machine,
    /// Towards the internet and the other machines.
    pub(super) uplinks: Vec<Uplink>,
    /// The kernel half's.
    pub(super) settings: Settings,
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
            machine::close_door(self.place, self.orders),
            self.machine.datapath.configure(&self.settings).map_err(Into::into),
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

/// The interfaces that were named, each once.
pub(super) async fn find_uplinks(args: &UpArgs, machine: &Machine) -> anyhow::Result<Vec<Uplink>> {
    let mut uplinks = Vec::new();
    for wanted in &args.uplinks {
        let found = uplink::find(&machine.links, wanted, args.datapath, args.ipv4_pool).await?;
        if uplinks.iter().all(|other: &Uplink| other.index != found.index) {
            uplinks.push(found);
        }
    }
    Ok(uplinks)
}

/// Puts the programs on them.
pub(super) fn attach_uplinks(machine: &Machine, uplinks: &[Uplink]) -> anyhow::Result<()> {
    for uplink in uplinks {
        if let Some(mode) = uplink.mode {
            machine.datapath.attach_uplink(&uplink.name, mode)?;
        }
    }
    Ok(())
}

/// The smallest packet size on the way out: of the uplinks, and of the default route, which
/// ordinary egress takes.
pub(super) async fn mtu(machine: &Machine, uplinks: &[Uplink]) -> anyhow::Result<u32> {
    let default = machine.links.default_interface().await?;
    let links = machine.links.list().await?;
    let egress = links.iter().filter(|link| Some(link.index) == default).map(|link| link.mtu);
    Ok(uplinks.iter().map(|uplink| uplink.mtu).chain(egress).min().unwrap_or(MTU))
}

/// The kernel half's settings, but for what the machines of a region tell each other.
pub(super) fn settings(
    args: &UpArgs,
    mtu: u32,
    plan: &AddressPlan,
    service: Ipv4Addr,
) -> anyhow::Result<Settings> {
    let private: IpAddr = "fdaa::".parse()?;
    let private_mask: IpAddr = "ffff::".parse()?;
    // A mapped IPv4 mask covers the 96 bits before it, too.
    let [.., last] = Address::from(IpAddr::V4(args.ipv4_pool.netmask())).words;
    let block = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, BLOCK.max(args.ipv4_pool.prefix_len()))?;
    Ok(Settings {
        mss_v4: mtu.saturating_sub(40),
        mss_v6: mtu.saturating_sub(60),
        region: plan.region.into(),
        host: plan.host.into(),
        block_mask: in_header(block.netmask()),
        relay: in_header(service),
        complaints: Settings::COMPLAINTS,
        service: IpAddr::V4(api::SERVICE_ADDRESS).into(),
        pool: IpAddr::V4(args.ipv4_pool.network()).into(),
        pool_mask: Address { words: [u32::MAX, u32::MAX, u32::MAX, last] },
        private: private.into(),
        private_mask: private_mask.into(),
        ..Settings::default()
    })
}

/// Lets the kernel half know the public ports that userspace serves.
pub(super) fn listen(machine: &Machine, own: &[SocketAddr]) -> anyhow::Result<()> {
    for address in own {
        let row = ListenerRow { kind: ListenerRow::OWN };
        machine.datapath.add_listener((*address).into(), row)?;
    }
    Ok(())
}
