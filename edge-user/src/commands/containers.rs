//! `edge containers`: who is attached, and where.

use serde::Serialize;
use tabled::Tabled;

use super::{
    client::{connect, refusal},
    output::{self, non_empty, or_dash},
};
use crate::{
    cli::{OwnListArgs, Place},
    error::Error,
    wire::admin::{ClusterPlace, Container, ListContainersRequest},
};

/// A container as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    id: String,
    name: String,
    workspace: String,
    host: String,
    pid: Option<u32>,
    netns: String,
    ipv4: String,
    i6pn: String,
    proxy: Option<String>,
    proxy_ip: Option<String>,
    proxy_problem: Option<String>,
    egress: String,
    private: bool,
    cluster: Option<Cluster>,
}

/// What it is in its cluster.
#[derive(Debug, Serialize)]
struct Cluster {
    id: String,
    name: String,
    rank: u32,
    size: u32,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    workspace: String,
    name: String,
    id: String,
    host: String,
    pid: String,
    ipv4: String,
    i6pn: String,
    egress: String,
    #[tabled(display = "output::yes_or_dash")]
    private: bool,
    proxy: String,
    cluster: String,
}

/// Lists the containers.
pub async fn list(place: &Place, args: OwnListArgs) -> Result<(), Error> {
    let reply =
        connect(place).await?.list_containers(ListContainersRequest { region: args.region }).await;
    let containers = reply.map_err(|status| refusal(&status))?.into_inner().containers;
    if args.list.json {
        return output::json(&containers.into_iter().map(Record::from).collect::<Vec<_>>());
    }
    let none = "no containers; `edge run -- CMD` starts one";
    output::table(containers.into_iter().map(Row::from).collect(), none)
}

/// The first process; one that was attached by path has none.
fn pid(container: &Container) -> Option<u32> {
    Some(container.pid).filter(|pid| *pid != 0)
}

impl From<Container> for Record {
    fn from(container: Container) -> Self {
        Self {
            pid: pid(&container),
            id: container.id,
            name: container.name,
            workspace: container.workspace,
            host: container.host,
            netns: container.netns,
            ipv4: container.ipv4,
            i6pn: container.i6pn,
            proxy: non_empty(container.proxy),
            proxy_ip: container.proxy_ip,
            proxy_problem: container.proxy_problem,
            egress: container.egress,
            private: container.private,
            cluster: container.cluster.map(|place| Cluster {
                id: place.id,
                name: place.name,
                rank: place.rank,
                size: place.size,
            }),
        }
    }
}

impl From<Container> for Row {
    fn from(container: Container) -> Self {
        Self {
            pid: or_dash(pid(&container).map(|pid| pid.to_string()).as_deref()),
            workspace: container.workspace,
            name: container.name,
            id: container.id,
            host: container.host,
            ipv4: container.ipv4,
            i6pn: container.i6pn,
            egress: container.egress,
            private: container.private,
            proxy: proxy(&container.proxy, container.proxy_ip, container.proxy_problem),
            cluster: or_dash(container.cluster.map(cluster).as_deref()),
        }
    }
}

/// Its name, and the address, or why there is no egress.
fn proxy(name: &str, ip: Option<String>, problem: Option<String>) -> String {
    match problem.or(ip) {
        Some(more) => format!("{name} ({more})"),
        None => or_dash(Some(name)),
    }
}

/// Its name, the container's rank, and how many there are.
fn cluster(ClusterPlace { name, rank, size, .. }: ClusterPlace) -> String {
    format!("{name} {rank}/{size}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_nulls_are_stable() {
        let record = Record::from(Container { id: "co-1".into(), ..Container::default() });
        let expected = serde_json::json!({
            "id": "co-1", "name": "", "workspace": "", "host": "", "pid": null, "netns": "",
            "ipv4": "", "i6pn": "", "proxy": null, "proxy_ip": null, "proxy_problem": null,
            "egress": "", "private": false, "cluster": null,
        });
        assert_eq!(serde_json::to_value(record).unwrap(), expected);
    }
}
