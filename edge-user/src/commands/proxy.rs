//! `edge proxy`: static outbound addresses.

mod records;

use tonic::{Response, Status, transport::Channel};

use self::records::{HostRow, IpRecord, IpRow, Record, Row};
use super::{
    client::{channel, refusal},
    output,
};
use crate::{
    cli::{ListArgs, Place, ProxyCommand, proxy::Which},
    error::Error,
    wire::admin::{
        AddProxyIpRequest, CreateProxyRequest, DeleteProxyRequest, ListProxiesRequest, Proxy,
        RemoveProxyIpRequest, proxies_client::ProxiesClient,
    },
};

/// Does what is asked.
pub async fn proxy(place: &Place, command: ProxyCommand) -> Result<(), Error> {
    let mut client = ProxiesClient::new(channel(place).await?);
    match command {
        ProxyCommand::Create { which, ips, spread } => {
            let ips = ips.iter().map(ToString::to_string).collect();
            let request = CreateProxyRequest {
                workspace: which.workspace.to_string(),
                name: which.name.to_string(),
                ips,
                spread: spread.label().to_owned(),
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
    let (workspace, name) = (which.workspace.to_string(), which.name.to_string());
    let request = ListProxiesRequest { workspace, name, traffic: true };
    for proxy in listed(client, request).await? {
        let refused_packets = Some(proxy.refused);
        let record = Record { refused_packets, ..Record::from(proxy) };
        if list.json {
            return output::json(&record);
        }
        told_in_full(record)?;
    }
    Ok(())
}

/// An address a line; then why those are closed that are, and on a gateway the hosts that send.
fn told_in_full(record: Record) -> Result<(), Error> {
    let Record { workspace, ips, paths, refused_packets, .. } = record;
    let problem = |one: &IpRecord| Some(format!("{}: {}", one.ip, one.problem.as_ref()?));
    let problems: Vec<_> = ips.iter().filter_map(problem).collect();
    let none = "no addresses; `edge proxy add-ip` adds one";
    output::table(ips.into_iter().map(IpRow::from).collect(), none)?;
    for problem in problems {
        output::print(problem)?;
    }
    if let Some(packets) = refused_packets.filter(|packets| *packets > 0) {
        output::print(format_args!(
            "{packets} packets of workspace {workspace}'s containers here had no way out by a proxy"
        ))?;
    }
    let hosts: Vec<_> = paths.into_iter().filter(|path| path.toward == "host").collect();
    if hosts.is_empty() {
        return Ok(());
    }
    output::print("")?;
    output::table(hosts.into_iter().map(HostRow::from).collect(), "")
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
    let ips: Vec<_> =
        proxy.ips.iter().map(|one| format!("{} {}", records::shown(one), one.status)).collect();
    output::print(format_args!("proxy {}: {}", proxy.name, ips.join(", ")))
}
