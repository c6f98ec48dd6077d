//! A gang whose members other machines start, too: what the command that starts it tells them, and
//! the process that starts a machine's share.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::unix::ffi::OsStringExt as _,
    process::ExitCode,
};

use prost::Message as _;

use super::{Part, Streams, members};
use crate::{
    cli::{CalledArgs, Place},
    commands::client::{connect, refusal},
    error::{Error, Kind, say},
    host::{run::program::broken, signals::Signals},
    wire::admin::{AttachRequest, GatherRequest, Launch, ListHostsRequest, Setting, StatusRequest},
};

/// How long members wait for the others, in milliseconds: a day. Whoever asked for them ends it
/// sooner, when that is in vain.
const WAIT: u64 = 24 * 3600 * 1000;

/// How many members are to be here if nobody says: as many as elsewhere.
pub(super) async fn share(place: &Place, size: u16) -> Result<u16, Error> {
    let mut client = connect(place).await?;
    let own = client.status(StatusRequest {}).await.map_err(|status| refusal(&status))?;
    let own = own.into_inner().host;
    let hosts = client.list_hosts(ListHostsRequest {}).await.map_err(|status| refusal(&status))?;
    let hosts = hosts.into_inner().hosts.into_iter();
    let others = hosts.filter(|host| host.alive && host.id != own && host.runs_members > 0);
    // Without any, whoever is asked for the rest says so.
    let machines = u16::try_from(others.count().max(1)).unwrap_or(u16::MAX).saturating_add(1);
    Ok(size.div_ceil(machines))
}

/// What other machines are to start: this command, as it would be started here.
pub(super) fn launch(command: &[OsString], container: AttachRequest) -> Result<Launch, Error> {
    let directory = env::current_dir().map_err(|error| {
        let remedy = "give the command in a directory that is there, on every host";
        Error::new(Kind::Refused, "working directory", error, remedy)
    })?;
    let environment = env::vars_os()
        .map(|(name, value)| Setting { name: name.into_vec(), value: value.into_vec() });
    Ok(Launch {
        command: command.iter().cloned().map(OsString::into_vec).collect(),
        directory: directory.into_os_string().into_vec(),
        environment: environment.collect(),
        container: Some(container),
    })
}

/// Tells the person at the terminal where the others are.
pub(super) fn tell(hosts: &[u32]) {
    let mut ranks = BTreeMap::<u32, Vec<String>>::new();
    for (rank, host) in hosts.iter().enumerate().filter(|(_, host)| Some(*host) != hosts.first()) {
        ranks.entry(*host).or_default().push(rank.to_string());
    }
    for (host, ranks) in ranks {
        let (noun, list) = (if ranks.len() == 1 { "rank" } else { "ranks" }, ranks.join(", "));
        say(format_args!("{noun} {list} on host {host}; its daemon's log has what they print"));
    }
}

/// Runs a machine's share of a gang, which the daemon here was asked to start. What the container
/// is comes by stdin; the first reason why it did not go well goes to stdout, for the daemon.
pub(in crate::host::run) async fn called(
    place: &Place,
    args: &CalledArgs,
    signals: &Signals,
) -> Result<ExitCode, Error> {
    let run = async {
        let mut container = Vec::new();
        io::stdin().read_to_end(&mut container).map_err(broken)?;
        let container = AttachRequest::decode(&*container).map_err(broken)?;
        let cluster = GatherRequest {
            name: args.name.clone(),
            size: args.size.into(),
            wait: WAIT,
            cluster: args.cluster.clone(),
            ..GatherRequest::default()
        };
        let part = Part {
            place,
            command: args.command.clone(),
            here: args.here,
            container,
            cluster,
            first: Streams::Piped,
            label: format!("{} ", args.name),
            timeout: None,
        };
        members(&part, signals).await
    };
    run.await.inspect_err(|error| {
        // A daemon that is gone finds out by the members' absence.
        write!(io::stdout(), "{error}").ok();
    })
}
