//! One container, from the call that attaches it to its end.

use std::{convert::Infallible, future::pending, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::answers::{attach_status, claim_status, describe, describe_tunnel, start_status, text};
use crate::{
    host::{
        api,
        containers::{Attached, Containers, Orphan, Request},
        steering::KernelSteering,
    },
    proxy::{
        keeper::Nudge,
        plan::{Problem, Standing},
    },
    region::{
        clusters::Clusters,
        gate::{Gate, Pass, TakenOver},
        tunnel::{Tunnel, TunnelOptions},
        tunnels::{Owner, StartError, Tunnels},
    },
    wire::admin::{self as wire, AttachEvent, Resume, attach_event::Event},
};

/// How long a container's start waits for its proxy.
const WAY_OUT: Duration = Duration::from_secs(5);
/// How often it looks.
const AGAIN: Duration = Duration::from_millis(20);

/// What the caller of Attach is told.
pub(super) type Events = mpsc::Sender<Result<AttachEvent, Status>>;
/// Ports that are public from the beginning.
pub(super) type Ports = Vec<(u16, TunnelOptions)>;

/// What lives and dies with a container.
#[derive(Clone)]
pub struct Lives {
    /// The host's containers.
    pub containers: Arc<Containers>,
    /// The region's tunnels.
    pub tunnels: Arc<Tunnels<KernelSteering>>,
    /// The clusters that containers are members of.
    pub clusters: Arc<Clusters>,
    /// What the kernel carries for them.
    pub steering: Arc<KernelSteering>,
    /// Keeps the ways of those that have a proxy.
    pub proxies: Nudge,
    /// Whether they are still this daemon's.
    pub gate: Gate,
    /// Where the daemon's keys and its store are.
    pub state_dir: PathBuf,
    /// What names of containers end with.
    pub dns_suffix: String,
    /// The daemon goes; containers stay for the next one.
    pub shutdown: CancellationToken,
    /// The daemon ends every container.
    pub ending: CancellationToken,
}

/// Why a container's life with this daemon is over.
enum End {
    /// Nobody holds it any more, or it never was whole.
    Left,
    /// The daemon was told to end everything.
    Ended,
    /// The daemon goes, and leaves it to the next one.
    Kept,
}

impl Lives {
    /// A new container, from the call that attaches it.
    pub(super) async fn attach(self, wanted: Request, ports: Ports, events: Events) {
        let pass = match self.gate.pass().await {
            Ok(pass) => pass,
            Err(error) => return taken_over(&events, error).await,
        };
        let attached = match self.containers.attach(wanted).await {
            Ok(attached) => attached,
            Err(error) => {
                tracing::info!(error = %text(&error), "not attached");
                // A caller that is gone needs no answer.
                events.send(Err(attach_status(&error))).await.ok();
                return;
            }
        };
        if attached.proxy.is_some() {
            self.way_out(&attached).await;
        }
        tracing::info!(id = attached.container.id, name = attached.container.name, "attached");
        self.hold(&attached, self.start(&attached, &ports).await, &events, pass).await;
    }

    /// Waits until what a new container sends leaves by its proxy: at once where the daemon knows
    /// the proxy and the way, else for a short time.
    async fn way_out(&self, attached: &Attached) {
        let through = async {
            loop {
                self.proxies.settled().await;
                let standing = self.containers.proxies().standing(&attached.container.id);
                match standing {
                    Some(
                        Standing::Through(_)
                        | Standing::Spread { .. }
                        | Standing::Closed(_, Problem::NotServed | Problem::Silent(_)),
                    ) => return,
                    _ => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        if tokio::time::timeout(WAY_OUT, through).await.is_err() {
            let name = &attached.container.name;
            tracing::warn!(name, "a container begins without egress; `edge containers` tells why");
        }
    }

    /// One that outlived an earlier daemon, from the call that claims it.
    pub(super) async fn resume(self, resume: Resume, ports: Ports, events: Events) {
        let pass = match self.gate.pass().await {
            Ok(pass) => pass,
            Err(error) => return taken_over(&events, error).await,
        };
        // Its owner may have given up waiting, and asks again: the container is for that call.
        if events.is_closed() {
            return;
        }
        let attached = match self.containers.claim(&resume.container, &resume.token) {
            Ok(attached) => attached,
            Err(error) => {
                tracing::info!(id = resume.container, error = %text(&error), "not claimed");
                events.send(Err(claim_status(&error))).await.ok();
                return;
            }
        };
        tracing::info!(id = attached.container.id, name = attached.container.name, "claimed");
        self.hold(&attached, Ok(self.resumed(&attached, &ports).await), &events, pass).await;
    }

    /// Puts this daemon's program on the wire of a container that was adopted. If that fails the
    /// container ends; answers whether it lives.
    pub async fn relink(&self, orphan: &Orphan) -> bool {
        let Err(error) = self.containers.relink(&orphan.attached) else { return true };
        let name = &orphan.attached.container.name;
        tracing::error!(name, error = text(&error), "a container could not be taken up");
        self.containers.give_up(&orphan.attached.container.id);
        self.end(&orphan.attached).await;
        false
    }

    /// One that outlived an earlier daemon and has no owner yet: waits for the claim, for so long.
    pub async fn orphan(self, orphan: Orphan, lease: Duration) {
        tokio::select! {
            biased;
            () = orphan.claimed.cancelled() => return,
            () = self.ending.cancelled() => {}
            () = self.shutdown.cancelled() => return,
            () = tokio::time::sleep(lease) => {}
        }
        let container = &orphan.attached.container;
        // A successor gives its owner a lease of its own.
        let Ok(_pass) = self.gate.pass().await else { return };
        // Whoever claims it from now on finds it gone.
        if self.containers.give_up(&container.id) {
            let (id, name) = (&container.id, &container.name);
            if !self.ending.is_cancelled() {
                tracing::warn!(id, name, ?lease, "nobody claimed the container within its lease");
            }
            self.end(&orphan.attached).await;
        }
    }

    async fn hold(
        &self,
        attached: &Attached,
        started: Result<Vec<Event>, Status>,
        events: &Events,
        pass: Pass,
    ) {
        // Before the caller is told: one that does not read must not keep the gate open.
        drop(pass);
        let end = match started {
            Ok(ready) => tokio::select! {
                biased;
                never = tell(events, ready) => match never {},
                () = self.ending.cancelled() => End::Ended,
                () = events.closed() => End::Left,
                () = self.shutdown.cancelled() => End::Kept,
            },
            Err(status) => {
                events.send(Err(status)).await.ok();
                End::Left
            }
        };
        match end {
            // The end of the call says so.
            End::Kept => return,
            End::Ended => {
                let name = &attached.container.name;
                let why = format!(
                    "container {name:?}: the daemon was stopped for good and ended it; start \
                     `edge up`, then attach again"
                );
                // A caller that does not read is not waited for.
                events.try_send(Err(Status::new(Code::Aborted, why))).ok();
            }
            End::Left => {}
        }
        // A successor finds that nobody claims it.
        if let Ok(_pass) = self.gate.pass().await {
            self.end(attached).await;
        }
    }

    async fn end(&self, attached: &Attached) {
        let container = &attached.container;
        // Of a member whose owner has said how it ended, nothing is new.
        self.clusters.end_member(&container.id, Some("is gone; see what started it")).await;
        self.tunnels.container_ended(container).await;
        self.containers.detach(attached).await;
        if attached.proxy.is_some() {
            self.proxies.soon();
        }
        tracing::info!(id = container.id, name = container.name, "ended");
    }

    /// Starts the tunnels of a new container; what the caller is to be told.
    async fn start(&self, attached: &Attached, ports: &Ports) -> Result<Vec<Event>, Status> {
        let mut ready = vec![Event::Attached(self.attached(attached))];
        for (port, options) in ports {
            let tunnel = self.tunnel(attached, *port, options).await;
            let tunnel = tunnel.map_err(|error| start_status(&error))?;
            ready.push(Event::Tunnel(describe_tunnel(&tunnel, &self.steering)));
        }
        Ok(ready)
    }

    /// Starts the tunnels that a container lost on the way from one daemon to the next. One that
    /// cannot be had is no reason to end what lives.
    async fn resumed(&self, attached: &Attached, ports: &Ports) -> Vec<Event> {
        let mut ready = vec![Event::Attached(self.attached(attached))];
        let mut made = self.tunnels.list();
        made.retain(|tunnel| tunnel.container.id == attached.container.id);
        for (port, options) in ports {
            let tunnel = match made.iter().find(|tunnel| tunnel.port == *port) {
                // It outlived the last daemon.
                Some(tunnel) => Ok(tunnel.clone()),
                None => self.tunnel(attached, *port, options).await,
            };
            ready.push(match tunnel {
                Ok(tunnel) => Event::Tunnel(describe_tunnel(&tunnel, &self.steering)),
                Err(error) => Event::Warning(format!("port {port}: no tunnel: {}", text(&error))),
            });
        }
        ready
    }

    async fn tunnel(
        &self,
        attached: &Attached,
        port: u16,
        options: &TunnelOptions,
    ) -> Result<Arc<Tunnel>, StartError> {
        let options = options.clone();
        self.tunnels.start(&attached.container, port.into(), options, Owner::Daemon, None).await
    }

    /// Names of the private network may be written without their zone.
    fn resolv_conf(&self, attached: &Attached) -> String {
        let mut text = format!("nameserver {}\n", api::SERVICE_ADDRESS);
        if attached.private {
            text += &format!("search {}.{}\n", attached.container.workspace, self.dns_suffix);
        }
        text
    }

    fn attached(&self, attached: &Attached) -> wire::Attached {
        wire::Attached {
            container: Some(describe(
                attached,
                self.containers.region().host(),
                self.containers.proxies(),
            )),
            environment: api::environment(&attached.container)
                .into_iter()
                .map(|(name, value)| wire::Variable { name, value })
                .collect(),
            resolv_conf: self.resolv_conf(attached),
            hidden: self.state_dir.to_str().map(str::to_owned).into_iter().collect(),
            token: attached.token.clone(),
        }
    }
}

/// Tells the caller, and returns never.
async fn tell(events: &Events, ready: Vec<Event>) -> Infallible {
    for event in ready {
        // A caller that is gone is noticed right after.
        events.send(Ok(AttachEvent { event: Some(event) })).await.ok();
    }
    pending().await
}

async fn taken_over(events: &Events, error: TakenOver) {
    events.send(Err(Status::unavailable(error.to_string()))).await.ok();
}
