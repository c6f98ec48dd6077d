//! Starts members of gangs that other machines of the region spread, if the operator lets them.
//!
//! Each share is a process of its own, which goes the way of `edge run`: it outlives this daemon,
//! and its members join, begin and end as all others do. So the daemon has only to take the share
//! on, and to say so if the process ends before its members have joined.

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    cli::{CALLED, Place},
    error::causes,
    region::{
        cluster::ClusterRecord,
        clusters::{Clusters, Known},
        member::{CallError, Member, patiently},
        spread::Share,
    },
    wire::admin::Launch,
};

/// How often a gateway is asked again that does not answer.
const ATTEMPTS: usize = 60;
/// Bytes of what a share's process says of its end.
const LAST_WORDS: u64 = 4096;

/// A machine's part in gangs of others.
pub struct Launcher {
    member: Arc<Member>,
    clusters: Arc<Clusters>,
    /// The daemon that the members are of.
    place: Place,
    /// Members that may run here for others, at a time; 0 if this machine takes no part.
    most: u16,
    /// Tells this daemon from the one before it.
    taker: u64,
}

impl Launcher {
    /// Of a machine that runs so many members for others.
    pub fn new(
        member: Arc<Member>,
        clusters: Arc<Clusters>,
        place: &Place,
        most: u16,
    ) -> Arc<Self> {
        Arc::new(Self { member, clusters, place: place.clone(), most, taker: rand::random() })
    }

    /// Takes on what this machine is asked for, until the shutdown.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut clusters = self.clusters.known();
        let mut begun = HashSet::new();
        loop {
            let known = clusters.borrow_and_update().clone();
            begun.retain(|id| known.values().any(|cluster| cluster.id == *id));
            for cluster in known.values() {
                if self.is_asked(cluster) && begun.insert(cluster.id.clone()) {
                    let (this, cluster) = (self.clone(), cluster.clone());
                    let (known, shutdown) = (known.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = this.serve(&cluster, &known) => {}
                            // What it started lives on.
                            () = shutdown.cancelled() => {}
                        }
                    });
                }
            }
            tokio::select! {
                changed = clusters.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Whether a cluster waits for members that this machine is to start.
    fn is_asked(&self, cluster: &ClusterRecord) -> bool {
        let waits = cluster.over.is_none() && !cluster.is_whole();
        waits && self.share(cluster).is_some_and(|share| share.taker.is_none())
    }

    fn share<'c>(&self, cluster: &'c ClusterRecord) -> Option<&'c Share> {
        cluster.shares.iter().find(|share| share.host == self.member.host())
    }

    /// From being asked to the end of what was started.
    async fn serve(&self, cluster: &ClusterRecord, known: &Known) {
        let Err(why) = self.start(cluster, known).await else { return };
        tracing::warn!(
            cluster = cluster.id,
            why,
            "members of another machine's gang did not end well"
        );
        if let Err(error) = self.member.refuse_share(&cluster.id, &why).await {
            // The others find out when they have waited long enough.
            tracing::warn!(cluster = cluster.id, %error, "the region does not hear of it");
        }
    }

    async fn start(&self, cluster: &ClusterRecord, known: &Known) -> Result<(), String> {
        let Some(share) = self.share(cluster) else { return Ok(()) };
        self.has_room(share, known)?;
        let take = || self.member.take_share(&cluster.id, self.taker);
        let launch = match patiently(ATTEMPTS, take).await {
            Ok(launch) => launch,
            Err(CallError::Refused { code: Code::NotFound | Code::AlreadyExists, text }) => {
                // It is over, or a daemon before this one has taken it on.
                tracing::info!(cluster = cluster.id, text, "a share is not taken on");
                return Ok(());
            }
            Err(error) => return Err(causes(&error)),
        };
        let launch = Launch::decode(&*launch).map_err(|_unreadable| {
            "what to start cannot be read; run one version of edge everywhere".to_owned()
        })?;
        tracing::info!(
            cluster = cluster.id,
            name = cluster.name,
            count = share.count,
            "starts members of another machine's gang"
        );
        let mut process = self.spawn(cluster, share.count, launch).await?;
        let (status, words) = end(&mut process).await.map_err(|error| error.to_string())?;
        tracing::info!(cluster = cluster.id, %status, "members of another machine's gang have ended");
        match words {
            _ if status.success() => Ok(()),
            words if words.is_empty() => {
                Err(format!("their process ended ({status}); see the log there"))
            }
            words => Err(words),
        }
    }

    /// Whether the operator lets so many run here, beside those that do.
    fn has_room(&self, share: &Share, known: &Known) -> Result<(), String> {
        if self.most == 0 {
            return Err("it takes no part; start its daemon with --runs-members".to_owned());
        }
        let running = known.values().filter(|cluster| cluster.over.is_none());
        let running = running.filter_map(|cluster| self.share(cluster));
        let taken =
            running.filter(|share| share.taker.is_some()).map(|share| u32::from(share.count)).sum();
        let room = u32::from(self.most).saturating_sub(taken);
        if u32::from(share.count) > room {
            return Err(format!(
                "it has room for {room} more of {} members, not for {}; give it a larger --runs-members",
                self.most, share.count
            ));
        }
        Ok(())
    }

    /// Starts the process of a share, in the directory and with the environment of who asks.
    async fn spawn(
        &self,
        cluster: &ClusterRecord,
        count: u16,
        launch: Launch,
    ) -> Result<Child, String> {
        let directory = PathBuf::from(OsString::from_vec(launch.directory));
        if let Err(error) = directory.read_dir() {
            return Err(format!(
                "working directory {}: {error}; make it there, or give the command in one that all hosts have",
                directory.display()
            ));
        }
        let environment = launch.environment.into_iter();
        let environment =
            environment.map(|one| (OsString::from_vec(one.name), OsString::from_vec(one.value)));
        let run_dir = self.place.run_dir();
        let run_dir = run_dir.canonicalize().unwrap_or(run_dir);
        let mut process = Command::new("/proc/self/exe")
            .args(["--instance", self.place.instance.as_str(), "--run-dir"])
            .arg(run_dir)
            .args([CALLED, "--cluster", &cluster.id, "--name", &cluster.name])
            .args(["--size", &cluster.size.to_string(), "--here", &count.to_string()])
            .arg("--")
            .args(launch.command.into_iter().map(OsString::from_vec))
            .env_clear()
            .envs(environment)
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the daemon, which then ends the containers.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("its process: {error}; see `ulimit -u`, and whether command and environment are too long"))?;
        let container = launch.container.unwrap_or_default().encode_to_vec();
        if let Some(mut stdin) = process.stdin.take() {
            // One that ends at once says why by itself.
            stdin.write_all(&container).await.ok();
        }
        Ok(process)
    }
}

/// Waits for a process's end, and for what it said of it.
async fn end(process: &mut Child) -> io::Result<(ExitStatus, String)> {
    let mut words = Vec::new();
    if let Some(stdout) = process.stdout.take() {
        stdout.take(LAST_WORDS).read_to_end(&mut words).await?;
    }
    let status = process.wait().await?;
    Ok((status, String::from_utf8_lossy(&words).into_owned()))
}
