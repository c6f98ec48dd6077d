//! How a daemon's time ends: for good, for a restart, or because another one took over.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use backon::{ConstantBuilder, Retryable as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    clear::{container_text, tunnel_text},
    ground::Ground,
    handover::{
        Holdings,
        predecessor::{Door, Successor},
    },
    public::Relay,
};
use crate::{
    admin::Leaver,
    host::steering::KernelSteering,
    metrics::Exposition,
    region::{embedded::Embedded, gate::Gate, member::Member, tunnels::Tunnels},
};

/// How long relayed connections may go on when everything ends.
const GRACE: Duration = Duration::from_secs(1);
/// For calls that are under way. The API gives its own five seconds.
const CALLS: Duration = Duration::from_secs(6);
/// For a successor that failed to let go of the stores, which its end does.
const STORES: Duration = Duration::from_secs(30);
/// Between attempts to open them.
const PAUSE: Duration = Duration::from_millis(50);

/// What ends the daemon.
pub(super) enum Ending {
    /// Ctrl-C, or `edge down`, which waits to be told what was removed.
    ForGood(Option<Leaver>),
    /// SIGTERM: the next daemon goes on with what containers need.
    Restart,
    /// Another daemon has the region and the machine.
    TakenOver,
    /// The daemon cannot go on, and leaves everything to the next one.
    Failed(anyhow::Error),
}

/// What asks the daemon to end.
pub(super) struct Watch {
    interrupt: Signal,
    terminate: Signal,
    down: mpsc::Receiver<Leaver>,
}

/// All of a running daemon that its end concerns.
pub(super) struct Running<'d> {
    /// Where successors ask.
    pub(super) door: Door,
    /// What they go on with.
    pub(super) holdings: Holdings,
    /// What they open themselves.
    pub(super) stores: Vec<Arc<Embedded>>,
    /// Closed while one takes over.
    pub(super) gate: Gate,
    /// What a successor that fails may have changed.
    pub(super) ground: Ground<'d>,
    /// Whose starts and stops are waited for.
    pub(super) tunnels: Arc<Tunnels<KernelSteering>>,
    /// In a region of several machines, and what ends its control plane, if this is a gateway.
    pub(super) membership: Option<(Arc<Member>, CancellationToken)>,
    /// Ends the acceptors, and all else that serves.
    pub(super) shutdown: CancellationToken,
    /// Ends the names that containers ask for.
    pub(super) resolving: CancellationToken,
    /// Ends the containers.
    pub(super) ending: CancellationToken,
    /// The containers' tasks.
    pub(super) lives: TaskTracker,
    /// What serves.
    pub(super) tasks: TaskTracker,
    /// Whose connections drain.
    pub(super) gateway: Option<Arc<Relay>>,
    /// What Prometheus and supervisors see.
    pub(super) exposition: Exposition,
    /// Who has the region.
    pub(super) successor: Option<Successor>,
    /// How long relayed connections may go on.
    pub(super) drain: Duration,
}

impl Watch {
    /// From now on no signal is missed.
    pub(super) fn new(down: mpsc::Receiver<Leaver>) -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate, down })
    }

    async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => {
                tracing::info!(signal = "SIGINT", "ending everything");
                Ending::ForGood(None)
            }
            _ = self.terminate.recv() => {
                tracing::info!(signal = "SIGTERM", "stopping for a restart");
                Ending::Restart
            }
            Some(leaver) = self.down.recv() => {
                tracing::info!("ending everything: edge down");
                Ending::ForGood(Some(leaver))
            }
        }
    }
}

impl Running<'_> {
    /// Until something ends the daemon. A successor that fails does not.
    pub(super) async fn until(&mut self, watch: &mut Watch) -> Ending {
        loop {
            let successor = tokio::select! {
                ending = watch.next() => return ending,
                successor = self.door.next() => successor,
            };
            match self.hand_over(successor).await {
                Ok(true) => return Ending::TakenOver,
                Ok(false) => {}
                Err(error) => return Ending::Failed(error),
            }
        }
    }

    /// Ends it that way. What relayed connections need, and the machine, are the caller's to end.
    pub(super) async fn end(self, ending: &Ending, watch: &mut Watch) {
        self.exposition.set_ready(false);
        if let Ending::ForGood(leaver) = ending {
            if let Some(leaver) = leaver {
                self.name_all(leaver).await;
            }
            self.ending.cancel();
        }
        match ending {
            Ending::TakenOver => {
                self.exposition.leave();
                self.resolving.cancel();
            }
            Ending::ForGood(_) => self.resolving.cancel(),
            // Until the very end: there is nobody else to ask.
            Ending::Restart | Ending::Failed(_) => {}
        }
        self.shutdown.cancel();
        // With the last descriptor goes the socket, and clients are refused.
        drop((self.holdings, self.door));
        self.lives.close();
        self.lives.wait().await;
        let empty = self.ground.containers.list().is_empty();
        leave(self.membership.as_ref(), empty, ending).await;
        self.tasks.close();
        let gateway = self.gateway.as_deref();
        match ending {
            // Whose call is one of the tasks.
            Ending::ForGood(Some(_)) => drop(drain(gateway, GRACE).await),
            Ending::ForGood(None) => {
                drain(gateway, GRACE).await;
                // What does not end by itself ends with the process.
                tokio::time::timeout(GRACE, self.tasks.wait()).await.ok();
            }
            Ending::Restart | Ending::TakenOver | Ending::Failed(_) => {
                let drained = async {
                    let left = drain(gateway, self.drain).await;
                    tracing::info!(reset = left, "no relayed connection is left");
                    self.resolving.cancel();
                    tokio::time::timeout(CALLS, self.tasks.wait()).await.ok();
                };
                let told_again = async {
                    tokio::select! {
                        _ = watch.next() => {}
                        () = dismissed(self.successor.as_ref()) => {}
                    }
                };
                tokio::select! {
                    () = drained => {}
                    () = told_again => {
                        let left = drain(gateway, Duration::ZERO).await;
                        tracing::info!(reset = left, "told again to stop");
                    }
                }
            }
        }
    }

    /// Names what goes with the daemon.
    async fn name_all(&self, leaver: &Leaver) {
        for tunnel in self.tunnels.list() {
            leaver.tell(tunnel_text(&tunnel.host, &tunnel.container.name)).await;
        }
        for attached in self.ground.containers.list() {
            leaver.tell(container_text(&attached.container.name)).await;
        }
    }

    /// Answers whether the region is the successor's.
    async fn hand_over(&mut self, successor: Successor) -> anyhow::Result<bool> {
        let (pid, version) = (successor.pid, successor.version.clone());
        tracing::info!(pid, version, "a successor asks; nothing starts or stops meanwhile");
        let closed = self.gate.close().await;
        self.ground.machine.datapath.end_trace();
        self.tunnels.settle().await;
        for store in &self.stores {
            store.close();
        }
        let taken = async {
            successor.prepare(&self.holdings).await?;
            if let Some((member, _)) = &self.membership {
                member.pause();
            }
            successor.begin().await
        };
        match taken.await {
            Ok(()) => {
                closed.hand_over();
                self.successor = Some(successor);
                tracing::info!(pid, version, drain = ?self.drain, "the successor took over");
                Ok(true)
            }
            Err(error) => {
                tracing::error!(pid, version, %error, "the successor failed; this daemon goes on");
                // Whatever it still does, it hears no more from this one.
                drop(successor);
                self.take_back().await?;
                Ok(false)
            }
        }
    }

    /// Takes up the stores again, and puts right what the successor changed.
    async fn take_back(&self) -> anyhow::Result<()> {
        let pauses = ConstantBuilder::default().with_delay(PAUSE).without_max_times();
        let all = async || {
            for store in &self.stores {
                (async || store.reopen()).retry(pauses).await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(STORES, all())
            .await
            .context("a successor that failed keeps a store")??;
        self.ground.retake();
        if let Some((member, _)) = &self.membership {
            member.begin();
        }
        Ok(())
    }
}

/// When the successor says that everything ends; never if there is none.
async fn dismissed(successor: Option<&Successor>) {
    match successor {
        Some(successor) => successor.dismissed().await,
        None => std::future::pending().await,
    }
}

/// Lets relayed connections finish; answers how many were reset.
async fn drain(gateway: Option<&Relay>, grace: Duration) -> usize {
    match gateway {
        Some(gateway) => gateway.drain(grace).await,
        None => 0,
    }
}

/// Tells the region, unless what lives here goes on without this daemon: then it is away for a
/// short time only.
async fn leave(
    membership: Option<&(Arc<Member>, CancellationToken)>,
    empty: bool,
    ending: &Ending,
) {
    let Some((member, stop)) = membership else { return };
    match ending {
        Ending::TakenOver => {}
        Ending::ForGood(_) => member.stop().await,
        Ending::Restart | Ending::Failed(_) if empty => member.stop().await,
        Ending::Restart | Ending::Failed(_) => member.pause(),
    }
    stop.cancel();
}
