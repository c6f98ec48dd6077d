//! A gang: containers that are one cluster, begin together and end together.

mod living;
mod spread;

use std::{collections::BTreeMap, ffi::OsString, pin::pin, process::ExitCode, time::Duration};

use futures::future::try_join_all;

use self::living::{Cause, Gang, Member, Order, ending};
pub(super) use self::spread::called;
use super::program::{Container, Streams, broken, setup};
use crate::{
    cli::{Place, RunArgs, gang::Plan},
    commands::{
        client::{attach_request, connect},
        gather::{Gathering, end_member},
    },
    error::{Error, say},
    host::{init, programs, signals::Signals},
    region::names,
    wire::admin::{AttachRequest, GatherRequest, Resume},
};

/// The members of a cluster that one process starts.
pub(super) struct Part<'a> {
    place: &'a Place,
    /// What runs in each of them.
    command: Vec<OsString>,
    /// How many they are.
    here: u16,
    /// What each of them is. A name, if there is one, gets an index.
    container: AttachRequest,
    /// The cluster; with what others are to start, if this command starts all of it.
    cluster: GatherRequest,
    /// Whose streams the first of them has.
    first: Streams,
    /// What the lines of those without a terminal begin with, before the rank.
    label: String,
    timeout: Option<Duration>,
}

impl<'a> Part<'a> {
    /// What `edge run` was asked for.
    async fn of(place: &'a Place, args: &RunArgs, plan: Plan) -> Result<Self, Error> {
        let command = args.gang.command(args.command(), !args.command.is_empty())?;
        let Plan { size, here, spread } = plan;
        let here = match here {
            Some(here) => here,
            None if spread => spread::share(place, size).await?,
            None => size,
        };
        let mut container = AttachRequest { i6pn: true, ..attach_request(&args.container) };
        if here != size {
            // Others have the name as well.
            container.name.clear();
        }
        let launch = || spread::launch(&command, container.clone());
        let name = args.container.name.as_ref();
        let cluster = GatherRequest {
            name: name.map_or_else(|| names::id("g"), ToString::to_string),
            size: size.into(),
            wait: u64::try_from(args.gang.gather.as_millis()).unwrap_or(u64::MAX),
            launch: (here != size && spread).then(launch).transpose()?,
            ..GatherRequest::default()
        };
        let (first, label, timeout) = (Streams::Own, String::new(), args.timeout);
        Ok(Self { place, command, here, container, cluster, first, label, timeout })
    }

    /// Whether its end is that of members elsewhere.
    fn leads(&self) -> bool {
        self.cluster.launch.is_some()
    }
}

/// Runs the gang, or the part of it that is to be here, and returns the exit code of the lowest
/// rank here, or of whoever failed.
pub(super) async fn run(
    place: &Place,
    args: &RunArgs,
    plan: Plan,
    signals: &Signals,
) -> Result<ExitCode, Error> {
    members(&Part::of(place, args, plan).await?, signals).await
}

/// Runs these members, and returns the exit code of the lowest rank here, or of whoever failed.
async fn members(part: &Part<'_>, signals: &Signals) -> Result<ExitCode, Error> {
    // Sooner than it would be noticed: by then others may have begun.
    if let Some(program) = part.command.first() {
        programs::find(program)?;
    }
    let streams = |index| if index == 0 { part.first } else { Streams::Piped };
    let spawned = (0..part.here).map(|index| Container::spawn(&part.command, streams(index)));
    let mut containers = spawned.collect::<Result<Vec<_>, _>>()?;
    let mut early = Vec::new();
    let (cluster, members) = {
        let mut forming = pin!(form(&mut containers, part));
        loop {
            tokio::select! {
                formed = &mut forming => break formed?,
                received = signals.next() => match received.map_err(broken)? {
                    // Dropped, the containers die; and none has begun.
                    end if end.asks_to_end() => return Ok(ExitCode::from(128 + end.signal as u8)),
                    other => early.push(other),
                },
            }
        }
    };
    let mut gang = Gang::of(part, containers, members);
    early.into_iter().for_each(|received| gang.order(Order::PassOn(received)));
    let cause = gang.supervise(cluster, signals, part).await?;
    gang.farewell().await;
    let (members, ends) = gang.ends();
    match cause {
        Some(Cause::Elsewhere(error)) => Err(error),
        Some(Cause::Here(rank, status)) => {
            if members > 1 {
                say(format_args!("rank {rank} {}; its cluster has ended with it", ending(status)));
            }
            Ok(init::exit_code(status))
        }
        Some(Cause::Interrupted(signal)) => Ok(ExitCode::from(128 + signal as u8)),
        None => Ok(ends.values().next().copied().map_or(ExitCode::FAILURE, init::exit_code)),
    }
}

/// Attaches all containers, waits until the cluster is whole, and starts the programs.
async fn form(
    containers: &mut [Container],
    part: &Part<'_>,
) -> Result<(Gathering, Vec<Member>), Error> {
    let place = part.place;
    let client = connect(place).await?;
    let request = |index: usize| {
        let given = Some(&part.container.name).filter(|name| !name.is_empty());
        let name = given.map(|name| format!("{name}-{index}")).unwrap_or_default();
        AttachRequest { name, ..part.container.clone() }
    };
    let attaching = containers.iter_mut().enumerate();
    let attaching =
        attaching.map(|(index, container)| container.attach(client.clone(), place, request(index)));
    let (attached, holds): (Vec<_>, Vec<_>) = try_join_all(attaching).await?.into_iter().unzip();
    let proofs: Vec<_> = attached
        .iter()
        .map(|one| Resume {
            container: one.container.as_ref().map(|one| one.id.clone()).unwrap_or_default(),
            token: one.token.clone(),
        })
        .collect();
    let gather = GatherRequest { members: proofs.clone(), ..part.cluster.clone() };
    let (gathered, cluster) = Gathering::take(place, gather).await?;
    if part.leads() {
        spread::tell(&gathered.hosts);
    }
    let mut known: BTreeMap<_, _> =
        gathered.members.into_iter().map(|one| (one.container.clone(), one)).collect();
    let (mut starting, mut members) = (Vec::new(), Vec::new());
    let parts = containers.iter_mut().zip(attached).zip(holds).zip(proofs);
    for (((container, mut attached), hold), proof) in parts {
        let member = known.remove(&proof.container);
        let member = member.ok_or_else(|| broken("the daemon gave it no rank"))?;
        attached.environment.extend(member.environment);
        let (setup, own) = (setup(attached, place), proof.clone());
        starting.push(async { container.begin(setup).await.map_err(|error| (own, error)) });
        members.push(Member { rank: member.rank, proof, hold: Box::pin(hold.keep()) });
    }
    if let Err((member, error)) = try_join_all(starting).await {
        // Those elsewhere hear why.
        end_member(place, member, Some(format!("did not start: {error}"))).await;
        return Err(error);
    }
    Ok((cluster, members))
}
