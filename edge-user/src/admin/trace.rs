//! What is decided about packets, told to whoever asks for as long as the call lasts.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edge_common::{
    address::{Address, Endpoint},
    trace::{Event, Filter},
    verdict::{Hook, Verdict},
};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{answers::text, life::Lives, region::RegionPart};
use crate::{
    datapath::{self, Datapath, DatapathError, Heard, Trace},
    host::{api, containers::Containers, sys::watch_readable},
    wire::admin::{Decision, End, TraceEvent, TraceRequest},
};

/// How often the daemon looks without being woken. Each look costs the machine some wake-ups, its
/// listener's too; nobody reads faster.
const PERIOD: Duration = Duration::from_millis(200);
/// For a listener to take what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the caller of Trace is told.
pub(super) type Events = mpsc::Sender<Result<TraceEvent, Status>>;

/// Whose packets there are: what names them.
#[derive(Clone)]
pub(super) struct Known {
    containers: Arc<Containers>,
    region: Arc<RegionPart>,
}

/// Begins to listen.
///
/// # Errors
/// A request that makes no sense, another listener, or what the kernel said.
pub(super) async fn begin(
    request: &TraceRequest,
    lives: &Lives,
    datapath: &Arc<Datapath>,
    known: &Known,
) -> Result<Trace, Status> {
    let filter = known.filter(request)?;
    let pass = lives.gate.pass().await;
    let pass = pass.map_err(|error| Status::unavailable(error.to_string()))?;
    let datapath = datapath.clone();
    // The kernel verifies programs meanwhile. The pass goes along: a call that is broken off ends
    // no sooner.
    let begun = tokio::task::spawn_blocking(move || {
        let _pass = pass;
        datapath.trace(filter)
    });
    let begun = begun
        .await
        .map_err(|error| Status::internal(format!("trace: {error}; see the log of `edge up`")))?;
    begun.map_err(|error| refused(&error))
}

/// Tells what is heard, until the caller goes, the daemon goes, or another daemon takes over.
pub(super) async fn tell(
    mut trace: Trace,
    known: Known,
    events: Events,
    shutdown: CancellationToken,
) {
    let filling = match trace.filling().and_then(watch_readable) {
        Ok(filling) => filling,
        Err(error) => {
            let why = Status::internal(format!("trace: {error}; see the log of `edge up`"));
            events.try_send(Err(why)).ok();
            return;
        }
    };
    let mut ticks = tokio::time::interval(PERIOD);
    let (mut first, mut more) = (true, false);
    let why = loop {
        tokio::select! {
            biased;
            () = events.closed() => break None,
            () = shutdown.cancelled() => break Some(over("the daemon is ending")),
            () = std::future::ready(()), if more => {}
            () = wake(&filling) => {}
            _ = ticks.tick() => {}
        }
        let heard = match trace.hear() {
            Ok(Some(heard)) => heard,
            Ok(None) => break Some(over("another daemon is taking over")),
            Err(error) => break Some(refused(&error)),
        };
        if !first && heard.events.is_empty() && heard.lost == 0 {
            continue;
        }
        (first, more) = (false, heard.more);
        let told = events.send(Ok(known.describe(&heard)));
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            break Some(over("the listener does not read"));
        }
    };
    // Each interface takes the kernel a moment.
    tokio::task::spawn_blocking(move || drop(trace)).await.ok();
    if let Some(why) = why {
        // Who is gone needs no answer.
        events.try_send(Err(why)).ok();
    }
}

/// Until the kernel says that the ring buffer fills up. A runtime without a reactor never says so.
async fn wake(filling: &AsyncFd<OwnedFd>) {
    match filling.readable().await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_ends) => std::future::pending().await,
    }
}

fn over(why: &str) -> Status {
    Status::aborted(format!("trace: {why}; give the command again"))
}

fn refused(error: &DatapathError) -> Status {
    match error {
        DatapathError::Listened => Status::already_exists(format!("trace: {error}")),
        _ => Status::internal(format!("trace: {}", text(error))),
    }
}

impl Known {
    pub(super) fn new(containers: Arc<Containers>, region: Arc<RegionPart>) -> Self {
        Self { containers, region }
    }

    /// What is asked for, in numbers.
    fn filter(&self, request: &TraceRequest) -> Result<Filter, Status> {
        let mut filter = Filter { sample: request.sample, ..Filter::default() };
        for label in &request.verdicts {
            let known = Verdict::ALL.iter().find(|verdict| verdict.label() == label);
            let verdict = known.ok_or_else(|| {
                Status::invalid_argument(format!(
                    "verdict {label:?}: this daemon knows none of this name; restart it with the \
                     `edge` that you typed"
                ))
            })?;
            filter.verdicts |= 1 << *verdict as u32;
        }
        if request.verdicts.is_empty() {
            filter.verdicts = Filter::ALL_VERDICTS;
        }
        if !request.container.is_empty() {
            (filter.addresses, filter.ifindex) = self.find(&request.container)?;
        }
        Ok(filter)
    }

    /// A container's addresses, and its veth if it is here.
    fn find(&self, wanted: &str) -> Result<([Address; 2], u32), Status> {
        let is_it = |workspace: &str, name: &str, id: &str| {
            id == wanted || name == wanted || wanted.split_once('/') == Some((workspace, name))
        };
        let mut found = Vec::new();
        for one in self.containers.list() {
            let container = &one.container;
            if is_it(&container.workspace, &container.name, &container.id) {
                let addresses = [IpAddr::V4(container.ipv4), IpAddr::V6(container.i6pn)];
                found.push((addresses.map(Address::from), one.wired.ifindex));
            }
        }
        for one in self.region.other_containers() {
            if is_it(&one.workspace, &one.name, &one.id)
                && let (Ok(ipv4), Ok(i6pn)) =
                    (one.ipv4.parse::<IpAddr>(), one.i6pn.parse::<IpAddr>())
            {
                found.push(([ipv4, i6pn].map(Address::from), 0));
            }
        }
        match found[..] {
            [one] => Ok(one),
            [] => Err(Status::not_found(format!(
                "container {wanted:?}: there is none of this name; `edge containers` lists them"
            ))),
            _ => Err(Status::invalid_argument(format!(
                "container {wanted:?}: several workspaces have one; say WORKSPACE/NAME"
            ))),
        }
    }

    /// What was heard, in words.
    fn describe(&self, heard: &Heard) -> TraceEvent {
        if heard.events.is_empty() {
            return TraceEvent { lost: heard.lost, ..TraceEvent::default() };
        }
        let mut words = Words::new(self);
        let decisions = heard.events.iter().map(|event| words.decision(event)).collect();
        TraceEvent { decisions, lost: heard.lost }
    }
}

/// Names of this moment.
struct Words {
    owners: HashMap<Address, (String, String)>,
    interfaces: HashMap<u32, String>,
    /// Since 1970, when the machine started.
    started: u64,
}

impl Words {
    fn new(known: &Known) -> Self {
        let mut owners = HashMap::new();
        for one in known.region.other_containers() {
            for address in [&one.ipv4, &one.i6pn].into_iter().filter_map(|text| text.parse().ok()) {
                let address: IpAddr = address;
                owners.insert(address.into(), (one.workspace.clone(), one.name.clone()));
            }
        }
        for one in known.containers.list() {
            let container = &one.container;
            for address in [IpAddr::V4(container.ipv4), IpAddr::V6(container.i6pn)] {
                let owner = (container.workspace.clone(), container.name.clone());
                owners.insert(address.into(), owner);
            }
        }
        for own in [api::SERVICE_ADDRESS, known.containers.service_address()] {
            owners.insert(IpAddr::V4(own).into(), (String::new(), "edge".to_owned()));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = u64::try_from(since.as_nanos()).unwrap_or_default();
        let started = since.saturating_sub(datapath::now());
        Self { owners, interfaces: HashMap::new(), started }
    }

    fn decision(&mut self, event: &Event) -> Decision {
        let hook = Hook::ALL.get(event.hook as usize).map(|hook| hook.label());
        let verdict = Verdict::ALL.get(event.verdict as usize);
        let read = event.protocol != 0;
        let end = |end: &Endpoint, there: bool| there.then(|| self.end(end, event.protocol));
        let (source, destination) = (end(&event.source, read), end(&event.destination, read));
        let source_public = end(&event.beyond, event.beyond_of == Event::OF_SOURCE);
        let destination_container = end(&event.beyond, event.beyond_of == Event::OF_DESTINATION);
        Decision {
            time: self.started + event.time,
            hook: hook.unwrap_or_default().to_owned(),
            interface: self.interface(event.ifindex),
            verdict: verdict.map(|verdict| verdict.label()).unwrap_or_default().to_owned(),
            sentence: verdict.map(|verdict| verdict.sentence()).unwrap_or_default().to_owned(),
            source,
            destination,
            source_public,
            destination_container,
            protocol: protocol(event.protocol),
            bytes: event.bytes,
            out: self.interface(event.out),
            host: event.host,
        }
    }

    fn end(&self, end: &Endpoint, protocol: u32) -> End {
        let (workspace, container) = self.owners.get(&end.address).cloned().unwrap_or_default();
        let has_ports = matches!(protocol, 6 | 17);
        End {
            address: IpAddr::from(end.address).to_string(),
            port: if has_ports { end.port } else { 0 },
            workspace,
            container,
        }
    }

    /// One that is gone by now has its number for a name.
    fn interface(&mut self, index: u32) -> String {
        if index == 0 {
            return String::new();
        }
        let name = self.interfaces.entry(index).or_insert_with(|| {
            let name = nix::net::if_::if_indextoname(index);
            name.ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| index.to_string())
        });
        name.clone()
    }
}

/// As people call it.
fn protocol(number: u32) -> String {
    match number {
        0 => String::new(),
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}
