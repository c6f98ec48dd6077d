//! What a daemon has of proxies: on a machine that may serve addresses their service, in a region
//! WireGuard, and everywhere what keeps tables and source NAT.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    joined::Joined,
    machine::{self, Machine},
    role::{Orders, Role},
};
use crate::{
    admin::ProxyService,
    cli::Place,
    host::{containers::Containers, uplink::Uplink},
    proxy::{
        keeper::{Keeper, Nudge, Nudges, Source},
        serving::{Lent, Record, Serving},
    },
    region::{proxies::Proxies, store::Store},
};

/// What it is made of.
pub(super) struct Ground<'d> {
    pub(super) place: &'d Place,
    pub(super) orders: &'d Orders,
    pub(super) machine: &'d Machine,
    pub(super) joined: Option<&'d Joined>,
    pub(super) uplinks: &'d [Uplink],
    pub(super) state_dir: &'d Path,
    /// The state of a machine that is alone.
    pub(super) durable: Arc<dyn Store>,
    pub(super) containers: Arc<Containers>,
    /// This machine's number.
    pub(super) host: u16,
}

impl Ground<'_> {
    /// Begins all of it; when this returns, what is known is in the tables.
    ///
    /// # Errors
    /// If the state, the keys or what an earlier daemon recorded cannot be read.
    pub(super) async fn begin(
        self,
        (nudge, nudges): (Nudge, Nudges),
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<ProxyService> {
        let store = match self.joined {
            None => Some(Proxies::new(self.durable.clone())),
            Some(joined) => joined.proxies(),
        };
        let serving = match &store {
            Some(proxies) => Some(self.serving(proxies.clone()).await?),
            None => None,
        };
        let snat = machine::snat(self.place, self.orders);
        // A gateway, to which hosts send: before there is an interface that they could send to.
        let stays = self.joined.is_some() && serving.is_some();
        if stays {
            snat.shut()?;
        }
        let (told, ways) = watch::channel(BTreeMap::new());
        let board = self.containers.proxies().clone();
        if let Some(joined) = self.joined {
            let names = machine::wireguard(self.place);
            let life = self.orders.key_life();
            let mesh =
                joined.mesh(self.state_dir, names, self.machine, told, board.clone(), life)?;
            let speaks = mesh.start(joined.member.view(), shutdown.clone());
            tasks.spawn(speaks.context("a thread for WireGuard; see `ulimit -u`")?);
        }
        if let Some(public) = self.joined.and_then(|joined| joined.public.as_ref()) {
            let board = board.clone();
            public.plane.count_traffic_by(Arc::new(move || board.counts().traffic));
        }
        let keeper = Keeper {
            datapath: self.machine.datapath.clone(),
            snat,
            board,
            containers: self.containers.clone(),
            own: self.host,
            source: match self.joined {
                None => Source::Alone(Proxies::new(self.durable)),
                Some(joined) => Source::Region(joined.member.view()),
            },
            serving,
            stays,
            ways,
            whole: false,
            run_dir: self.place.run_dir(),
        };
        tasks.spawn(keeper.keep(nudges, shutdown.clone()));
        nudge.settled().await;
        let member = self.joined.map(|joined| joined.member.clone());
        let (containers, datapath) = (self.containers, self.machine.datapath.clone());
        Ok(ProxyService { store, containers, datapath, member, keeper: nudge })
    }

    async fn serving(&self, proxies: Proxies) -> anyhow::Result<Serving> {
        let lent = Lent {
            networks: self.orders.args.proxy_addresses.clone(),
            uplink: self.uplinks.first().map(|uplink| (uplink.name.clone(), uplink.index)),
            record: Record::open(&self.place.run_dir())?,
        };
        let several = matches!(&self.orders.role, Role::Gateway(gateway) if gateway.etcd.is_some());
        let links = self.machine.links.clone();
        Ok(Serving::open(proxies, self.host, links, lent, several).await?)
    }
}
