//! `edge proxy`: static outbound addresses.

use serde::Serialize;
use tabled::Tabled;
use tonic::{Response, Status, transport::Channel};

use super::{
    client::{channel, refusal},
    output::{self, or_dash},
};
use crate::{
    cli::{ListArgs, Place, ProxyCommand, proxy::Which},
    error::Error,
    wire::admin::{
        AddProxyIpRequest, CreateProxyRequest, DeleteProxyRequest, ListProxiesRequest, Proxy,
        ProxyIp, RemoveProxyIpRequest, proxies_client::ProxiesClient,
    },
};

/// A proxy as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    id: String,
    workspace: String,
    name: String,
    created: u64,
    ips: Vec<IpRecord>,
}

#[derive(Debug, Serialize)]
struct IpRecord {
    ip: String,
    status: String,
    created: u64,
    gateway: Option<u32>,
    containers: u32,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    workspace: String,
    name: String,
    id: String,
    ips: String,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct IpRow {
    ip: String,
    status: String,
    gateway: String,
    containers: u32,
}

/// Does what is asked.
pub async fn proxy(place: &Place, command: ProxyCommand) -> Result<(), Error> {
    let mut client = ProxiesClient::new(channel(place).await?);
    match command {
        ProxyCommand::Create { which, ips } => {
            let ips = ips.iter().map(ToString::to_string).collect();
            let request = CreateProxyRequest {
                workspace: which.workspace.to_string(),
                name: which.name.to_string(),
                ips,
            };
            told(client.create(request).await)
        }
        ProxyCommand::AddIp { which, ip } => {
            let Which { name, workspace } = which;
            let request = AddProxyIpRequest {
                workspace: workspace.to_string(),
                name: name.to_string(),
                ip: ip.to_string(),
            };
            told(client.add_ip(request).await)
        }
        ProxyCommand::RemoveIp { which, ip, drain } => {
            let request = RemoveProxyIpRequest {
                workspace: which.workspace.to_string(),
                name: which.name.to_string(),
                ip: ip.to_string(),
                drain: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
            };
            told(client.remove_ip(request).await)
        }
        ProxyCommand::Delete { which } => {
            let Which { name, workspace } = which;
            let request =
                DeleteProxyRequest { workspace: workspace.to_string(), name: name.to_string() };
            client.delete(request).await.map_err(|status| refusal(&status))?;
            output::print(format_args!("proxy {name} is deleted; its containers have no egress"))
        }
        ProxyCommand::List { list } => {
            let proxies = listed(&mut client, ListProxiesRequest::default()).await?;
            if list.json {
                return output::json(&proxies.into_iter().map(Record::from).collect::<Vec<_>>());
            }
            let none = "no proxies; `edge proxy create NAME --ip IP` makes one";
            output::table(proxies.into_iter().map(Row::from).collect(), none)
        }
        ProxyCommand::Show { which, list } => show(&mut client, which, list).await,
    }
}

async fn show(
    client: &mut ProxiesClient<Channel>,
    which: Which,
    list: ListArgs,
) -> Result<(), Error> {
    let request =
        ListProxiesRequest { workspace: which.workspace.to_string(), name: which.name.to_string() };
    for record in listed(client, request).await?.into_iter().map(Record::from) {
        if list.json {
            return output::json(&record);
        }
        let none = "no addresses; `edge proxy add-ip` adds one";
        output::table(record.ips.into_iter().map(IpRow::from).collect(), none)?;
    }
    Ok(())
}

async fn listed(
    client: &mut ProxiesClient<Channel>,
    request: ListProxiesRequest,
) -> Result<Vec<Proxy>, Error> {
    let reply = client.list(request).await;
    Ok(reply.map_err(|status| refusal(&status))?.into_inner().proxies)
}

/// What has become of a proxy, in a line.
fn told(changed: Result<Response<Proxy>, Status>) -> Result<(), Error> {
    let proxy = changed.map_err(|status| refusal(&status))?.into_inner();
    let ips: Vec<_> = proxy.ips.iter().map(|one| format!("{} {}", one.ip, one.status)).collect();
    output::print(format_args!("proxy {}: {}", proxy.name, ips.join(", ")))
}

impl From<Proxy> for Record {
    fn from(proxy: Proxy) -> Self {
        let Proxy { id, workspace, name, created, ips } = proxy;
        Self { id, workspace, name, created, ips: ips.into_iter().map(IpRecord::from).collect() }
    }
}

impl From<ProxyIp> for IpRecord {
    fn from(one: ProxyIp) -> Self {
        let gateway = Some(one.gateway).filter(|gateway| *gateway != 0);
        let ProxyIp { ip, status, created, containers, .. } = one;
        Self { ip, status, created, gateway, containers }
    }
}

impl From<Proxy> for Row {
    fn from(proxy: Proxy) -> Self {
        let ips: Vec<_> = proxy.ips.iter().map(|one| one.ip.as_str()).collect();
        let ips = or_dash(Some(&ips.join(" ")));
        Self { workspace: proxy.workspace, name: proxy.name, id: proxy.id, ips }
    }
}

impl From<IpRecord> for IpRow {
    fn from(one: IpRecord) -> Self {
        let gateway = or_dash(one.gateway.map(|gateway| gateway.to_string()).as_deref());
        Self { ip: one.ip, status: one.status, gateway, containers: one.containers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_nulls_are_stable() {
        let ips = vec![ProxyIp { ip: "192.0.2.1".into(), ..ProxyIp::default() }];
        let record = Record::from(Proxy { id: "pr-1".into(), ips, ..Proxy::default() });
        let expected = serde_json::json!({
            "id": "pr-1", "workspace": "", "name": "", "created": 0,
            "ips": [
                {"ip": "192.0.2.1", "status": "", "created": 0, "gateway": null, "containers": 0},
            ],
        });
        assert_eq!(serde_json::to_value(record).unwrap(), expected);
    }
}
