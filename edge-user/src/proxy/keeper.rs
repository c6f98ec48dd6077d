//! Keeps tables and source NAT as the region's proxies, and this machine's containers, want them.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use edge_common::tables::ProxyRow;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, Posted},
    plan::{Client, Plan, Way, plan},
    serving::Serving,
    snat::{Nat, Snat},
};
use crate::{
    datapath::Datapath,
    error::causes,
    host::{containers::Containers, sysctl::Sysctls},
    region::{proxies::Proxies, proxy::Known, view::View},
};

/// How often a gateway looks whether addresses are its to serve.
const ROUND: Duration = Duration::from_secs(2);

/// What a keeper works with.
pub struct Keeper {
    /// The kernel half.
    pub datapath: Arc<Datapath>,
    /// The table of source NAT.
    pub snat: Snat,
    /// Where it says what it knows.
    pub board: Arc<Board>,
    /// The containers of this machine.
    pub containers: Arc<Containers>,
    /// This machine's number.
    pub own: u16,
    /// Who says which proxies there are.
    pub source: Source,
    /// Of a machine that may serve addresses.
    pub serving: Option<Serving>,
    /// Whether the table of source NAT stays when it has nothing to do: without it a gateway would
    /// send on under its own address what hosts send it.
    pub stays: bool,
    /// WireGuard interfaces to gateways.
    pub ways: watch::Receiver<BTreeMap<u16, Way>>,
    /// Whether all of what is written is as it was meant; at the beginning nobody knows.
    pub whole: bool,
    /// Where it is recorded how the kernel was set before.
    pub run_dir: PathBuf,
}

/// Who says which proxies there are.
pub enum Source {
    /// The store of a machine that is alone, whose only writer is this daemon.
    Alone(Proxies),
    /// The region.
    Region(watch::Receiver<Arc<View>>),
}

/// Asks a keeper to look anew.
#[derive(Debug, Clone)]
pub struct Nudge(mpsc::Sender<oneshot::Sender<()>>);

/// What a keeper hears.
pub struct Nudges(mpsc::Receiver<oneshot::Sender<()>>);

/// Both ends.
pub fn nudge() -> (Nudge, Nudges) {
    let (sender, receiver) = mpsc::channel(64);
    (Nudge(sender), Nudges(receiver))
}

impl Nudge {
    /// Waits for nothing: a keeper that has much to do looks anyway.
    pub fn soon(&self) {
        self.0.try_send(oneshot::channel().0).ok();
    }

    /// Returns when what is there now is in the tables; at once where nobody keeps them.
    pub async fn settled(&self) {
        let (done, waiting) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            waiting.await.ok();
        }
    }
}

impl Keeper {
    /// Keeps them until the shutdown. What is in the tables then stays.
    pub async fn keep(mut self, mut nudges: Nudges, shutdown: CancellationToken) {
        let mut written = None;
        let mut views = match &self.source {
            Source::Alone(_) => None,
            Source::Region(views) => Some(views.clone()),
        };
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
            tokio::select! {
                Some(done) = nudges.0.recv() => waiting.push(done),
                () = changed(&mut views) => {}
                Ok(()) = self.ways.changed() => {}
                _ = tick.tick(), if self.serving.is_some() || !self.whole => {}
                () = shutdown.cancelled() => return,
            }
            while let Ok(done) = nudges.0.try_recv() {
                waiting.push(done);
            }
            self.round(&mut written).await;
            for done in waiting {
                // Who does not wait any more does not care.
                done.send(()).ok();
            }
        }
    }

    async fn round(&mut self, written: &mut Option<Plan>) {
        let known = match self.known().await {
            Ok(Some(known)) => known,
            // Until the region has been heard of, what an earlier daemon wrote stays.
            Ok(None) => return,
            Err(error) => {
                let error = causes(&error);
                tracing::warn!(error, "the region's proxies cannot be read; all stays as it is");
                return;
            }
        };
        let known = match &mut self.serving {
            Some(serving) => serving.round(known).await,
            None => known,
        };
        let ways = self.ways.borrow_and_update().clone();
        let mut next = plan(self.own, &known, &self.clients(), &ways);
        if let Some(serving) = &self.serving {
            next.nat.guard(serving.own());
        }
        self.board.post(Posted {
            known,
            own: self.own,
            ways,
            standings: next.standings.clone(),
            users: next.users.clone(),
            is_complete: self.serving.is_some(),
        });
        if self.whole && written.as_ref() == Some(&next) {
            return;
        }
        let before = written.take().unwrap_or_default();
        match self.write(&before, &next, !self.whole).await {
            Ok(()) => (*written, self.whole) = (Some(next), true),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "proxies: the kernel is not told all; trying again");
                // Whichever of them is there: the next round takes away what it does not want.
                let mut perhaps = before;
                perhaps.rows.extend(next.rows);
                (*written, self.whole) = (Some(perhaps), false);
            }
        }
    }

    /// First what takes ways away, then addresses, then what gives ways: nothing leaves under an
    /// address that is not its own.
    async fn write(&self, before: &Plan, next: &Plan, first: bool) -> anyhow::Result<()> {
        for container in before.rows.keys().filter(|key| !next.rows.contains_key(key)) {
            self.datapath.remove_proxy((*container).into())?;
        }
        if next.has_ipv6() && (first || !before.has_ipv6()) {
            Sysctls::open(&self.run_dir)?.forward_ipv6()?;
        }
        self.nat(&before.nat, &next.nat, first).await?;
        let differs = |(key, row): &(&IpAddr, &ProxyRow)| before.rows.get(*key) != Some(*row);
        for (container, row) in next.rows.iter().filter(differs) {
            self.datapath.add_proxy((*container).into(), *row)?;
        }
        if first {
            self.datapath.settle_proxies()?;
        }
        Ok(())
    }

    async fn nat(&self, before: &Nat, next: &Nat, first: bool) -> anyhow::Result<()> {
        if !first && before == next {
            return Ok(());
        }
        let (snat, before, next) = (self.snat.clone(), before.clone(), next.clone());
        let (board, stays) = (self.board.clone(), self.stays);
        // `nft` is a process that is waited for.
        let done = tokio::task::spawn_blocking(move || {
            // Nobody's packets are to pass a table that has nothing to say.
            let goes = next.is_empty() && !stays;
            if goes {
                board.count(None);
                return snat.remove();
            }
            if first || before.is_empty() && !stays {
                snat.install(&next)?;
            } else {
                snat.change(&before, &next)?;
            }
            board.count(Some(snat));
            Ok(())
        });
        Ok(done.await??)
    }

    async fn known(&self) -> Result<Option<Known>, crate::region::store::StoreError> {
        match &self.source {
            Source::Alone(proxies) => proxies.known().await.map(Some),
            Source::Region(views) => {
                let view = views.borrow();
                Ok((view.revision > 0).then(|| view.proxies.clone()))
            }
        }
    }

    fn clients(&self) -> Vec<Client> {
        let here = self.containers.list().into_iter().filter_map(|attached| {
            Some(Client {
                id: attached.container.id.clone(),
                workspace: attached.container.workspace.clone(),
                ipv4: attached.container.ipv4,
                i6pn: attached.container.i6pn,
                proxy: attached.proxy.clone()?,
                here: true,
            })
        });
        let mut clients: Vec<_> = here.collect();
        if let Source::Region(views) = &self.source {
            let view = views.borrow();
            let others = view.containers.values().filter(|one| one.host != self.own);
            clients.extend(others.filter_map(|one| {
                Some(Client {
                    id: one.id.clone(),
                    workspace: one.workspace.clone(),
                    ipv4: one.ipv4,
                    i6pn: one.i6pn,
                    proxy: one.proxy.clone()?,
                    here: false,
                })
            }));
        }
        clients
    }
}

/// When the region's view is another one; never without a region.
async fn changed(views: &mut Option<watch::Receiver<Arc<View>>>) {
    let changed = match views {
        Some(views) => views.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}
