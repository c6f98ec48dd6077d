//! `edge hosts`: the machines of the region.

use serde::Serialize;
use tabled::Tabled;

use super::{
    client::{connect, refusal},
    output::{self, or_dash},
};
use crate::{
    cli::{HostsArgs, HostsCommand, Place},
    error::Error,
    wire::admin::{ForgetHostRequest, Host, ListHostsRequest},
};

/// A machine as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    id: u32,
    role: String,
    alive: bool,
    version: String,
    underlay: Vec<String>,
    hook: String,
    mtu: u32,
    lag_ms: Option<u64>,
    blocks: Vec<String>,
    containers: u32,
    runs_members: u32,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    id: u32,
    role: String,
    alive: &'static str,
    underlay: String,
    hook: String,
    mtu: String,
    #[tabled(rename = "LAG MS")]
    lag: String,
    blocks: String,
    containers: u32,
    #[tabled(rename = "RUNS MEMBERS")]
    runs_members: String,
    version: String,
}

/// Lists the machines, or forgets one.
pub async fn hosts(place: &Place, args: HostsArgs) -> Result<(), Error> {
    let mut client = connect(place).await?;
    if let Some(HostsCommand::Forget { host }) = args.command {
        let forgotten = client.forget_host(ForgetHostRequest { id: host.into() }).await;
        forgotten.map_err(|status| refusal(&status))?;
        return output::print(format_args!("host {host} is forgotten; its addresses rest"));
    }
    let reply = client.list_hosts(ListHostsRequest {}).await;
    let hosts = reply.map_err(|status| refusal(&status))?.into_inner().hosts;
    if args.list.json {
        return output::json(&hosts.into_iter().map(Record::from).collect::<Vec<_>>());
    }
    output::table(hosts.into_iter().map(Row::from).collect(), "no gateway has told of any host yet")
}

impl From<Host> for Record {
    fn from(host: Host) -> Self {
        let Host { id, role, alive, version, underlay, hook, mtu, .. } = host;
        let Host { lag: lag_ms, blocks, containers, runs_members, .. } = host;
        Self {
            id,
            role,
            alive,
            version,
            underlay,
            hook,
            mtu,
            lag_ms,
            blocks,
            containers,
            runs_members,
        }
    }
}

impl From<Host> for Row {
    fn from(host: Host) -> Self {
        Self {
            id: host.id,
            role: host.role,
            alive: if host.alive { "yes" } else { "no" },
            underlay: or_dash(Some(&host.underlay.join(" "))),
            hook: or_dash(Some(&host.hook)),
            mtu: or_dash(
                Some(host.mtu).filter(|mtu| *mtu != 0).map(|mtu| mtu.to_string()).as_deref(),
            ),
            lag: or_dash(host.lag.map(|lag| lag.to_string()).as_deref()),
            blocks: or_dash(Some(&host.blocks.join(" "))),
            containers: host.containers,
            runs_members: or_dash(
                Some(host.runs_members)
                    .filter(|most| *most != 0)
                    .map(|most| most.to_string())
                    .as_deref(),
            ),
            version: host.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_nulls_are_stable() {
        let record = Record::from(Host { id: 3, role: "host".into(), ..Host::default() });
        let expected = serde_json::json!({
            "id": 3, "role": "host", "alive": false, "version": "", "underlay": [], "hook": "",
            "mtu": 0, "lag_ms": null, "blocks": [], "containers": 0,
            "runs_members": 0,
        });
        assert_eq!(serde_json::to_value(record).unwrap(), expected);
    }
}
