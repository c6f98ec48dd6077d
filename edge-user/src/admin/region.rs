//! What the commands say of the region's machines, and to them.

use std::{sync::Arc, time::Duration};

use tonic::Status;

use super::answers::describe_tunnel;
use crate::{
    error::causes,
    gateway::region_tunnels::RegionTunnels,
    host::{
        steering::KernelSteering,
        uplink::{self, Uplink},
    },
    region::{
        member::Member,
        roster::HostRecord,
        server::ControlPlane,
        view::{Host, View},
    },
    wire::admin as wire,
};

/// The longest that a token may live: what is longer is a mistake of units.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A daemon's part in its region, as far as commands ask for it.
pub struct RegionPart {
    /// In a region of several machines.
    pub member: Option<Arc<Member>>,
    /// On a gateway.
    pub gateway: Option<GatewayPart>,
    /// This machine's own interfaces, those towards the other machines first.
    pub interfaces: Vec<Uplink>,
}

/// What only gateways can do.
pub struct GatewayPart {
    /// The control plane.
    pub plane: Arc<ControlPlane<RegionTunnels>>,
    /// What it makes public.
    pub tunnels: Arc<RegionTunnels>,
    /// Where other machines find it.
    pub endpoints: Vec<String>,
}

impl RegionPart {
    /// The machines of the region, by number. `containers` is how many run here.
    pub(super) fn hosts(&self, containers: usize) -> Vec<wire::Host> {
        let Some(member) = &self.member else { return vec![self.alone(containers)] };
        let view = member.view().borrow().clone();
        view.hosts.values().map(|host| self.host(&view, host, member)).collect()
    }

    /// The containers of other machines.
    pub(super) fn other_containers(&self) -> Vec<wire::Container> {
        let Some(member) = &self.member else { return Vec::new() };
        let view = member.view().borrow().clone();
        let others = view.containers.values().filter(|one| one.host != member.host());
        let mut others: Vec<_> = others
            .map(|one| wire::Container {
                id: one.id.clone(),
                name: one.name.clone(),
                workspace: one.workspace.clone(),
                host: one.host.to_string(),
                ipv4: one.ipv4.to_string(),
                i6pn: one.i6pn.to_string(),
                private: one.private,
                proxy: one.proxy.as_ref().map(|proxy| proxy.name.clone()).unwrap_or_default(),
                ..wire::Container::default()
            })
            .collect();
        others.sort_by(|a, b| (&a.workspace, &a.name).cmp(&(&b.workspace, &b.name)));
        others
    }

    /// The tunnels of other machines' containers, which only a gateway knows.
    pub(super) fn other_tunnels(&self, steering: &KernelSteering) -> Vec<wire::Tunnel> {
        let Some(gateway) = &self.gateway else { return Vec::new() };
        let mut others = gateway.tunnels.away();
        others.sort_by(|a, b| (&a.container.id, a.port).cmp(&(&b.container.id, b.port)));
        others.iter().map(|tunnel| describe_tunnel(tunnel, steering)).collect()
    }

    /// Takes everything from a host.
    pub(super) async fn forget(&self, number: u32) -> Result<(), Status> {
        let gateway = self.gateway("hosts forget")?;
        let unknown = || {
            Status::not_found(format!(
                "host {number}: the region has none of this number; `edge hosts` lists them"
            ))
        };
        let id = u16::try_from(number).map_err(|_large| unknown())?;
        if self.member.as_ref().is_some_and(|member| member.host() == id) {
            return Err(Status::failed_precondition(format!(
                "host {number}: it is this gateway itself; end it with `edge down`, and forget it on another one"
            )));
        }
        let forgotten = gateway.plane.forget(id).await;
        match forgotten
            .map_err(|error| Status::internal(format!("host {number}: {}", causes(&error))))?
        {
            true => Ok(()),
            false => Err(unknown()),
        }
    }

    /// Makes a join token.
    pub(super) async fn token(&self, request: wire::CreateTokenRequest) -> Result<String, Status> {
        let gateway = self.gateway("token")?;
        let ttl = Duration::from_millis(request.ttl);
        if ttl.is_zero() || ttl > LONGEST {
            return Err(Status::invalid_argument(
                "token: its time is out of range; give --ttl 1h, or up to 366d",
            ));
        }
        if request.uses == 0 {
            return Err(Status::invalid_argument(
                "token: nobody could join with it; give --uses 1 or more",
            ));
        }
        if gateway.endpoints.is_empty() {
            return Err(Status::failed_precondition(
                "token: no underlay of the gateway has an address that its --control listens on; name one with --control",
            ));
        }
        let made = gateway.plane.create_token(gateway.endpoints.clone(), ttl, request.uses).await;
        let token = made.map_err(|error| Status::internal(format!("token: {}", causes(&error))))?;
        Ok(token.to_string())
    }

    fn gateway(&self, thing: &str) -> Result<&GatewayPart, Status> {
        self.gateway.as_ref().ok_or_else(|| {
            let remedy = "give the command on a gateway";
            Status::failed_precondition(match &self.member {
                Some(member) => format!("{thing}: this machine is host {} of its region; {remedy}", member.host()),
                None => format!("{thing}: this machine is a region of its own (`edge up`); start it with `edge gateway` to let others join"),
            })
        })
    }

    fn host(&self, view: &View, Host { record, alive }: &Host, member: &Member) -> wire::Host {
        let HostRecord { id, role, blocks, about, .. } = record;
        let lag = match &self.gateway {
            Some(gateway) => gateway.plane.sessions().lag(*id),
            // Of the others it knows nothing.
            None if *id == member.host() => member.lag(),
            None => None,
        };
        let first = about.uplinks.first();
        let containers = view.containers.values().filter(|container| container.host == *id);
        wire::Host {
            id: (*id).into(),
            role: role.label().to_owned(),
            alive: *alive,
            version: about.version.clone(),
            underlay: about.underlay.iter().map(ToString::to_string).collect(),
            hook: first.map(|uplink| uplink.hook.clone()).unwrap_or_default(),
            mtu: first.map_or(0, |uplink| uplink.mtu),
            lag: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            blocks: blocks.iter().map(ToString::to_string).collect(),
            containers: u32::try_from(containers.count()).unwrap_or(u32::MAX),
            runs_members: about.runs_members.into(),
        }
    }

    fn alone(&self, containers: usize) -> wire::Host {
        let first = self.interfaces.first();
        wire::Host {
            id: 1,
            role: "single".to_owned(),
            alive: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hook: first.map(|one| uplink::hook_label(one.mode)).unwrap_or_default().to_owned(),
            mtu: first.map_or(0, |one| one.mtu),
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
            ..wire::Host::default()
        }
    }
}
