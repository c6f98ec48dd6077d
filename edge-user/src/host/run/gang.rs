//! A gang: containers that are one cluster, begin together and end together.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    deadline::{Deadline, Step},
    program::{Container, Streams, broken, setup},
    relay, timed_out,
};
use crate::{
    cli::{Place, RunArgs, gang::Plan},
    commands::{
        client::{attach_request, connect},
        gather::{Gathering, end_member},
    },
    error::{Error, say},
    host::{
        init,
        signals::{Received, Signals},
    },
    region::names,
    wire::admin::{AttachRequest, GatherRequest, Resume},
};

/// For what programs printed last.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs the gang, or the part of it that is to be here, and returns the exit code of the lowest
/// rank here, or of whoever failed.
pub(super) async fn run(
    place: &Place,
    args: &RunArgs,
    plan: Plan,
    signals: &Signals,
) -> Result<ExitCode, Error> {
    let command = args.gang.command(args.command(), !args.command.is_empty())?;
    let streams = |index| if index == 0 { Streams::Own } else { Streams::Piped };
    let spawned = (0..plan.here).map(|index| Container::spawn(&command, streams(index)));
    let mut containers = spawned.collect::<Result<Vec<_>, _>>()?;
    let mut early = Vec::new();
    let (cluster, members) = {
        let mut forming = pin!(form(&mut containers, place, args, plan));
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
    let mut gang = Gang::of(place, containers, members);
    early.into_iter().for_each(|received| gang.order(Order::PassOn(received)));
    let cause = gang.supervise(cluster, signals, args).await?;
    gang.farewell().await;
    match cause {
        Some(Cause::Elsewhere(error)) => Err(error),
        Some(Cause::Here(rank, status)) => {
            if gang.members > 1 {
                say(format_args!("rank {rank} {}; its cluster has ended with it", ending(status)));
            }
            Ok(init::exit_code(status))
        }
        None => {
            Ok(gang.ends.values().next().map_or(ExitCode::FAILURE, |end| init::exit_code(*end)))
        }
    }
}

/// A container that is a member.
struct Member {
    rank: u32,
    proof: Resume,
    hold: Held,
}

/// Something that goes on beside the rest, in the same thread.
type Task<T> = Pin<Box<dyn Future<Output = T>>>;
/// Until the daemon no longer keeps a container.
type Held = Task<Error>;

/// Attaches all containers, waits until the cluster is whole, and starts the programs.
async fn form(
    containers: &mut [Container],
    place: &Place,
    args: &RunArgs,
    plan: Plan,
) -> Result<(Gathering, Vec<Member>), Error> {
    let client = connect(place).await?;
    let all_here = plan.here == plan.size;
    let request = |index: usize| {
        let given = args.container.name.as_ref().filter(|_| all_here);
        let name = given.map(|name| format!("{name}-{index}")).unwrap_or_default();
        AttachRequest { name, i6pn: true, ..attach_request(&args.container) }
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
    let name = args.container.name.as_ref();
    let gather = GatherRequest {
        name: name.map_or_else(|| names::id("g"), ToString::to_string),
        size: plan.size.into(),
        members: proofs.clone(),
        wait: u64::try_from(args.gang.gather.as_millis()).unwrap_or(u64::MAX),
    };
    let (gathered, cluster) = Gathering::take(place, gather).await?;
    let mut known: BTreeMap<_, _> =
        gathered.members.into_iter().map(|one| (one.container.clone(), one)).collect();
    let (mut starting, mut members) = (Vec::new(), Vec::new());
    let parts = containers.iter_mut().zip(attached).zip(holds).zip(proofs);
    for (((container, mut attached), hold), proof) in parts {
        let member = known.remove(&proof.container);
        let member = member.ok_or_else(|| broken("the daemon gave it no rank"))?;
        attached.environment.extend(member.environment);
        starting.push(container.begin(setup(attached, place)));
        members.push(Member { rank: member.rank, proof, hold: Box::pin(hold.keep()) });
    }
    try_join_all(starting).await?;
    Ok((cluster, members))
}

/// What all programs of the gang are to hear.
#[derive(Debug, Clone, Copy)]
enum Order {
    PassOn(Received),
    Step(Step),
}

/// Why a cluster is over.
enum Cause {
    /// This rank ended so.
    Here(u32, ExitStatus),
    /// As the daemon says.
    Elsewhere(Error),
}

/// The running members on this machine.
struct Gang {
    place: Place,
    members: usize,
    running: FuturesUnordered<Task<Result<End, Error>>>,
    /// The daemon hears of their ends.
    leaving: FuturesUnordered<Task<()>>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    relays: Vec<JoinHandle<()>>,
    ends: BTreeMap<u32, ExitStatus>,
}

/// A member whose program has ended.
struct End {
    member: Member,
    status: ExitStatus,
}

impl Gang {
    fn of(place: &Place, containers: Vec<Container>, members: Vec<Member>) -> Self {
        let mut gang = Self {
            place: place.clone(),
            members: members.len(),
            running: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
            orders: Vec::new(),
            relays: Vec::new(),
            ends: BTreeMap::new(),
        };
        for (mut container, member) in containers.into_iter().zip(members) {
            if let Some((stdout, stderr)) = container.output() {
                gang.relays.push(tokio::spawn(relay::lines(member.rank, stdout)));
                gang.relays.push(tokio::spawn(relay::lines(member.rank, stderr)));
            }
            let (orders, heard) = mpsc::unbounded_channel();
            gang.orders.push(orders);
            gang.running.push(Box::pin(live(container, member, heard)));
        }
        gang
    }

    /// Until all programs here have ended; returns why, if not by themselves and well.
    async fn supervise(
        &mut self,
        cluster: Gathering,
        signals: &Signals,
        args: &RunArgs,
    ) -> Result<Option<Cause>, Error> {
        let mut over = pin!(cluster.keep().fuse());
        let mut limit = Deadline::after(args.timeout);
        let mut ending = Deadline::after(None);
        let mut cause = None;
        while !(self.running.is_empty() && self.leaving.is_empty()) {
            let first = tokio::select! {
                Some(end) = self.running.next() => self.ended(end?),
                Some(()) = self.leaving.next() => None,
                received = signals.next() => {
                    self.order(Order::PassOn(received.map_err(broken)?));
                    None
                }
                // Of a cluster whose members have all ended well nothing is known any more.
                error = &mut over, if !self.running.is_empty() => Some(Cause::Elsewhere(error)),
                step = limit.passed() => { self.order(Order::Step(step)); None }
                step = ending.passed() => { self.order(Order::Step(step)); None }
            };
            if cause.is_none() && first.is_some() {
                cause = first;
                ending = Deadline::after(Some(Duration::ZERO));
            }
        }
        if limit.has_passed() { Err(timed_out(args)) } else { Ok(cause) }
    }

    fn order(&self, order: Order) {
        for one in &self.orders {
            // One that has ended needs none.
            one.send(order).ok();
        }
    }

    fn ended(&mut self, End { member, status }: End) -> Option<Cause> {
        let rank = member.rank;
        self.ends.insert(rank, status);
        let failure =
            (!status.success()).then(|| format!("{}; see what it printed", ending(status)));
        let place = self.place.clone();
        self.leaving.push(Box::pin(async move {
            end_member(&place, member.proof, failure).await;
            // Only now may the container go.
            drop(member.hold);
        }));
        (!status.success()).then_some(Cause::Here(rank, status))
    }

    /// What was printed last is printed.
    async fn farewell(&mut self) {
        tokio::time::timeout(FAREWELL, join_all(self.relays.drain(..))).await.ok();
    }
}

/// Until a member's program ends. Without its daemon's keeping it is none, and is ended.
async fn live(
    mut container: Container,
    mut member: Member,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<End, Error> {
    let mut kept = true;
    loop {
        tokio::select! {
            status = container.ended() => return Ok(End { member, status: status? }),
            Some(order) = orders.recv() => match order {
                Order::PassOn(received) => container.pass_on(received).await,
                Order::Step(Step::Signal(signal)) => container.signal(signal).await,
                Order::Step(Step::Destroy) => container.destroy()?,
            },
            error = &mut member.hold, if kept => {
                kept = false;
                say(format_args!("rank {}: {error}", member.rank));
                container.destroy()?;
            }
        }
    }
}

/// How a program ended, in words.
fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;

    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
