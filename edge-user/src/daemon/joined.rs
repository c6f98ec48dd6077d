//! What a daemon of a region of several machines has more than one that is alone.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    founding::Founded,
    ground,
    serve::{Found, logged},
    underlay,
};
use crate::{
    admin::{GatewayPart, RegionPart},
    cli::region::Reply,
    error::{Error, Kind},
    gateway::region_tunnels::RegionTunnels,
    host::{
        steering::{self, KernelSteering, Replies},
        underlay::{Own, Underlay},
        uplink::{self, Uplink},
    },
    proxy::{
        board::Board,
        plan::Way as Interface,
        snat::Interfaces,
        wireguard::{self, Keys, Mesh, Rotation},
    },
    region::{
        member::Member,
        proxies::Proxies,
        roster::{self, About, RegionSettings, Role},
        server::ControlPlane,
        tunnel::Directory as _,
        view::{Host, View},
    },
};

/// A daemon's part in its region.
pub(super) struct Joined {
    pub(super) member: Arc<Member>,
    pub(super) settings: RegionSettings,
    pub(super) underlays: Vec<Uplink>,
    /// Of a gateway.
    pub(super) public: Option<Public>,
    /// Ends the control plane; later than everything that speaks to it.
    pub(super) stop: CancellationToken,
}

/// What only a gateway has.
pub(super) struct Public {
    pub(super) plane: Arc<ControlPlane<RegionTunnels>>,
    pub(super) tunnels: Arc<RegionTunnels>,
    /// Where other machines find the control plane.
    pub(super) endpoints: Vec<String>,
    listener: Option<TcpListener>,
}

impl Joined {
    /// A host's.
    ///
    /// # Errors
    /// If an underlay will not do.
    pub(super) async fn host(
        member: Arc<Member>,
        underlays: Vec<Uplink>,
        uplinks: &[Uplink],
        machine: &super::machine::Machine,
    ) -> anyhow::Result<Self> {
        let settings = (*member.view().borrow().settings).clone();
        underlay::fits(&underlays, &settings)?;
        if settings.keys.is_empty()
            && let Some(exposed) = underlay::exposed(&underlays, uplinks, machine).await?
        {
            let cause = "it is also the way to the internet, and the region has no key that tells its \
                         packets from strangers'";
            let remedy = match settings.carriage {
                roster::Carriage::Geneve => "start the gateways with --region-key",
                roster::Carriage::Direct => {
                    "start the gateways with --carriage geneve --region-key, or name an interface of \
                     the region's own"
                }
            };
            return Err(underlay::refused(exposed, cause, remedy));
        }
        let stop = CancellationToken::new();
        Ok(Self { member, settings, underlays, public: None, stop })
    }

    /// A gateway's.
    pub(super) fn gateway(
        founded: Founded,
        underlays: Vec<Uplink>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Founded { plane, tunnels, member, settings, listener } = founded;
        let endpoints = super::founding::endpoints(listener.local_addr()?, &underlays);
        let public = Some(Public { plane, tunnels, endpoints, listener: Some(listener) });
        Ok(Self { member, settings, underlays, public, stop })
    }

    /// The region's proxies, if this machine may change them.
    pub(super) fn proxies(&self) -> Option<Proxies> {
        Some(Proxies::new(self.public.as_ref()?.plane.store().clone()))
    }

    /// What keeps WireGuard interfaces to the region's gateways, and on a gateway to its hosts.
    ///
    /// # Errors
    /// If the keys cannot be read.
    pub(super) fn mesh(
        &self,
        state_dir: &Path,
        names: Interfaces,
        machine: &super::machine::Machine,
        ways: watch::Sender<BTreeMap<u16, Interface>>,
        board: Arc<Board>,
        key_life: Duration,
    ) -> anyhow::Result<Mesh> {
        let member = self.member.clone();
        let announce = Arc::new(move |key| member.announce_key(key));
        Ok(Mesh {
            own: self.member.host(),
            keys: Keys::open(state_dir)?,
            rotation: Rotation { life: key_life, announce },
            port: self.wireguard_port(),
            mtu: self.wireguard_mtu(),
            underlay: underlay::addresses(&self.underlays),
            names,
            links: machine.links.clone(),
            ways,
            board,
        })
    }

    fn wireguard_port(&self) -> Option<u16> {
        self.public.as_ref().map(|_gateway| wireguard::PORT)
    }

    /// Bytes of an IP packet.
    fn wireguard_mtu(&self) -> u32 {
        let underlays = self.underlays.iter().map(|underlay| underlay.mtu);
        wireguard::mtu(underlays.min().unwrap_or(1500))
    }

    /// Says what this machine is; the others hear of it with the next session.
    pub(super) fn announce(&self, uplinks: &[Uplink], keys: &Keys, runs_members: u16) {
        let both =
            self.underlays.iter().chain(uplinks.iter().filter(|uplink| {
                self.underlays.iter().all(|underlay| underlay.index != uplink.index)
            }));
        let uplink = |one: &Uplink| roster::Uplink {
            interface: one.name.clone(),
            hook: uplink::hook_label(one.mode).to_owned(),
            mtu: one.mtu,
        };
        let public = uplinks.iter().flat_map(|uplink| uplink.addresses.iter().copied());
        self.member.announce(About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            underlay: underlay::addresses(&self.underlays),
            uplinks: both.map(uplink).collect(),
            public: if self.public.is_some() { public.collect() } else { Vec::new() },
            control: self.public.as_ref().map_or_else(Vec::new, |own| own.endpoints.clone()),
            wireguard: Some(roster::WireGuard {
                key: keys.public(),
                port: self.wireguard_port().unwrap_or(0),
                mtu: self.wireguard_mtu(),
            }),
            runs_members,
        });
    }

    /// Serves the control plane, if this is a gateway, and keeps a session with one.
    pub(super) fn begin(&mut self, tasks: &TaskTracker) {
        if let Some(public) = &mut self.public
            && let Some(listener) = public.listener.take()
        {
            let plane = public.plane.clone();
            tasks.spawn(logged("control plane", async move { plane.serve(listener).await }));
        }
        self.member.begin();
    }

    /// The tables of the other machines; what is remembered of them is written when this returns.
    pub(super) fn underlay(
        &self,
        machine: &super::machine::Machine,
        settings: edge_common::tables::Settings,
    ) -> anyhow::Result<Arc<Underlay>> {
        let interfaces = self.underlays.iter().map(underlay::interface).collect();
        let own = Own { host: self.member.host(), gateway: self.public.is_some(), interfaces };
        let underlay = Underlay::new(machine.datapath.clone(), own, settings);
        underlay.write(&self.member.view().borrow().clone())?;
        Ok(underlay)
    }

    /// Keeps replies on their way to a gateway that is there, until the shutdown.
    pub(super) fn steer(
        &self,
        steering: &Arc<KernelSteering>,
        way: Way,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let mut views = self.member.view();
        steering.reply_by(way.replies(&views.borrow_and_update().clone()));
        let (steering, shutdown) = (steering.clone(), shutdown.clone());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    changed = views.changed() => if changed.is_err() { return },
                    () = shutdown.cancelled() => return,
                }
                let view = views.borrow_and_update().clone();
                steering.reply_by(way.replies(&view));
            }
        });
    }
}

/// Which way a host sends the replies of raw tunnels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// To a gateway.
    Gateway,
    /// Out by this uplink.
    Uplink(u32),
}

impl Way {
    /// As the operator wishes.
    ///
    /// # Errors
    /// If there is no uplink to send by.
    pub(super) fn new(reply: Reply, uplinks: &[Uplink]) -> anyhow::Result<Self> {
        match (reply, uplinks) {
            (Reply::Gateway, _) => Ok(Self::Gateway),
            (Reply::Direct, [first, ..]) => Ok(Self::Uplink(first.index)),
            (Reply::Direct, []) => Err(Error::new(
                Kind::Refused,
                "--reply direct",
                "no interface towards the internet is named",
                "name one with --uplink, or leave replies to the gateway",
            )
            .into()),
        }
    }

    /// With this view: by the gateway whose address a tunnel has, or while that is away by another
    /// one with the same addresses; where none is known, by the lowest that is there.
    fn replies(self, view: &View) -> Replies {
        let gateways = || view.hosts.values().filter(|host| host.record.role == Role::Gateway);
        let any = gateways().find(|host| host.alive).or_else(|| gateways().next());
        let of = gateways().map(|home| {
            let addresses = home.record.about.addresses();
            let same = |host: &&Arc<Host>| host.alive && host.record.about.addresses() == addresses;
            let stands_in = if home.alive { None } else { gateways().find(same) };
            (home.record.id, self.by(stands_in.unwrap_or(home)))
        });
        Replies { of: of.collect(), others: any.map_or_else(Default::default, |any| self.by(any)) }
    }

    fn by(self, gateway: &Host) -> steering::Reply {
        match self {
            Self::Gateway => steering::Reply::Gateway(gateway.record.id),
            Self::Uplink(uplink) => {
                let public = gateway.record.about.public.clone();
                steering::Reply::Direct { uplink, public }
            }
        }
    }
}

/// Both kinds of interfaces, each once.
pub(super) fn all(uplinks: &[Uplink], underlays: &[Uplink]) -> Vec<Uplink> {
    let others = underlays.iter().filter(|one| uplinks.iter().all(|two| two.index != one.index));
    uplinks.iter().chain(others).cloned().collect()
}

/// Bytes of an IP packet in and out of a container.
pub(super) async fn mtu(
    joined: Option<&Joined>,
    machine: &super::machine::Machine,
    uplinks: &[Uplink],
) -> anyhow::Result<u32> {
    match joined {
        None => ground::mtu(machine, uplinks).await,
        Some(joined) => Ok(joined.settings.mtu),
    }
}

/// What the commands may know and do of the region.
pub(super) fn region_part(joined: Option<&Joined>, interfaces: &[Uplink]) -> RegionPart {
    let gateway = joined.and_then(|joined| joined.public.as_ref()).map(|public| GatewayPart {
        plane: public.plane.clone(),
        tunnels: public.tunnels.clone(),
        endpoints: public.endpoints.clone(),
    });
    let member = joined.map(|joined| joined.member.clone());
    RegionPart { member, gateway, interfaces: interfaces.to_vec() }
}

/// Where a tunnel's name leads, as containers are told.
pub(super) fn located(
    found: Found,
    joined: Option<&Joined>,
    uplinks: &[Uplink],
) -> impl Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static + use<> {
    let own: Vec<IpAddr> = uplinks.iter().flat_map(|uplink| uplink.addresses.clone()).collect();
    // A host has no public address of its own.
    let views = joined.filter(|joined| joined.public.is_none()).map(|joined| joined.member.view());
    move |name| {
        found.by_name(name)?;
        let Some(views) = &views else { return Some(own.clone()) };
        let view = views.borrow().clone();
        let gateways = view.hosts.values().filter(|host| host.alive);
        Some(gateways.flat_map(|host| host.record.about.public.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::steering::Reply as By, region::roster::HostRecord};

    /// Gateways by number, the last byte of their address, and whether they are there.
    fn view(gateways: &[(u16, u8, bool)]) -> View {
        let host = |(id, last, alive): &(u16, u8, bool)| {
            let about = About { public: vec![[203, 0, 113, *last].into()], ..About::default() };
            let record = HostRecord {
                id: *id,
                role: Role::Gateway,
                key: String::new(),
                blocks: Vec::new(),
                about,
            };
            (*id, Arc::new(Host { record, alive: *alive }))
        };
        View { hosts: gateways.iter().map(host).collect(), ..View::default() }
    }

    #[test]
    fn replies_go_by_the_gateway_of_their_address() {
        let of = |gateways: &[(u16, u8, bool)], home: u16| {
            let Replies { of, others } = Way::Gateway.replies(&view(gateways));
            of.get(&home).cloned().unwrap_or(others)
        };
        let apart = |three, five| [(3, 3, three), (5, 5, five)];
        assert_eq!(of(&apart(true, true), 5), By::Gateway(5));
        assert_eq!(of(&apart(true, false), 5), By::Gateway(5), "no other has its address");
        let same = |three, five| [(3, 1, three), (5, 1, five)];
        assert_eq!(of(&same(true, true), 5), By::Gateway(5));
        assert_eq!(of(&same(true, false), 5), By::Gateway(3));
        assert_eq!(of(&same(false, false), 5), By::Gateway(5));
    }

    #[test]
    fn where_no_gateway_is_known_they_go_by_one_that_is_there() {
        let others = |gateways: &[(u16, u8, bool)]| Way::Gateway.replies(&view(gateways)).others;
        assert_eq!(others(&[]), By::Nowhere);
        assert_eq!(others(&[(3, 3, true), (5, 5, true)]), By::Gateway(3));
        assert_eq!(others(&[(3, 3, false), (5, 5, true)]), By::Gateway(5));
        assert_eq!(others(&[(3, 3, false), (5, 5, false)]), By::Gateway(3), "better than none");
        let direct = Way::Uplink(7).replies(&view(&[(3, 3, true)])).others;
        assert_eq!(direct, By::Direct { uplink: 7, public: vec![[203, 0, 113, 3].into()] });
    }
}
