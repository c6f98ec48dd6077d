//! The tunnels of this machine's containers, made for the role of its daemon.

use std::{collections::BTreeSet, sync::Arc};

use super::{joined::Joined, role::Orders};
use crate::{
    cli::values::PortRange,
    host::steering::KernelSteering,
    region::{
        ports::Ports,
        records::Records,
        rest::REST,
        store::Store,
        tunnels::{Gateways, TunnelRecord, TunnelSettings, Tunnels},
    },
};

/// What tunnels are made of.
pub(super) struct TunnelBasis {
    pub(super) store: Arc<dyn Store>,
    pub(super) lent: BTreeSet<u16>,
    pub(super) settings: TunnelSettings,
    pub(super) records: Records<TunnelRecord>,
}

/// The tunnels of this machine's containers: with ports of its own, or those of its region.
pub(super) async fn tunnels(
    orders: &Orders,
    joined: Option<&Joined>,
    steering: &Arc<KernelSteering>,
    basis: TunnelBasis,
    registry: &prometheus::Registry,
) -> anyhow::Result<Arc<Tunnels<KernelSteering>>> {
    let TunnelBasis { store, lent, settings, records } = basis;
    let steering = steering.clone();
    let Some(joined) = joined else {
        let PortRange { first, last } = orders.args.raw_ports;
        let ports = Ports::open(store, first..=last, REST, &lent).await?;
        return Ok(Tunnels::new(steering, ports, settings, records, registry)?);
    };
    let here = joined.public.as_ref().map(|public| public.tunnels.clone());
    let relayed = move |id: &str| here.as_ref().and_then(|here| here.stats(id));
    let gateways = Gateways { member: joined.member.clone(), relayed: Box::new(relayed) };
    Ok(Tunnels::of_region(steering, gateways, settings, records, registry)?)
}
