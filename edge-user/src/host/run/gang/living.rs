//! The members of a cluster on this machine, from when their programs run to when all have ended.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    process::ExitStatus,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use nix::sys::signal::Signal;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Part;
use crate::{
    cli::Place,
    commands::gather::{Gathering, end_member},
    error::{Error, say},
    host::{
        run::{
            deadline::{Deadline, Step},
            program::{Container, broken},
            relay, timed_out,
        },
        signals::{Received, Signals},
    },
    wire::admin::Resume,
};

/// For what programs printed last.
const FAREWELL: Duration = Duration::from_secs(1);

/// A container that is a member.
pub(super) struct Member {
    pub(super) rank: u32,
    pub(super) proof: Resume,
    pub(super) hold: Held,
}

/// Something that goes on beside the rest, in the same thread.
type Task<T> = Pin<Box<dyn Future<Output = T>>>;
/// Until the daemon no longer keeps a container.
pub(super) type Held = Task<Error>;

/// What all programs of the gang are to hear.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    PassOn(Received),
    Step(Step),
}

/// Why a cluster is over.
pub(super) enum Cause {
    /// This rank ended so.
    Here(u32, ExitStatus),
    /// As the daemon says.
    Elsewhere(Error),
    /// The command that started all of it was told to end.
    Interrupted(Signal),
}

/// The running members on this machine.
pub(super) struct Gang {
    place: Place,
    members: usize,
    running: FuturesUnordered<Task<Result<End, Error>>>,
    /// The daemon hears of their ends.
    leaving: FuturesUnordered<Task<()>>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    relays: Vec<JoinHandle<()>>,
    ends: BTreeMap<u32, ExitStatus>,
    lead: Option<Lead>,
}

/// What the first member is to the others when its command started all of them: of its good end
/// the region hears last, so whatever ends it or this command ends them.
#[derive(Default)]
struct Lead {
    /// It has ended well, and the others run.
    ended: Option<Member>,
    /// Why they are to end, too, however well it ends.
    stop: Option<&'static str>,
}

/// A member whose program has ended.
struct End {
    member: Member,
    status: ExitStatus,
}

impl Gang {
    pub(super) fn of(part: &Part<'_>, containers: Vec<Container>, members: Vec<Member>) -> Self {
        let mut gang = Self {
            place: part.place.clone(),
            members: members.len(),
            running: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
            orders: Vec::new(),
            relays: Vec::new(),
            ends: BTreeMap::new(),
            lead: part.leads().then(Lead::default),
        };
        for (mut container, member) in containers.into_iter().zip(members) {
            if let Some((stdout, stderr)) = container.output() {
                let label = format!("[{}{}] ", part.label, member.rank);
                gang.relays.push(tokio::spawn(relay::lines(label.clone(), stdout)));
                gang.relays.push(tokio::spawn(relay::lines(label, stderr)));
            }
            let (orders, heard) = mpsc::unbounded_channel();
            gang.orders.push(orders);
            gang.running.push(Box::pin(live(container, member, heard)));
        }
        gang
    }

    /// Until all programs here have ended, and those elsewhere that this command started; returns
    /// why, if not by themselves and well.
    pub(super) async fn supervise(
        &mut self,
        cluster: Gathering,
        signals: &Signals,
        part: &Part<'_>,
    ) -> Result<Option<Cause>, Error> {
        let others_ended = CancellationToken::new();
        let mut over = pin!(cluster.keep(others_ended.clone()).fuse());
        let mut limit = Deadline::after(part.timeout);
        let mut ending = Deadline::after(None);
        let (mut cause, mut interrupted) = (None, None);
        while !(self.running.is_empty() && self.leaving.is_empty() && !self.awaits_others()) {
            let first = tokio::select! {
                Some(end) = self.running.next() => self.ended(end?),
                Some(()) = self.leaving.next() => None,
                received = signals.next() => {
                    let received = received.map_err(broken)?;
                    if received.asks_to_end() {
                        self.stop("has ended with its command, which was interrupted");
                        interrupted = Some(received.signal);
                    }
                    self.order(Order::PassOn(received));
                    None
                }
                () = others_ended.cancelled(), if self.awaits_others() && self.running.is_empty() => {
                    self.release();
                    None
                }
                // Of a cluster whose members have all ended well nothing is known any more.
                error = &mut over, if !self.running.is_empty() || self.awaits_others() => {
                    Some(Cause::Elsewhere(error))
                }
                step = limit.passed() => {
                    self.stop("has ended with its command, whose --timeout has passed");
                    self.order(Order::Step(step));
                    None
                }
                step = ending.passed() => { self.order(Order::Step(step)); None }
            };
            if cause.is_none() && first.is_some() {
                cause = first;
                ending = Deadline::after(Some(Duration::ZERO));
                // Whoever asks hears of the first reason.
                self.stop("has ended with its cluster");
            }
        }
        if limit.has_passed() {
            return Err(timed_out(&part.command, part.timeout));
        }
        let interrupted = interrupted.filter(|_| self.lead.is_some()).map(Cause::Interrupted);
        Ok(cause.or(interrupted))
    }

    pub(super) fn order(&self, order: Order) {
        for one in &self.orders {
            // One that has ended needs none.
            one.send(order).ok();
        }
    }

    /// How many there were, and how each ended, by rank.
    pub(super) fn ends(&self) -> (usize, &BTreeMap<u32, ExitStatus>) {
        (self.members, &self.ends)
    }

    /// What was printed last is printed.
    pub(super) async fn farewell(&mut self) {
        tokio::time::timeout(FAREWELL, join_all(self.relays.drain(..))).await.ok();
    }

    fn ended(&mut self, End { member, status }: End) -> Option<Cause> {
        let rank = member.rank;
        self.ends.insert(rank, status);
        if !status.success() {
            self.leave(member, Some(format!("{}; see what it printed", ending(status))));
            return Some(Cause::Here(rank, status));
        }
        match &mut self.lead {
            Some(lead) if rank == 0 => {
                lead.ended = Some(member);
                if lead.stop.is_some() {
                    self.release();
                }
            }
            _ => self.leave(member, None),
        }
        None
    }

    /// Whether the first member has ended well, and others run that this command started.
    fn awaits_others(&self) -> bool {
        self.lead.as_ref().is_some_and(|lead| lead.ended.is_some())
    }

    /// All members are to end, wherever they are.
    fn stop(&mut self, why: &'static str) {
        if let Some(lead) = &mut self.lead {
            lead.stop.get_or_insert(why);
            self.release();
        }
    }

    /// Lets the region hear of the first member's end.
    fn release(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        let why = lead.stop.map(str::to_owned);
        if let Some(member) = lead.ended.take() {
            self.leave(member, why);
        }
    }

    fn leave(&mut self, member: Member, failure: Option<String>) {
        let place = self.place.clone();
        self.leaving.push(Box::pin(async move {
            end_member(&place, member.proof, failure).await;
            // Only now may the container go.
            drop(member.hold);
        }));
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
pub(super) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;

    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
